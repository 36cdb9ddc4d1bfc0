"""Intervals and significance of measured items."""
