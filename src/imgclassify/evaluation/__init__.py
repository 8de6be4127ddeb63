"""Evaluation: measurements on labelled pictures, and calibration."""
