"""Runs: what is kept on disk of a training, and how it is found again."""
