"""Ledger of paid answers: `Ledger` stores them with attempts, batches and money; `read_summary` looks from outside.

`_tables` holds the SQL, `_writer` the thread that groups commits.
"""

from __future__ import annotations

from kdtool_ledger._ledger import About, Attempt, Batch, Ledger
from kdtool_ledger._summary import Summary, Unanswered, has_answer, read_summary

__all__ = ["About", "Attempt", "Batch", "Ledger", "Summary", "Unanswered", "has_answer", "read_summary"]
