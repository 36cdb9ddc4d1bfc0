"""Ledger of paid answers: `Ledger` stores them with attempts, batches and money; `read_summary` looks from outside.

`_tables` holds the SQL, `_writer` the thread that groups commits, `_seal` the file that shows missing commits; `_whole`
finds damage, and `mend_ledger` ends it.
"""

from __future__ import annotations

from kdtool_ledger._ledger import About, Attempt, Batch, Ledger
from kdtool_ledger._mend import Mended, mend_ledger
from kdtool_ledger._summary import Summary, Unanswered, check_ledger, has_answer, read_summary

__all__ = [
    "About",
    "Attempt",
    "Batch",
    "Ledger",
    "Mended",
    "Summary",
    "Unanswered",
    "check_ledger",
    "has_answer",
    "mend_ledger",
    "read_summary",
]
