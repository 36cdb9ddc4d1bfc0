"""Measuring existing models, without training: `kdtool.evaluate` and the command `kdtool eval`."""
