"""Measuring models that are there already, without training: `kdtool.evaluate` and the command `kdtool eval`."""
