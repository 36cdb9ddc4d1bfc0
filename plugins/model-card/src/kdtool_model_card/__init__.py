"""Model cards of a run's exported files, in the form of the Hugging Face Hub.

An exporter describes its own file when it writes it (`Artifact.card`): title, shape, precision and licences, by
`model_card`. `complete_card` adds the results at the end of the run. `build_card` does so for several files of a repository.
`known_terms` and `terms_of` tell what the licence of a published model asks.

`_front_matter` writes the metadata, `_limits` use and limits, `_origin` recipe and data, `_measured` the tables, `_use` code
to copy, `_ollama` the `Modelfile`, and `_eval_results` the Hub's file of scores.
"""

from __future__ import annotations

from kdtool_model_card._build import build_card, complete_card
from kdtool_model_card._card_file import CardFile
from kdtool_model_card._eval_results import eval_results
from kdtool_model_card._exported_card import model_card, write_notices
from kdtool_model_card._licences import card_name, known_terms, licence_of, terms_of
from kdtool_model_card._ollama import modelfile

__all__ = [
    "CardFile", "build_card", "card_name", "complete_card", "eval_results", "known_terms", "licence_of", "model_card",
    "modelfile", "terms_of", "write_notices",
]  # fmt: skip
