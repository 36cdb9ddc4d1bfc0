"""Text to train on: corpora that fetch or generate it, filters that judge it, and `kdtool data`, which inspects it.

Every component is in its own module, and importing this package imports none of them.
"""
