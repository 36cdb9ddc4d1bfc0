"""A teacher to cut, on a model that is given, and a run with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
from kdtool_testing import make_run
from kdtool_transformers import TransformersModel, TransformersRuntime

EXAMPLES = [
    kdtool.Example("1", kdtool.Text("def f(x):\n    return x\n\nclass C:\n    a = {'b': [1, 2]}\n" * 3)),
    kdtool.Example("2", kdtool.Completion("def g(", "y): pass\n")),
    kdtool.Example("3", kdtool.Messages((("user", "hi"), ("assistant", "print(1)")))),
]


class Source(kdtool.Teacher):
    """A teacher on a model that is given."""

    def __init__(self, model: TransformersModel) -> None:
        super().__init__(self.Config())
        self.model = model

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return self.model.tokenizer

    def kdtool_identity(self, run: kdtool.RunInfo) -> dict[str, str]:
        return {"weights": "w"}

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.ModelFacts:
        return self.model.facts

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        return TransformersRuntime(self.model) if subject.role == "teacher" else None


def run_on(folder: Path, model: TransformersModel, **fields: Any) -> kdtool.RunInfo:
    """Return a run with a teacher on the model, and text to measure importance on."""
    return make_run(folder, {"teacher": Source(model)}, EXAMPLES, **fields)
