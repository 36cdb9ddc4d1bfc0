"""Models of a run, opened for streaming: which stream, which are drafted, and which stay as they are."""

from __future__ import annotations

from typing import Any

import kdtool
import pytest
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers import TransformersRuntime
from kdtool_transformers.streaming import SpeculativeRuntime, StreamedModels, StreamingRuntime


class _Foreign(kdtool.Runtime):
    def answer(self, requests: Any) -> Any:
        raise NotImplementedError


class _Models(kdtool.Models):
    """A student and a teacher of transformers, and a server."""

    def __init__(self) -> None:
        self.subjects = {name: kdtool.Subject(name, "artifact") for name in ("student", "teacher", "server")}
        self.results = None
        self.server = _Foreign()

    def open(self, name: str) -> kdtool.Runtime:
        return self.server if name == "server" else TransformersRuntime(tiny_model())


def test_models_of_transformers_stream_and_others_stay_as_they_are() -> None:
    models = _Models()
    streamed = StreamedModels(models)
    assert streamed.open("server") is models.server
    with streamed.open("student") as student:
        assert isinstance(student, StreamingRuntime)
        assert len(list(student.stream(kdtool.Request("1", "x = ", 8)))) > 1


def test_only_what_is_drafted_is_opened_with_the_draft() -> None:
    models = StreamedModels(_Models(), "student", ["student", "teacher", "server"])
    with models.open("teacher") as teacher, models.open("student") as student:
        assert isinstance(teacher, SpeculativeRuntime)
        assert isinstance(student, StreamingRuntime)
    with pytest.raises(kdtool.UsageError, match="is not a model of transformers"):
        models.open("server")
