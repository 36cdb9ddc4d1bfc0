"""Model cards of a run's exported files, in the form of the Hugging Face Hub.

An exporter describes its own file when it writes it (`Artifact.card`): title, shape, precision and licences.
`complete_card` adds the results at the end of the run. `build_card` does so for several files of a repository.

`_front_matter` writes the metadata, `_limits` use and limits, `_origin` recipe and data, `_measured` the tables, `_use` code
to copy, and `_eval_results` the Hub's file of scores.
"""

from __future__ import annotations

from kdtool_model_card._build import build_card, complete_card
from kdtool_model_card._eval_results import eval_results
from kdtool_model_card._use import CardFile, modelfile

__all__ = ["CardFile", "build_card", "complete_card", "eval_results", "modelfile"]
