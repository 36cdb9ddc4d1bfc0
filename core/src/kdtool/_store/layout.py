"""Names of files and folders in the shared store and in the folders of runs."""

from __future__ import annotations

GRAPH = "graph.json"
"""The file in a run's folder that holds what `Graph.record` returns."""
MODEL = "model"
"""The folder of a model inside its artefact."""
SHARED_KINDS = ("text", "teachers", "students", "rows", "signals")
"""Kinds of artefacts in the store that runs share."""
OWN_KINDS = ("phases", "exports", "scores")
"""Kinds of artefacts in a run's folder; those of controls may be in the store, and scores of teachers are."""
PRIVATE_KINDS = ("text", "rows", "signals", "scores")
"""Kinds of artefacts with prompts and answers: only their owner can read them, in the store and in runs."""
STORE_MARK = "kdtool-store.json"
"""The file that marks a folder as a store that runs share."""
RESULTS = "results.json"
"""The file in a run's folder that holds its `Results`."""
TASKS = "tasks"
"""The folder in a run's folder for the processes in which an executor makes its stages."""
PLACES = "places.json"
"""The file in `TASKS` with the title, the host and the process of each stage that is being made."""
EVENTS = "events.jsonl"
"""The file in a run's folder that holds its events, a line for each."""
