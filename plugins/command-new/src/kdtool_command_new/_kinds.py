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
    """One kind: its entry-point group, what the plugin made from the template does, what it imports besides kdtool."""

    group: str
    summary: str
    dependencies: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    "corpus": Kind("kdtool.corpora", "The topics of Python's reference manual"),
    "screen": Kind("kdtool.screens", "Rejects texts with too many repeated lines"),
    "annotator": Kind("kdtool.annotators", "Depth of indentation of every character"),
    "packer": Kind("kdtool.packers", "One row a document, cut or filled up to one length"),
    "teacher": Kind(
        "kdtool.teachers",
        "Frequencies of pairs of bytes in Python's standard library",
        (LIBRARIES["logits"], LIBRARIES["models"], TORCH),
    ),
    "cache": Kind(
        "kdtool.caches",
        "The teacher's likeliest tokens, one file a row",
        (LIBRARIES["rows"], LIBRARIES["models"], "safetensors[torch]>=0.8", TORCH),
    ),
    "student": Kind(
        "kdtool.students", "A small Llama that starts from random weights", (LIBRARIES["models"], TRANSFORMERS)
    ),
    "transform": Kind("kdtool.transforms", "Shrinks weights and adds noise before a phase", (TORCH,)),
    "loss": Kind("kdtool.losses", "Forward KL that looks at tokens on which the teacher is unsure", (TORCH,)),
    "weighting": Kind("kdtool.weightings", "The first tokens of a document count less", (TORCH,)),
    "trainer": Kind(
        "kdtool.trainers",
        "Plain gradient descent on token losses",
        (LIBRARIES["rows"], LIBRARIES["models"], SAFETENSORS, TORCH),
    ),
    "evaluator": Kind(
        "kdtool.evaluators",
        "Share of texts preferred to the same text with two lines swapped",
        (LIBRARIES["measuring"],),
    ),
    "exporter": Kind(
        "kdtool.exporters",
        "Matrices as whole numbers of 8 bits",
        (LIBRARIES["models"], SAFETENSORS, TRANSFORMERS),
    ),
    "tracker": Kind("kdtool.trackers", "The loss of every logged step in losses.csv"),
    "reporter": Kind("kdtool.reporters", "The verdict and every measurement as Markdown"),
    "command": Kind("kdtool.commands", "Prints a finished run's measurements", ("click>=8.1.7",)),
}
