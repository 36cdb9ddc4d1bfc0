"""Checks before a run makes anything; `kdtool check` and `kdtool run` share them."""
