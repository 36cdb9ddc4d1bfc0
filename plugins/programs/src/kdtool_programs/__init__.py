"""Library for plugins that ask for programs and run them: the sandbox, verdicts, pass@k. Not a plugin.

    with Sandbox(workers=2) as sandbox:
        for verdict in sandbox.run(tasks):
            ...

`Sandbox` runs programs; docs/sandbox.md describes its protection and its limits. An evaluator extends `PassAtK` and returns
its problems: `_samples` asks the opened subject, `_verdicts` runs the programs, and both store each result before the next
one counts, so that a resumed run repeats no finished sample. Other plugins that ask for programs use `code_of`,
`continuation_of` and `verdicts_of`.
"""

from __future__ import annotations

from kdtool_programs._code import code_of
from kdtool_programs._config import PassAtKConfig
from kdtool_programs._continuation import completed_names, continuation_of
from kdtool_programs._errors import SandboxError
from kdtool_programs._estimator import pass_at_k
from kdtool_programs._evalplus import EVALPLUS
from kdtool_programs._evaluator import PassAtK
from kdtool_programs._language import Language, installed_languages, language, locate
from kdtool_programs._pace import slowness
from kdtool_programs._problem import Form, Limits, Problem
from kdtool_programs._problem_with_tests import ProblemWithTests, problem_with_tests
from kdtool_programs._reference import EVALPLUS_NUMPY, against_reference
from kdtool_programs._samples import Sample, collect_samples
from kdtool_programs._sandbox import Engine, Sandbox, missing
from kdtool_programs._solution import module_like
from kdtool_programs._task import ENDING, Isolation, Module, Program, Status, Step, Task, Verdict
from kdtool_programs._verdicts import Judged, verdicts_of

__all__ = [
    "ENDING",
    "EVALPLUS",
    "EVALPLUS_NUMPY",
    "Engine",
    "Form",
    "Isolation",
    "Judged",
    "Language",
    "Limits",
    "Module",
    "PassAtK",
    "PassAtKConfig",
    "Problem",
    "ProblemWithTests",
    "Program",
    "Sample",
    "Sandbox",
    "SandboxError",
    "Status",
    "Step",
    "Task",
    "Verdict",
    "against_reference",
    "code_of",
    "collect_samples",
    "completed_names",
    "continuation_of",
    "installed_languages",
    "language",
    "locate",
    "missing",
    "module_like",
    "pass_at_k",
    "problem_with_tests",
    "slowness",
    "verdicts_of",
]
