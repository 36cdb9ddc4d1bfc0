"""Measuring models that are there already, without training: `kdtool.evaluate` and the command `kdtool eval`.

- `models` what was given to measure: model folders, exported files, runs
- `recipe` the recipe of a run that only measures
- `evaluate` the function
- `measure` the run: text, scores, comparison, report

It is a run like any other, in a folder of its own: it goes on where it stopped, and `kdtool compare` reads it.
"""
