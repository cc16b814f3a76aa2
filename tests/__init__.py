"""Tests: Google's clients against the offline twin."""
