"""A training step makes a GPU wait once at most, whatever its losses, transforms and weightings: the documented counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from counted_steps import LOSSES, WEIGHTINGS, columns, documented, reads, trains

PAIRS = [(label, transform) for label in LOSSES for transform in columns() if trains(label, transform)]
A_STEP = 1
"""Most reads in a step with all its micro-batches. There are two of them: one read in each would be too many."""
IN_MAIN_MEMORY = "gguf-grid"
"""Rounds weights with a library that computes on the host: its waits are documented, but not limited."""

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # dynamo's


@pytest.mark.parametrize("label", LOSSES)
def test_a_step_seldom_makes_a_gpu_wait(tmp_path: Path, label: str) -> None:
    found = reads(tmp_path, (label,))
    assert found.total() <= A_STEP, found


def _on_push(label: str, transform: str | None) -> bool:
    """Return whether a pair is among those of each push: every loss with one transform, every transform with two losses."""
    losses, others = list(LOSSES), [name for name in columns() if name]
    place = losses.index(label)
    return others[place % len(others)] == transform or place < 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "transform"),
    [pytest.param(*pair, marks=() if _on_push(*pair) else pytest.mark.nightly) for pair in PAIRS if pair[1]],
)
def test_transforms_and_norms_seldom_make_a_gpu_wait(tmp_path: Path, label: str, transform: str) -> None:
    found = reads(tmp_path, (label,), transform=transform, norms=True)
    assert found.total() == documented()[label, transform], found


def test_the_documented_steps_are_those_of_all_losses_and_transforms() -> None:
    table = documented()
    assert set(table) == {*PAIRS}
    assert max(count for (_, transform), count in table.items() if transform != IN_MAIN_MEMORY) <= A_STEP


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_weightings_seldom_make_a_gpu_wait(tmp_path: Path, name: str) -> None:
    found = reads(tmp_path, ("forward-kl", "ce"), WEIGHTINGS[name])
    assert found.total() <= A_STEP, found
