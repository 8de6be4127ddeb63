"""Widgets: upload box, training panel and camera; each does nothing that the package's functions do not do."""
