"""Library for plugins that ask models or measure them: requests, stored answers and their cost, scores. Not a plugin.

- `DocumentEvaluator` is the base of evaluators of held-out documents; `held_out` selects documents, `digest` identifies the
  selection, and `score_texts` scores texts
- `make_measurement` turns items into a measurement with an interval; the core compares subjects
- `records_of` and `choose` read published test sets
- `collect_answers` asks a subject and stores its answers; `ask_teacher` does so for a teacher whose answers become training
  text, with `Account` for their sums and `Pace` for lines on progress
- `Templates` finds, checks and renders the Jinja templates of a recipe; `Turns` is a rendered request
- `Priced` is the base class of teachers whose answers cost money, and `priced_teacher` finds them
- `Ledger` stores paid answers with attempts, batches and money; `read_summary` reads it from outside
- `bytes_of_exact_heads` predicts the memory of the head for logits in float32
"""

from __future__ import annotations

from kdtool_measuring.answers import (
    Answer,
    Counting,
    bytes_to_answer,
    collect_answers,
    file_of,
    fit_prompt,
    measure_missing_answers,
    seed_of,
)
from kdtool_measuring.benchmarks import Kind, check_fields, choose, read_and_hash, records_of
from kdtool_measuring.journals import Journal, journal
from kdtool_measuring.ledger import About, Attempt, Batch, Ledger
from kdtool_measuring.ledger_checks import Summary, Unanswered, check_ledger, has_answer, read_summary
from kdtool_measuring.measurements import (
    Document,
    DocumentEvaluator,
    Item,
    bytes_of_exact_heads,
    cannot,
    digest,
    held_out,
    make_measurement,
    open_for_measuring,
    score_texts,
    text_of,
    unfit_to_score,
    without_text,
)
from kdtool_measuring.teachers import Account, Pace, Priced, ask_teacher, kept_answers, priced_teacher, refusal_remedy
from kdtool_measuring.templates import Template, Templates, Turns

__all__ = [
    "About",
    "Account",
    "Answer",
    "Attempt",
    "Batch",
    "Counting",
    "Document",
    "DocumentEvaluator",
    "Item",
    "Journal",
    "Kind",
    "Ledger",
    "Pace",
    "Priced",
    "Summary",
    "Template",
    "Templates",
    "Turns",
    "Unanswered",
    "ask_teacher",
    "bytes_of_exact_heads",
    "bytes_to_answer",
    "cannot",
    "check_fields",
    "check_ledger",
    "choose",
    "collect_answers",
    "digest",
    "file_of",
    "fit_prompt",
    "has_answer",
    "held_out",
    "journal",
    "kept_answers",
    "make_measurement",
    "measure_missing_answers",
    "open_for_measuring",
    "priced_teacher",
    "read_and_hash",
    "read_summary",
    "records_of",
    "refusal_remedy",
    "score_texts",
    "seed_of",
    "text_of",
    "unfit_to_score",
    "without_text",
]
