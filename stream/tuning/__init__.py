"""Fitting what is there to its job: int8 models, thresholds, tracker and counting settings chosen on validation data."""
