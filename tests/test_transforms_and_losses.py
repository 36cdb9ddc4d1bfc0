"""Every transform with every kind of loss, in one process and two, over one micro-batch and two: the plain gradients.

No pair is refused. Two need more than a CPU and say so in `kdtool check`, whatever the losses are: `liger` a GPU (its tests
run the kernels there; here stand-ins that compute gradients in place, as they do), and `compile` a compiler.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from kdtool_testing import make_run
from transform_training import (
    LOSSES,
    Case,
    Gradients,
    make_transform,
    reference,
    train,
    train_as_rank,
    transforms,
    worst_difference,
)
from two_processes import read_gradients, train_in_two_processes

CASES = [Case(*each, world=1) for each in product(transforms(), LOSSES, (1, 2))]

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # dynamo's


def _marks(case: Case) -> list[pytest.MarkDecorator]:
    """Return marks by which each push has every transform with one kind of loss, and all pairs are tested at night."""
    kinds, number = list(LOSSES), transforms().index(case.transform)
    on_push = case.accumulation == 2 and case.losses == kinds[number % len(kinds)]
    return [*([pytest.mark.slow] if case.transform == "compile" else []), *([] if on_push else [pytest.mark.nightly])]


@pytest.mark.parametrize("case", [pytest.param(case, marks=_marks(case), id=case.name) for case in CASES])
def test_gradients_of_one_process(tmp_path: Path, case: Case) -> None:
    _compare(train(tmp_path, case), reference(tmp_path, case.transform, case.losses))


@pytest.mark.slow
@pytest.mark.parametrize("transform", transforms())
def test_gradients_of_two_processes(tmp_path: Path, transform: str) -> None:
    cases = [Case(transform, *each, world=2) for each in (("token", 1), ("all", 2))]
    train_in_two_processes(train_as_rank, tmp_path, cases)
    for case in cases:
        steps = read_gradients(tmp_path / f"{case.name}.safetensors")
        _compare(steps, reference(tmp_path, case.transform, case.losses))


def test_what_needs_a_gpu_says_so_before_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("kdtool_torch.pick_device", lambda: torch.device("cpu"))
    refused = {
        name: [line for line in make_transform(name).kdtool_check(make_run(tmp_path), "start") or () if "GPU" in line]
        for name in transforms()
    }
    assert {name for name, lines in refused.items() if lines} == {"liger"}


def _compare(steps: list[Gradients], expected: Gradients) -> None:
    assert len(steps) == 2
    for step in steps:
        assert worst_difference(step, expected) < 1e-4
