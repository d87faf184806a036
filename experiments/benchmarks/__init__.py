"""Measurements, one file a question: run by hand, ratios taken in one process."""
