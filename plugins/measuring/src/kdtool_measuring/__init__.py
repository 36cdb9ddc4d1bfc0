"""Library for plugins that ask models or measure them: requests, stored answers and their cost, scores. Not a plugin.

- `DocumentEvaluator` is the base of evaluators of held-out documents; `held_out` selects documents, `digest` identifies the
  selection, and `score_texts` scores texts
- `make_measurement` turns items into a measurement with an interval; the core compares subjects
- `records_of` and `choose` read published test sets
- `AnsweringRuntime` answers by a teacher's server, and `readable` and `cut_at_stops` clean what such a server returns
- `collect_answers` asks a subject and stores its answers; `ask_teacher` does so for a teacher whose answers become training
  text, with `Account` for their sums
- `Templates` renders the Jinja templates of a package; `Turns` is a rendered request
- `Priced` is the base class of teachers whose answers cost money, and `priced_teacher` finds them
- `Ledger` stores paid answers with attempts, batches and money; `read_summary` reads it from outside
- `bytes_of_exact_heads` predicts the memory of the head for logits in float32
"""

from __future__ import annotations

from kdtool_measuring.answers import Answer as Answer
from kdtool_measuring.answers import AnsweringRuntime as AnsweringRuntime
from kdtool_measuring.answers import Counting as Counting
from kdtool_measuring.answers import bytes_to_answer as bytes_to_answer
from kdtool_measuring.answers import collect_answers as collect_answers
from kdtool_measuring.answers import cut_at_stops as cut_at_stops
from kdtool_measuring.answers import file_of as file_of
from kdtool_measuring.answers import fit_prompt as fit_prompt
from kdtool_measuring.answers import measure_missing_answers as measure_missing_answers
from kdtool_measuring.answers import readable as readable
from kdtool_measuring.answers import seed_of as seed_of
from kdtool_measuring.benchmarks import Kind as Kind
from kdtool_measuring.benchmarks import check_fields as check_fields
from kdtool_measuring.benchmarks import choose as choose
from kdtool_measuring.benchmarks import read_and_hash as read_and_hash
from kdtool_measuring.benchmarks import read_lines as read_lines
from kdtool_measuring.benchmarks import records_of as records_of
from kdtool_measuring.journals import Journal as Journal
from kdtool_measuring.journals import journal as journal
from kdtool_measuring.ledger import About as About
from kdtool_measuring.ledger import Attempt as Attempt
from kdtool_measuring.ledger import Batch as Batch
from kdtool_measuring.ledger import Ledger as Ledger
from kdtool_measuring.ledger_checks import Summary as Summary
from kdtool_measuring.ledger_checks import Unanswered as Unanswered
from kdtool_measuring.ledger_checks import has_answer as has_answer
from kdtool_measuring.ledger_checks import read_summary as read_summary
from kdtool_measuring.measurements import Document as Document
from kdtool_measuring.measurements import DocumentEvaluator as DocumentEvaluator
from kdtool_measuring.measurements import Item as Item
from kdtool_measuring.measurements import bytes_of_exact_heads as bytes_of_exact_heads
from kdtool_measuring.measurements import cannot as cannot
from kdtool_measuring.measurements import digest as digest
from kdtool_measuring.measurements import held_out as held_out
from kdtool_measuring.measurements import make_measurement as make_measurement
from kdtool_measuring.measurements import open_for_measuring as open_for_measuring
from kdtool_measuring.measurements import score_texts as score_texts
from kdtool_measuring.measurements import text_of as text_of
from kdtool_measuring.measurements import unfit_to_score as unfit_to_score
from kdtool_measuring.measurements import without_text as without_text
from kdtool_measuring.teachers import Account as Account
from kdtool_measuring.teachers import AskingProgress as AskingProgress
from kdtool_measuring.teachers import Priced as Priced
from kdtool_measuring.teachers import ask_teacher as ask_teacher
from kdtool_measuring.teachers import kept_answers as kept_answers
from kdtool_measuring.teachers import priced_teacher as priced_teacher
from kdtool_measuring.teachers import refusal_remedy as refusal_remedy
from kdtool_measuring.templates import Templates as Templates
from kdtool_measuring.templates import Turns as Turns
