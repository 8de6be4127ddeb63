"""Widgets: upload box, training panel and camera; they do only what the package's functions do."""
