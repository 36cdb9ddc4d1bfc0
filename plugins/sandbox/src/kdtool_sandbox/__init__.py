"""A sandbox for generated programs, for evaluators and filters. A library, not a plugin.

    with Sandbox(workers=2) as sandbox:
        for verdict in sandbox.run(tasks):
            ...

docs/sandbox.md describes its protection and its limits.
"""

from __future__ import annotations

from kdtool_sandbox._language import Language, installed_languages, language, locate
from kdtool_sandbox._pace import slowness
from kdtool_sandbox._reference import EVALPLUS_NUMPY, against_reference
from kdtool_sandbox._sandbox import Engine, Sandbox, missing
from kdtool_sandbox._solution import module_like
from kdtool_sandbox._task import ENDING, Isolation, Module, Program, Status, Step, Task, Verdict

__all__ = [
    "ENDING",
    "EVALPLUS_NUMPY",
    "Engine",
    "Isolation",
    "Language",
    "Module",
    "Program",
    "Sandbox",
    "Status",
    "Step",
    "Task",
    "Verdict",
    "against_reference",
    "installed_languages",
    "language",
    "locate",
    "missing",
    "module_like",
    "slowness",
]
