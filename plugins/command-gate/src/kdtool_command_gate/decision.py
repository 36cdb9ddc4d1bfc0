"""The rules of the gate: opponents to beat, measurements that must not get worse, and scores to reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import kdtool

Outcome = Literal["better", "missed", "not shown", "worse", "forgotten"]

EXIT_CODES: dict[Outcome, int] = {"better": 0, "missed": 6, "not shown": 11, "worse": 12, "forgotten": 13}
"""The exit code of each outcome. 6 is also that of `kdtool run` for a missed score; 11 to 13 are the gate's own."""
_STUDENT = "student"


@dataclass(frozen=True)
class Decision:
    """The outcome of the gate, with its comparisons.

    `compared` are the comparisons in the measurements that decide, one for each opponent; `guards` those with the student
    before its training. `missed` are the recipe's requirements that were not met, in words.
    """

    run: str
    outcome: Outcome
    compared: tuple[kdtool.Comparison, ...]
    guards: tuple[kdtool.Comparison, ...]
    missed: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 if the student may ship, else the number of the reason."""
        return EXIT_CODES[self.outcome]


def decide(
    results: kdtool.Results, on: Sequence[str] = (), against: Sequence[str] = (), guards: Sequence[str] = ()
) -> Decision:
    """Decide whether the student may ship: better than each opponent, nothing forgotten, all required scores reached.

    A verdict is that of the run: the 95 % interval of the difference, over items and seeds, lies on one side of zero. Of
    several reasons, the outcome is the first of: missed, forgotten, worse, not shown.

    Args:
        results: of a finished run.
        on: the measurements that decide; by default the first one in which the student was compared with its opponents. In
            each of them the student has to be better than each opponent.
        against: the opponents' arms; by default all controls, the reference, and the student before its training, as far as
            they were measured.
        guards: measurements in which the student must not be worse than it was before its training.

    Raises:
        UsageError: a measurement or an arm was not compared with the student, or there is nothing to decide by.
    """
    pairs = {(each.measurement, each.against): each for each in results.comparisons if each.arm == _STUDENT}
    roles = {subject.arm or subject.name: subject.role for subject in results.subjects}
    opponents = against or [
        arm for arm in dict.fromkeys(arm for _, arm in pairs) if roles.get(arm) in ("control", "reference", "base")
    ]
    if not opponents:
        raise kdtool.UsageError(
            f"run {results.name} has no control, reference or student before its training that the student was "
            "compared with: set `control: {match: tokens}` or `base: true` of the student in its recipe, or name an arm by "
            "--against"
        )
    measurements = on or [name for name, arm in pairs if arm == opponents[0]][:1]
    compared = [_find(pairs, name, arm) for name in measurements or [""] for arm in opponents]
    before = [arm for arm, role in roles.items() if role == "base"]
    if guards and not before:
        raise kdtool.UsageError(
            f"--guard compares with the student before its training, which run {results.name} did not measure: "
            "set `base: true` of the student in its recipe"
        )
    guarded = [_find(pairs, name, before[0]) for name in guards]
    missed = tuple(f"{each.measurement} {each.text}" for each in results.requirements if not each.met)
    return Decision(results.name, _outcome(compared, guarded, missed), tuple(compared), tuple(guarded), missed)


def _find(pairs: dict[tuple[str, str], kdtool.Comparison], measurement: str, arm: str) -> kdtool.Comparison:
    if (measurement, arm) not in pairs:
        known = ", ".join(f"{name} against {other}" for name, other in pairs) or "nothing"
        raise kdtool.UsageError(f"the student was not compared with {arm!r} in {measurement!r}; compared were: {known}")
    return pairs[measurement, arm]


def _outcome(
    compared: Sequence[kdtool.Comparison],
    guards: Sequence[kdtool.Comparison],
    missed: Sequence[str],
) -> Outcome:
    verdicts = {each.verdict for each in compared}
    if missed:
        return "missed"
    if any(each.verdict == "worse" for each in guards):
        return "forgotten"
    if "worse" in verdicts:
        return "worse"
    return "better" if verdicts == {"better"} else "not shown"
