"""Library for plugins that ask for programs and run them: the sandbox, verdicts, pass@k. Not a plugin.

    with Sandbox(workers=2) as sandbox:
        for verdict in sandbox.run(tasks):
            ...

`Sandbox` runs programs; docs/sandbox.md describes its protection and its limits. An evaluator extends `PassAtK` and returns
its problems: the base class asks the opened subject, runs the programs, and stores each result before the next one counts,
so that a resumed run repeats no finished sample. Other plugins that ask for programs use `code_of`, `continuation_of` and
`verdicts_of`.
"""

from __future__ import annotations

from kdtool_programs.evaluator import PassAtK, pass_at_k
from kdtool_programs.extraction import code_of, completed_names, continuation_of
from kdtool_programs.languages import Language, installed_languages, language, locate
from kdtool_programs.problems import (
    EVALPLUS,
    EVALPLUS_NUMPY,
    Form,
    Limits,
    Problem,
    ProblemWithTests,
    against_reference,
    module_like,
    problem_with_tests,
)
from kdtool_programs.samples import Judged, PassAtKConfig, Sample, collect_samples, verdicts_of
from kdtool_programs.sandbox import Engine, Sandbox, missing
from kdtool_programs.tasks import (
    ENDING,
    Isolation,
    Module,
    Program,
    SandboxError,
    Status,
    Step,
    Task,
    Verdict,
    slowness,
)

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
