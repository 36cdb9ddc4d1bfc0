"""What a run says where the student learns also on text of its own: its control learns the corpus's rows whole."""

from __future__ import annotations

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.checks.on_policy import on_policy_key
from kdtool._recipe.layers import as_written

__all__ = ["note_on_policy", "on_policy_keys"]


def on_policy_keys(assembly: Assembly) -> tuple[str, ...]:
    """Return the keys by which the student's phases learn on its own text, as the user wrote them."""
    found = (on_policy_key(phase, assembly.built) for phase in assembly.arms["student"])
    return tuple(dict.fromkeys(as_written(key) for key in found if key is not None))


def note_on_policy(assembly: Assembly) -> tuple[str, ...]:
    """Return a line for the user, where there is a control, for each of the keys."""
    if len(assembly.arms) == 1:
        return ()
    return tuple(
        f"{key}: the control learns the same rows without text of its own; the student's is mostly shorter than the rows in "
        "whose place it stands, so the control learns on as many tokens or more"
        for key in on_policy_keys(assembly)
    )
