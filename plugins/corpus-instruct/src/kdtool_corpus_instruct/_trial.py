"""Run the tests that a teacher wrote with its answers, in the sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import kdtool

from kdtool_corpus_instruct._answers import code_of

if TYPE_CHECKING:
    from kdtool_programs import Module, Program, Task

    from kdtool_corpus_instruct._candidates import Candidate
    from kdtool_corpus_instruct._config import InstructConfig

__all__ = ["run_tests"]

_ERROR = 1_000
"""Characters from the end of an error that go back to the teacher."""


def run_tests(
    run: kdtool.RunInfo, config: InstructConfig, file: Path, candidates: Sequence[Candidate]
) -> list[Candidate]:
    """Return the candidates, rejected if their tests fail.

    Args:
        run: the run, for messages.
        config: time limit and workers.
        file: journal of the verdicts; verdicts in it are reused.
        candidates: those with tests are run, unless they are already rejected.

    Raises:
        SandboxError: programs cannot be run safely here.
    """
    from kdtool_programs import Task, verdicts_of

    judged = {candidate.request.id: candidate for candidate in candidates}
    tasks: dict[str, list[Task]] = {}
    for candidate in candidates:
        if candidate.parts is None or not candidate.parts.tests:
            continue
        key, parts, language = candidate.request.id, candidate.parts, candidate.slot.cell.language
        work = _work(code_of(parts.response, language), parts.tests, language)
        if isinstance(work, str):
            judged[key] = candidate.reject(f"tests: {language} does not parse", work)
        else:
            tasks.setdefault(language, []).append(Task(key, work, config.seconds))
    verdicts = verdicts_of(run, file, tasks, config.workers) if tasks else {}
    for key, verdict in verdicts.items():
        if not verdict.has_passed:
            error = f"its tests fail: {verdict.reason} {verdict.stderr}".strip()[-_ERROR:]
            reason = f"tests: {verdict.reason.partition(':')[0].strip() or verdict.status}"
            judged[key] = judged[key].reject(reason[:80], error)
    return list(judged.values())


def _work(code: str, tests: str, language: str) -> Module | Program | str:
    """Return the program to run, or the error if Python code does not parse."""
    from kdtool_programs import language as language_called
    from kdtool_programs import module_like

    if language != "python":
        return language_called(language).run(code, tests)
    try:
        return module_like(code, tests)(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"it does not parse: {error}"
