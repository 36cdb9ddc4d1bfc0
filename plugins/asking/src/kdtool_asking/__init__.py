"""Library for plugins that ask models: requests, stored answers, and their cost. Not a plugin.

- `Templates` finds, checks and renders the Jinja templates of a recipe (`_templates`); `Turns` is a rendered request
- `collect_answers` asks a subject and stores its answers (`_answers`, `_journal`)
- `ask_teacher` does so for a teacher whose answers become training text (`_teacher`)
- `Priced` is the base class of teachers whose answers cost money, and `priced_teacher` finds them (`_priced`)
- `Account` sums up those answers for `kdtool_account` (`_account`), and `Pace` shows lines on progress (`_pace`)
- `Ledger` stores paid answers with attempts, batches and money (`_ledger`); `read_summary` reads it from outside
  (`_summary`). `_tables` contains the SQL, `_writer` the thread that groups commits, `_seal` the file that shows missing
  commits; `_whole` finds damage, and `mend_ledger` repairs it
"""

from __future__ import annotations

from kdtool_asking._account import Account
from kdtool_asking._answers import (
    Answer,
    Counting,
    bytes_to_answer,
    cannot,
    collect_answers,
    file_of,
    fit_prompt,
    measure_missing_answers,
    open_for_measuring,
    seed_of,
)
from kdtool_asking._journal import Journal, journal
from kdtool_asking._ledger import About, Attempt, Batch, Ledger
from kdtool_asking._mend import Mended, mend_ledger
from kdtool_asking._pace import Pace
from kdtool_asking._priced import Priced, priced_teacher
from kdtool_asking._summary import Summary, Unanswered, check_ledger, has_answer, read_summary
from kdtool_asking._teacher import ask_teacher, kept_answers, refusal_remedy
from kdtool_asking._templates import Template, Templates, Turns

__all__ = [
    "About",
    "Account",
    "Answer",
    "Attempt",
    "Batch",
    "Counting",
    "Journal",
    "Ledger",
    "Mended",
    "Pace",
    "Priced",
    "Summary",
    "Template",
    "Templates",
    "Turns",
    "Unanswered",
    "ask_teacher",
    "bytes_to_answer",
    "cannot",
    "check_ledger",
    "collect_answers",
    "file_of",
    "fit_prompt",
    "has_answer",
    "journal",
    "kept_answers",
    "measure_missing_answers",
    "mend_ledger",
    "open_for_measuring",
    "priced_teacher",
    "read_summary",
    "refusal_remedy",
    "seed_of",
]
