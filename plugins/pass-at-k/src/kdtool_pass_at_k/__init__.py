"""What benchmarks share whose answers are programs: samples of a subject, their verdicts, pass@k. A library, no plugin.

An evaluator extends `PassAtK` and gives its problems. Answers come from the opened subject (`_samples`), programs are run in
kdtool's sandbox (`_verdicts`), and both are on disk before the next one counts: a killed run repeats no finished sample.
`code_of` and `verdicts_of` are for others, too, who ask for programs and run them.
"""

from __future__ import annotations

from kdtool_measuring import Kind, check_fields, records_of, unpacked

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
    "records_of",
    "unpacked",
    "verdicts_of",
]
