"""What the control is called. Made for equal tokens, it may have trained on more or fewer than the student.

So it is where the student also learned on text of its own, which is shorter than what it takes the place of, and where one
of them ended early because it got no better. Then the page says that they had the same rows, as the verdict does.
"""

from __future__ import annotations

from dataclasses import replace

import kdtool

from kdtool_reporter_html._subjects import SAME_ROWS

__all__ = ["as_it_trained"]

_CONTROL = "control"


def as_it_trained(results: kdtool.Results) -> kdtool.Results:
    """Return the results with the control under the name that its tokens allow; as they are where it had the student's."""
    trained = {
        (arm.arm, arm.seed): sum(phase.tokens for phase in arm.phases.values())
        for arm in results.arms
        if arm.arm in ("student", _CONTROL)
    }
    if all(trained.get(("student", seed), tokens) == tokens for (_, seed), tokens in trained.items()):
        return results
    return replace(
        results,
        arms=tuple(replace(arm, arm=_called(arm.arm)) for arm in results.arms),
        subjects=tuple(
            replace(subject, arm=SAME_ROWS) if (subject.arm or subject.name) == _CONTROL else subject
            for subject in results.subjects
        ),
        comparisons=tuple(
            replace(found, arm=_called(found.arm), against=_called(found.against)) for found in results.comparisons
        ),
    )


def _called(arm: str) -> str:
    return SAME_ROWS if arm == _CONTROL else arm
