"""The kinds of plugin, what the package of each needs, and how a recipe uses it. `template/kinds` contains their code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["KINDS", "Kind"]

CORE = "kdtool>=0.1,<0.2"
LIBRARIES = {
    "asking": "kdtool-asking>=0.1",
    "measuring": "kdtool-measuring>=0.1",
    "models": "kdtool-transformers>=0.1",
    "torch": "kdtool-torch>=0.1",
}
SAFETENSORS, TORCH, TRANSFORMERS = "safetensors>=0.8", "torch>=2.8", "transformers>=5.23"


@dataclass(frozen=True)
class Kind:
    """One kind: its entry-point group, and the modules that its plugin imports in addition to kdtool.

    `recipe` is the part of a recipe that uses the plugin NAME; `bare` is what a bare plugin imports.
    """

    group: str
    recipe: str
    dependencies: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    "corpus": Kind("kdtool.corpora", "corpus: {use: NAME}"),
    "filter": Kind("kdtool.filters", "filters: {NAME: {}}"),
    "packer": Kind("kdtool.packers", "rows: {use: NAME}"),
    "teacher": Kind(
        "kdtool.teachers",
        "teacher: {use: NAME}",
        (LIBRARIES["torch"], LIBRARIES["models"], TORCH),
        (LIBRARIES["models"],),
    ),
    "cache": Kind(
        "kdtool.caches",
        "signals: {use: NAME}",
        (LIBRARIES["torch"], "safetensors[torch]>=0.8", TORCH),
        ("kdtool-caches>=0.1",),
    ),
    "student": Kind(
        "kdtool.students",
        "student: {use: NAME}",
        (LIBRARIES["torch"], LIBRARIES["models"], TRANSFORMERS),
        ("kdtool-student-gpt>=0.1",),
    ),
    "transform": Kind("kdtool.transforms", "train: {transforms: {NAME: {}}, losses: {ce: {}}, steps: 8}", (TORCH,)),
    "loss": Kind("kdtool.losses", "train: {losses: {NAME: {}}, steps: 8}", (TORCH,)),
    "weighting": Kind("kdtool.weightings", "train: {weightings: {NAME: {}}, losses: {ce: {}}, steps: 8}", (TORCH,)),
    "trainer": Kind(
        "kdtool.trainers",
        "trainer: {use: NAME, learning_rate: 1e-3}",
        (LIBRARIES["torch"], SAFETENSORS, TORCH),
        ("kdtool-trainer-standard>=0.1",),
    ),
    "optimizer": Kind("kdtool.optimizers", "optimizer: {use: NAME}", (TORCH,), (TORCH,)),
    "evaluator": Kind(
        "kdtool.evaluators",
        "evaluators: {NAME: {}}",
        (LIBRARIES["measuring"],),
        (LIBRARIES["asking"], LIBRARIES["measuring"]),
    ),
    "exporter": Kind("kdtool.exporters", "exporters: [NAME]", (LIBRARIES["models"], SAFETENSORS, TRANSFORMERS)),
    "executor": Kind("kdtool.executors", "executor: {use: NAME}", ("submitit>=1.5.3",), ("submitit>=1.5.3",)),
    "tracker": Kind("kdtool.trackers", "trackers: [NAME]"),
    "reporter": Kind("kdtool.reporters", "reporter: NAME"),
    "command": Kind("kdtool.commands", "", ("click>=8.1.7",), ("click>=8.1.7",)),
}
