"""Measures: frames of scores and texts in, figures out."""
