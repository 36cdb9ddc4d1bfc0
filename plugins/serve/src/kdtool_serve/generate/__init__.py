"""`kdtool generate`: use the models of a run from the command line."""

from __future__ import annotations
