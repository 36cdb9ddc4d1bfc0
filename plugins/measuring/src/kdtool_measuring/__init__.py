"""Library for evaluators: documents, test sets, and measurements with intervals. Not a plugin.

- `DocumentEvaluator` is the base of evaluators of held-out documents (`_documents`); `score_texts` scores texts
- `held_out` selects documents, and `digest` identifies the selection (`_items`)
- `records_of` and `choose` read test sets (`_published`)
- `make_measurement` turns items into a measurement; the core compares subjects
- `bytes_of_exact_heads` predicts the memory of the head for logits in float32 (`_exact_heads`)
"""

from __future__ import annotations

from kdtool_measuring._documents import DocumentEvaluator, score_texts, unfit_to_score
from kdtool_measuring._exact_heads import bytes_of_exact_heads
from kdtool_measuring._items import Document, Item, digest, held_out, make_measurement, text_of, without_text
from kdtool_measuring._published import Kind, check_fields, choose, read_and_hash, records_of

__all__ = [
    "Document",
    "DocumentEvaluator",
    "Item",
    "Kind",
    "bytes_of_exact_heads",
    "check_fields",
    "choose",
    "digest",
    "held_out",
    "make_measurement",
    "read_and_hash",
    "records_of",
    "score_texts",
    "text_of",
    "unfit_to_score",
    "without_text",
]
