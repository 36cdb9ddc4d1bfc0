"""Library for benchmarks of programs: samples of a subject, their verdicts, pass@k. Not a plugin.

An evaluator extends `PassAtK` and returns its problems. `_samples` asks the opened subject, `_verdicts` runs the programs in
kdtool's sandbox, and both store each result before the next one counts: a resumed run repeats no finished sample. Other
plugins that ask for programs and run them use `code_of` and `verdicts_of`.
"""

from __future__ import annotations

from kdtool_measuring import Kind, check_fields, read_and_hash, records_of

from kdtool_pass_at_k._code import code_of
from kdtool_pass_at_k._estimator import pass_at_k
from kdtool_pass_at_k._evalplus import EVALPLUS
from kdtool_pass_at_k._evaluator import PassAtK
from kdtool_pass_at_k._problem import Form, Limits, Problem
from kdtool_pass_at_k._verdicts import Judged, verdicts_of

__all__ = [
    "EVALPLUS",
    "Form",
    "Judged",
    "Kind",
    "Limits",
    "PassAtK",
    "Problem",
    "check_fields",
    "code_of",
    "pass_at_k",
    "read_and_hash",
    "records_of",
    "verdicts_of",
]
