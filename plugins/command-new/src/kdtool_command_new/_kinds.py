"""The kinds of plugin and what the package of each needs. The code of each lies in `template/kinds`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["KINDS", "Kind"]

CORE = "kdtool[contract-1]>=0.1"
LIBRARIES = {
    "logits": "kdtool-logits>=0.1",
    "measuring": "kdtool-measuring>=0.1",
    "models": "kdtool-transformers>=0.1",
    "rows": "kdtool-rows>=0.1",
}
SAFETENSORS, TORCH, TRANSFORMERS = "safetensors>=0.8", "torch>=2.8", "transformers>=5.23"


@dataclass(frozen=True)
class Kind:
    """One kind: its entry-point group, and what the plugin made from the template imports besides kdtool."""

    group: str
    dependencies: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    "corpus": Kind("kdtool.corpora"),
    "screen": Kind("kdtool.screens"),
    "annotator": Kind("kdtool.annotators"),
    "packer": Kind("kdtool.packers"),
    "teacher": Kind(
        "kdtool.teachers",
        (LIBRARIES["logits"], LIBRARIES["models"], TORCH),
    ),
    "cache": Kind(
        "kdtool.caches",
        (LIBRARIES["rows"], LIBRARIES["models"], "safetensors[torch]>=0.8", TORCH),
    ),
    "student": Kind("kdtool.students", (LIBRARIES["models"], TRANSFORMERS)),
    "transform": Kind("kdtool.transforms", (TORCH,)),
    "loss": Kind("kdtool.losses", (TORCH,)),
    "weighting": Kind("kdtool.weightings", (TORCH,)),
    "trainer": Kind(
        "kdtool.trainers",
        (LIBRARIES["rows"], LIBRARIES["models"], SAFETENSORS, TORCH),
    ),
    "evaluator": Kind(
        "kdtool.evaluators",
        (LIBRARIES["measuring"],),
    ),
    "exporter": Kind(
        "kdtool.exporters",
        (LIBRARIES["models"], SAFETENSORS, TRANSFORMERS),
    ),
    "tracker": Kind("kdtool.trackers"),
    "reporter": Kind("kdtool.reporters"),
    "command": Kind("kdtool.commands", ("click>=8.1.7",)),
}
