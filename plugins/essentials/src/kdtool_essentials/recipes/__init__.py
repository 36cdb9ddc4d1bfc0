"""The recipes that `kdtool run NAME` and `extends: NAME` find anywhere."""
