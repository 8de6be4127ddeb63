"""Serving: what takes a model out of the notebook."""
