"""Whole runs on execution feedback: a stand-in's right and wrong programs, and a student that learns what passed."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_data.verified import Verified
from kdtool_evaluator_mbpp import MbppCorpus
from kdtool_testing import make_run

DATA = Path(os.environ.get("KDTOOL_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")

WRITER = '''\
import kdtool


class Writer(kdtool.Teacher):
    """Adds or takes away what is asked for, in turns, and never knows how to add 3."""

    offers = frozenset({"text"})
    licence_terms = kdtool.LicenceTerms("Writer-1.0")

    def kdtool_answer(self, requests):
        for request in requests:
            number = int(request.prompt.partition("assert add")[2].partition("(")[0])
            right = int(request.id.partition("#")[2]) % 2 and number % 10 != 3
            text = f"def add{number}(x):\\n    return x {'+' if right else '-'} {number}\\n"
            yield kdtool.TextAnswer(request.id, text, "stop", 9, 9)
'''


@pytest.fixture
def verifying(recipe: dict[str, Any], tmp_path: Path, other_teacher_folder: Path) -> dict[str, Any]:
    """A recipe that learns what passed of a stand-in's programs for problems in MBPP's form."""
    (tmp_path / "writer.py").write_text(WRITER, encoding="utf-8")
    problems = [
        {
            "task_id": number,
            "text": f"Write a function to add {number}.",
            "code": f"def add{number}(x):\n    return {number} + x",
            "test_list": [f"assert add{number}(1) == {number + 1}", f"assert add{number}(0) == {number}"],
        }
        for number in (11, 12, 511, *range(601, 613))
    ]
    (tmp_path / "mbpp.jsonl").write_text("\n".join(map(json.dumps, problems)), encoding="utf-8")
    own = {"use": "verified", "ask": "teachers.writer", "corpus": "corpora.problems", "samples": 2}
    recipe["corpora"] = {"problems": {"use": "mbpp", "file": "mbpp.jsonl"}, "verified": own}
    recipe["teachers"] = {"writer": {"use": "./writer.py:Writer"}}
    recipe["rows"] = {"use": "packed", "length": 64}
    recipe["student"] = {"use": "pretrained", "model": str(other_teacher_folder)}
    recipe["train"] = {"losses": {"ce": {}}, "steps": 4}
    recipe["evaluators"] = {"perplexity": {"documents": 2, "characters": 200}}
    unused = {"corpus", "teacher", "signals", "control", "exporters", "trackers", "reporter"}
    return {key: value for key, value in recipe.items() if key not in unused}


def texts(results: kdtool.Results, split: str = "train") -> dict[str, Any]:
    (text,) = (stage.path for stage in results.stages if stage.name == "text")
    lines = (text / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["id"]: line for line in map(json.loads, lines)}


def test_what_passed_is_learned_and_what_is_held_out_is_not_asked(
    verifying: dict[str, Any], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results = kdtool.run(verifying)
    assert "11 of 24 answers of teachers.writer passed, to 11 of 12 problems (others: 13 AssertionError)" in "".join(
        capfd.readouterr()
    )
    found = texts(results)
    assert set(found) == {f"mbpp/{number}#1" for number in range(601, 613)} - {"mbpp/603#1"}
    assert found["mbpp/601#1"]["completion"] == "def add601(x):\n    return x + 601\n"
    assert found["mbpp/601#1"]["meta"]["teacher_licence"] == "Writer-1.0"
    assert set(texts(results, "test")) == {"mbpp/11", "mbpp/12"}
    assert {(each.component, each.terms.licence, each.transfers) for each in results.licences} >= {
        ("corpora.problems", "CC-BY-4.0", ("text",)),
        ("teachers.writer", "Writer-1.0", ("text",)),
    }
    (answers,) = (tmp_path / "store" / "text").glob("*/verified/*.answers.jsonl")
    assert {json.loads(line)["id"][:6] for line in answers.read_text("utf-8").splitlines()} == {"mbpp/6"}

    again = {stage.name: stage.action for stage in kdtool.plan(verifying)}
    assert set(again.values()) == {"reuse"}
    file = tmp_path / "mbpp.jsonl"
    file.write_text(file.read_text("utf-8").replace("to add 601", "to sum 601"), encoding="utf-8")
    assert {stage.name: stage.action for stage in kdtool.plan(verifying)}["text"] == "run", "other problems"


def test_a_student_learns_to_prefer_what_passed(verifying: dict[str, Any], other_teacher_folder: Path) -> None:
    verifying["corpora"]["verified"]["give"] = "pairs"
    verifying["teachers"]["before"] = {"use": "causal-lm", "model": str(other_teacher_folder), "dtype": "float32"}
    verifying |= {"signals": False, "rows": {"use": "pairs", "length": 256}}
    losses = {"preference": {"teacher": "before"}}
    verifying["train"] = {"losses": losses, "steps": 12, "trainer": {"learning_rate": 1e-3, "log_every": 1}}
    results = kdtool.run(verifying)
    lines = texts(results)
    assert len(lines) == 11
    assert all("+" in line["completion"] and "-" in line["rejected"] for line in lines.values())
    values = [report.terms["preference"].value for report in results.arms[0].histories["train"]]
    assert values[0] == pytest.approx(0.6931, abs=1e-3), "the student is the reference still"
    assert sum(values[-3:]) < 0.8 * sum(values[:3])


def test_nothing_that_passes_ends_the_run_with_the_reasons(verifying: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "writer.py"
    file.write_text(WRITER.replace("'+' if right else '-'", "'-'"), encoding="utf-8")
    with pytest.raises(kdtool.UsageError, match=r"nothing to learn from: 0 of 24 answers .*24 AssertionError.*raise"):
        kdtool.run(verifying)


def test_the_student_as_it_was_is_asked_like_any_teacher_and_answers_the_same_again(
    verifying: dict[str, Any], other_teacher_folder: Path, tmp_path: Path
) -> None:
    verifying["teachers"] = {"before": {"use": "causal-lm", "model": str(other_teacher_folder), "dtype": "float32"}}
    changed = {"ask": "teachers.before", "samples": 2, "limit": 2, "max_tokens": 12}
    verifying["corpora"]["verified"] |= changed
    for store in ("one", "other"):
        with pytest.raises(
            kdtool.UsageError, match=r"nothing to learn from: 0 of 4 answers of teachers\.before passed"
        ):
            kdtool.run(verifying, store=tmp_path / store)
    one, other = (next(tmp_path.glob(f"{store}/text/*/verified/*.answers.jsonl")) for store in ("one", "other"))
    lines = [json.loads(line) for line in one.read_text("utf-8").splitlines()]
    assert len({line["text"] for line in lines}) == 4, "drawn, each with a seed of its own"
    assert one.read_text("utf-8") == other.read_text("utf-8")


@pytest.mark.skipif(not (DATA / "mbpp").is_dir(), reason="MBPP is not here")
def test_each_published_problem_for_training_is_passed_by_its_own_solution(tmp_path: Path) -> None:
    (packed, *_) = sorted((DATA / "mbpp").glob("mbpp.jsonl*"))
    content = gzip.decompress(packed.read_bytes()) if packed.suffix == ".gz" else packed.read_bytes()
    file = tmp_path / "mbpp.jsonl"
    file.write_bytes(content)
    solutions = {f"mbpp/{line['task_id']}": line["code"] for line in map(json.loads, content.splitlines())}

    class Knowing(kdtool.Teacher):
        """Answers with the published solution first, and then with none."""

        def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
            for request in requests:
                name, _, number = request.id.partition("#")
                yield kdtool.TextAnswer(request.id, "pass" if int(number) else solutions[name], "stop", 1, 1)

    problems = MbppCorpus(MbppCorpus.Config(file=file))
    run = make_run(tmp_path, {"teacher": Knowing(Knowing.Config()), "corpora.problems": problems}, say=print)
    corpus = Verified(Verified.Config(corpus="corpora.problems", samples=2, give="pairs", seconds=20.0))
    given_ones = [example for example in corpus.kdtool_examples(run) if example.split == "train"]
    assert [example.id for example in given_ones] == [f"mbpp/{number}#0>1" for number in range(601, 975)]
