"""What evaluators share: what is asked, what was answered, and measurements with intervals. A library, no plugin.

`DocumentEvaluator` is the base of evaluators of documents, which `held_out` chooses and `digest` names, and `score_texts` a
subject's log-likelihoods of texts; `records_of` and `chosen` read test sets (`_published`);
`answered` asks a subject and keeps its answers (`_answers`, `_journal`), `ask_teacher` a teacher whose answers are learned
(`_teacher`); `measured` makes a measurement of items. Comparing subjects is the core's.
"""

from __future__ import annotations

from kdtool_measuring._answers import (
    Answer,
    Counting,
    answered,
    bytes_of_exact_heads,
    bytes_to_answer,
    cannot,
    file_of,
    fitted,
    opened,
    seed_of,
    unanswered,
)
from kdtool_measuring._documents import DocumentEvaluator, score_texts, unfit_to_score
from kdtool_measuring._items import Document, Item, digest, held_out, measured, text_of, without_text
from kdtool_measuring._journal import Journal, journal
from kdtool_measuring._published import Kind, check_fields, chosen, records_of, unpacked
from kdtool_measuring._teacher import ask_teacher, kept_answers, mending

__all__ = [
    "Answer",
    "Counting",
    "Document",
    "DocumentEvaluator",
    "Item",
    "Journal",
    "Kind",
    "answered",
    "ask_teacher",
    "bytes_of_exact_heads",
    "bytes_to_answer",
    "cannot",
    "check_fields",
    "chosen",
    "digest",
    "file_of",
    "fitted",
    "held_out",
    "journal",
    "kept_answers",
    "measured",
    "mending",
    "opened",
    "records_of",
    "score_texts",
    "seed_of",
    "text_of",
    "unanswered",
    "unfit_to_score",
    "unpacked",
    "without_text",
]
