"""Library for evaluators: test sets, stored answers, and measurements with intervals. Not a plugin.

- `DocumentEvaluator` is the base of evaluators of held-out documents (`_documents`); `score_texts` scores texts
- `held_out` selects documents, and `digest` identifies the selection
- `records_of` and `choose` read test sets (`_published`)
- `collect_answers` asks a subject and stores its answers (`_answers`, `_journal`)
- `ask_teacher` does so for a teacher whose answers become training text (`_teacher`)
- `Pace` shows lines on its progress (`_pace`)
- `Account` sums up those answers for `kdtool_account` (`_account`)
- `make_measurement` turns items into a measurement; the core compares subjects
"""

from __future__ import annotations

from kdtool_measuring._account import Account
from kdtool_measuring._answers import (
    Answer,
    Counting,
    bytes_of_exact_heads,
    bytes_to_answer,
    cannot,
    collect_answers,
    file_of,
    fit_prompt,
    measure_missing_answers,
    open_for_measuring,
    seed_of,
)
from kdtool_measuring._documents import DocumentEvaluator, score_texts, unfit_to_score
from kdtool_measuring._items import Document, Item, digest, held_out, make_measurement, text_of, without_text
from kdtool_measuring._journal import Journal, journal
from kdtool_measuring._pace import Pace
from kdtool_measuring._published import Kind, check_fields, choose, read_and_hash, records_of
from kdtool_measuring._teacher import ask_teacher, kept_answers, refusal_remedy

__all__ = [
    "Account",
    "Answer",
    "Counting",
    "Document",
    "DocumentEvaluator",
    "Item",
    "Journal",
    "Kind",
    "Pace",
    "ask_teacher",
    "bytes_of_exact_heads",
    "bytes_to_answer",
    "cannot",
    "check_fields",
    "choose",
    "collect_answers",
    "digest",
    "file_of",
    "fit_prompt",
    "held_out",
    "journal",
    "kept_answers",
    "make_measurement",
    "measure_missing_answers",
    "open_for_measuring",
    "read_and_hash",
    "records_of",
    "refusal_remedy",
    "score_texts",
    "seed_of",
    "text_of",
    "unfit_to_score",
    "without_text",
]
