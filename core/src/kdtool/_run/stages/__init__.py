"""The kinds of artefacts: text, rows and signals, untrained students, phases, exports and scores, one subject per module."""

from __future__ import annotations
