"""Name the control after its match with the student: equal tokens, or only the same rows.

A control for equal tokens may have trained on more or fewer than the student: if the student also trained on its shorter
on-policy text, or if one of them stopped early. Then the page names the same rows instead, as the verdict does.
"""

from __future__ import annotations

from dataclasses import replace

import kdtool

from kdtool_reporter_html._subjects import SAME_ROWS

__all__ = ["as_it_trained"]

_CONTROL = "control"


def as_it_trained(results: kdtool.Results) -> kdtool.Results:
    """Return the results with the control renamed to `control-rows` if its token count differs from the student's."""
    trained = {
        (arm.arm, arm.seed): sum(phase.tokens for phase in arm.phases.values())
        for arm in results.arms
        if arm.arm in ("student", _CONTROL)
    }
    if all(trained.get(("student", seed), tokens) == tokens for (_, seed), tokens in trained.items()):
        return results
    return replace(
        results,
        arms=tuple(replace(arm, arm=_rename(arm.arm)) for arm in results.arms),
        subjects=tuple(
            replace(subject, arm=SAME_ROWS) if (subject.arm or subject.name) == _CONTROL else subject
            for subject in results.subjects
        ),
        comparisons=tuple(
            replace(comparison, arm=_rename(comparison.arm), against=_rename(comparison.against))
            for comparison in results.comparisons
        ),
        values=tuple(replace(value, arm=_rename(value.arm)) for value in results.values),
    )


def _rename(arm: str) -> str:
    return SAME_ROWS if arm == _CONTROL else arm
