"""Turn accepted answers into rows with their provenance: conversations, completions, or preferences over a failed answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import kdtool

from kdtool_corpus_instruct._answers import Parts
from kdtool_corpus_instruct._candidates import Candidate, Failure
from kdtool_corpus_instruct._config import InstructConfig
from kdtool_corpus_instruct._ideas import REPAIR

__all__ = ["Rows", "plain"]

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
            "style": str(candidate.values["style"]),
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


def plain(row: kdtool.Example) -> dict[str, object]:
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
