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

from kdtool_programs.evaluator import PassAtK as PassAtK
from kdtool_programs.evaluator import pass_at_k as pass_at_k
from kdtool_programs.extraction import code_of as code_of
from kdtool_programs.extraction import completed_names as completed_names
from kdtool_programs.extraction import continuation_of as continuation_of
from kdtool_programs.languages import Language as Language
from kdtool_programs.languages import installed_languages as installed_languages
from kdtool_programs.languages import language as language
from kdtool_programs.languages import locate as locate
from kdtool_programs.problems import EVALPLUS as EVALPLUS
from kdtool_programs.problems import EVALPLUS_NUMPY as EVALPLUS_NUMPY
from kdtool_programs.problems import Form as Form
from kdtool_programs.problems import Limits as Limits
from kdtool_programs.problems import Problem as Problem
from kdtool_programs.problems import ProblemWithTests as ProblemWithTests
from kdtool_programs.problems import after as after
from kdtool_programs.problems import module_like as module_like
from kdtool_programs.problems import problem_with_tests as problem_with_tests
from kdtool_programs.samples import Judged as Judged
from kdtool_programs.samples import verdicts_of as verdicts_of
from kdtool_programs.sandbox import Engine as Engine
from kdtool_programs.sandbox import Sandbox as Sandbox
from kdtool_programs.sandbox import missing as missing
from kdtool_programs.tasks import ENDING as ENDING
from kdtool_programs.tasks import Isolation as Isolation
from kdtool_programs.tasks import Module as Module
from kdtool_programs.tasks import Program as Program
from kdtool_programs.tasks import SandboxError as SandboxError
from kdtool_programs.tasks import Status as Status
from kdtool_programs.tasks import Step as Step
from kdtool_programs.tasks import Task as Task
from kdtool_programs.tasks import Verdict as Verdict
from kdtool_programs.tasks import slowness as slowness
from kdtool_programs.view import find_packages as find_packages
