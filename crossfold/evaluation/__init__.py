"""Scores, intervals, calibration, cross-validation and the test split."""
