"""Candidates for the missing rows of `instruct`: a teacher's answers, read, tested and turned into rows.

The tests that a teacher wrote with its answer run in the sandbox. A row has its provenance, and is a conversation, a
completion, or a preference over a failed answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import kdtool

from kdtool_data.instruct.settings import REPAIR, InstructConfig
from kdtool_data.syntax import ALIASES

if TYPE_CHECKING:
    from kdtool_measuring import Turns
    from kdtool_programs import Module, Program, Task

    from kdtool_data.instruct.settings import Cell

_FENCE = re.compile(r"^[ \t]*```[ \t]*([^\s`]*)[^\n`]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Parts:
    """Instruction, response and tests ("" without any)."""

    instruction: str
    response: str
    tests: str = ""


def read_parts(text: str, *, tested: bool) -> Parts | str:
    """Return the parts of an answer, or which part is missing, such as `no <response>`."""
    parts = {name: _part(text, name) for name in ("instruction", "response", *(("tests",) if tested else ()))}
    for name, content in parts.items():
        if not content:
            return f"no <{name}>"
    tests = parts.get("tests", "")
    block = _FENCE.search(tests)
    return Parts(parts["instruction"], parts["response"], block[2] if block else tests)


def code_of(response: str, language: str) -> str:
    """Return the code in a response in one language, block after block; "" without any.

    Blocks that name no language count.
    """
    blocks = [(ALIASES.get(name.lower(), name.lower()), code) for name, code in _FENCE.findall(response)]
    return "\n".join(code for name, code in blocks if name in {language, ""})


def _part(text: str, name: str) -> str:
    """Return the text between the first opening and the last closing mark of a part."""
    start, end = text.find(f"<{name}>"), text.rfind(f"</{name}>")
    return text[start + len(name) + 2 : end].strip() if 0 <= start < end else ""


@dataclass(frozen=True)
class Failure:
    """An answer that went back to the teacher: the reason, its price, and its parts if it had all of them."""

    reason: str
    picodollars: int
    parts: Parts | None


@dataclass(frozen=True)
class Slot:
    """A missing row: its cell and number, and the number of requests for it so far.

    A repair continues a `conversation`; `failed` are the failed answers in it, the newest last.
    """

    cell: Cell
    number: int
    attempt: int = 0
    failed: tuple[Failure, ...] = ()
    conversation: Turns = ()

    @property
    def id(self) -> str:
        """Id of the row that fills the slot."""
        return f"{self.cell}/{self.number}"


@dataclass(frozen=True)
class Candidate:
    """An answer for a slot: its parts, or the reason for its rejection, with an `error` if it can be repaired."""

    slot: Slot
    request: kdtool.Request
    answer: kdtool.TextAnswer
    values: Mapping[str, object]
    parts: Parts | None = None
    reason: str = ""
    error: str = ""

    def reject(self, reason: str, error: str = "") -> Candidate:
        """Return the candidate as a rejected one."""
        return replace(self, reason=reason, error=error)


_ERROR_CHARACTERS = 1_000
"""Characters from the end of an error that go back to the teacher."""


def run_tests(
    run: kdtool.RunInfo, config: InstructConfig, file: Path, candidates: Sequence[Candidate]
) -> list[Candidate]:
    """Return the candidates, rejected if their tests fail.

    Args:
        run: the run, for messages.
        config: the time limit.
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
    verdicts = verdicts_of(run, file, tasks) if tasks else {}
    for key, verdict in verdicts.items():
        if not verdict.has_passed:
            error = f"its tests fail: {verdict.reason} {verdict.stderr}".strip()[-_ERROR_CHARACTERS:]
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


_GAP = "\n\n"
"""Between a task and its answer, if the row is not a conversation."""


@dataclass(frozen=True)
class Rows:
    """Makes rows.

    `key_of`, `model` and `licence` are the teacher's, `versions` the templates by name with a digest of their text.
    """

    config: InstructConfig
    key_of: Callable[[kdtool.Request], str]
    model: str
    licence: str
    versions: Mapping[str, str]

    def make(self, candidate: Candidate) -> kdtool.Example:
        """Return the row of a candidate that is not rejected. With `give: pairs` it is a preference if possible."""
        assert candidate.parts is not None  # noqa: S101 - candidates without a reason have parts
        slot, parts, answer = candidate.slot, candidate.parts, candidate.answer
        failed = _failed_alike(slot.failed, parts) if self.config.give == "pairs" else None
        about = {
            "teacher": self.config.ask,
            "model": self.model,
            "teacher_licence": self.licence,
            "template": self.versions[slot.cell.task],
            "repair_template": self.versions[REPAIR] if slot.failed else "",
            "request": self.key_of(candidate.request),
            "difficulty": slot.cell.difficulty,
            "task": slot.cell.task,
            "topic": str(candidate.values["topic"]),
            "attempt": str(slot.attempt),
            "repairs": str(len(slot.failed)) if slot.failed else "",
            "repaired": "; ".join(failure.reason for failure in slot.failed),
            "rejected": failed.reason if failed else "",
            "repaired_picodollars": str(sum(failure.picodollars for failure in slot.failed) or ""),
            "tests": parts.tests,
            "tokens_in": str(answer.tokens_in),
            "tokens_out": str(answer.tokens_out),
            "picodollars": str(answer.picodollars) if answer.picodollars else "",
        }
        return kdtool.Example(
            id=slot.id,
            body=self._body(parts, failed.parts if failed else None),
            language=slot.cell.language,
            licence=self.licence,
            source=f"instructions by {self.config.ask}",
            meta={name: text for name, text in about.items() if text},
        )

    def _body(self, parts: Parts, rejected: Parts | None) -> kdtool.Messages | kdtool.Completion:
        prompt = parts.instruction + _GAP
        if rejected is not None:
            return kdtool.Preference(prompt, parts.response, rejected.response)
        if self.config.form == "messages":
            return kdtool.Messages((("user", parts.instruction), ("assistant", parts.response)))
        return kdtool.Completion(prompt, parts.response)


def _failed_alike(failed: tuple[Failure, ...], accepted: Parts) -> Failure | None:
    """Return the newest failed answer with another response to the same task, by the same tests; None without one."""
    for failure in reversed(failed):
        parts = failure.parts
        if parts is not None and replace(parts, response=accepted.response) == accepted != parts:
            return failure
    return None


def plain_row(row: kdtool.Example) -> dict[str, object]:
    """Return a row as plain data."""
    body = row.body
    content = {"turns": body.turns} if isinstance(body, kdtool.Messages) else asdict(body)
    return {
        "id": row.id,
        **content,
        "language": row.language,
        "licence": row.licence,
        "source": row.source,
        "meta": dict(row.meta),
    }
