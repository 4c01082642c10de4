"""Scores: pure functions of NumPy arrays, without torch and without logging."""
