"""Samples of the untrained student as a corpus: the suite, on a student that says which request it answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_data.answers import SelfSamples
from kdtool_testing import ByteTokenizer, CorpusConformance, make_run

TEXTS = [kdtool.Example(f"file-{number}", kdtool.Text(f"# {number}\nimport os\n")) for number in range(3)]


class Continuing(kdtool.Runtime):
    """Continues a prompt with the request's settings."""

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        for asked in requests:
            yield kdtool.TextAnswer(asked.id, f"# {asked.temperature} {asked.top_p} {asked.seed}\n", "stop", 3, 4)


class Untrained(kdtool.Student):
    """A student that can be opened and asked, and is never built."""

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return ByteTokenizer()

    def kdtool_build_student(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        raise NotImplementedError

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        return Continuing() if subject.role == "base" else None


class Beginning(SelfSamples):
    """Its first eight samples: the suite reads a corpus to its end."""

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        yield from islice(super().kdtool_examples(run), 8)


class TestSelf(CorpusConformance):
    component = SelfSamples
    entry_point = "self"

    def make_run(self, folder: Path, **fields: Any) -> kdtool.RunInfo:
        return make_run(folder, {"student": Untrained(Untrained.Config())}, TEXTS, untrained=folder, **fields)

    def prepare(self, folder: Path) -> Mapping[str, Any]:
        return {"temperature": 0.7}

    def ready(self, run: kdtool.RunInfo) -> Any:
        return Beginning(SelfSamples.Config(**self.prepare(run.folder)))

    def test_prompts_are_used_again_with_other_seeds(self, run: kdtool.RunInfo) -> None:
        bodies = [example.body for example in self.ready(run).kdtool_examples(run)]
        assert all(isinstance(body, kdtool.Completion) and body.completion.startswith("# 0.7 0.95") for body in bodies)
        assert len({body.prompt for body in bodies}) == 3
        assert len({body.completion for body in bodies}) == 8

    def test_it_is_refused_as_a_corpus_of_a_recipe(self, run: kdtool.RunInfo, tmp_path: Path) -> None:
        with pytest.raises(kdtool.UsageError, match=r"expected `control: \{self: …\}`"):
            next(self.build().kdtool_examples(make_run(tmp_path / "other", {})))
