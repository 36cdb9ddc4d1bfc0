"""Prompts without answers in whole runs: texts longer than the documents, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._run.stages.row_files import StoredRows
from kdtool_transformers import TransformersModel

PROMPTS = [{"prompt": f"def add_{number}(x):\n"} for number in range(24)]
ASKED = [{"messages": [{"role": "user", "content": f"Add {number} to x."}]} for number in range(24)]
ROOM = 40


@pytest.fixture
def prompts(recipe: dict[str, Any], marked_teacher_folder: Path) -> dict[str, Any]:
    """Three steps on prompts only, which hold fewer tokens than the student may write after each."""
    write(PROMPTS + ASKED)
    recipe |= {
        "corpus": {"use": "jsonl", "files": ["prompts.jsonl"]},
        "rows": {"use": "packed", "length": 128, "room": ROOM},
        "train": {"losses": {"jsd": {}}, "steps": 3},
        "control": False,
    }
    recipe["teacher"]["model"] = str(marked_teacher_folder)
    recipe["trainer"] |= {"on_policy": {"fraction": 1, "tokens": ROOM}, "log_every": 1}
    left_out = {"signals", "evaluators", "exporters", "reporter", "trackers"}
    return {key: value for key, value in recipe.items() if key not in left_out}


def write(lines: list[dict[str, Any]]) -> None:
    Path("prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


@pytest.mark.slow
def test_texts_longer_than_the_prompts_are_trained_on(prompts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], list[int]]] = []
    generate = TransformersModel.generate

    def note(self: Any, tokens: Any, limits: Any, *rest: Any) -> list[list[int]]:
        found = generate(self, tokens, limits, *rest)
        asked.append(([self.tokenizer.inner.decode(each) for each in tokens], [len(each) for each in found]))
        return found

    monkeypatch.setattr(TransformersModel, "generate", note)
    kdtool.check(prompts)
    results = kdtool.run(prompts)
    trained = results.arms[0].phases["train"]
    written = [length for _, lengths in asked[1:] for length in lengths]
    assert trained.tokens == sum(written)
    assert max(written) == ROOM, "a random student seldom ends its texts"
    texts = [text for found, _ in asked[1:] for text in found]
    assert any(text.startswith("def add_") and text.endswith("(x):\n") for text in texts)
    assert any(text.startswith("<|im_start|>user\nAdd") and text.endswith("<|im_start|>assistant\n") for text in texts)
    assert all(report.loss > 0 for report in results.arms[0].histories["train"])
    (rows,) = (StoredRows(path.parent, "") for path in Path().glob("store/**/rows.json"))
    assert not any(any(rows[number].labelled) for number in range(len(rows)))


@pytest.mark.parametrize("control", ["tokens", {"match": "tokens", "self": True}])
def test_a_control_is_refused_before_anything_is_trained(prompts: dict[str, Any], control: Any) -> None:
    prompts["control"] = control
    prompts["train"]["losses"] |= {"ce": {}}
    for command in (kdtool.check, kdtool.run):
        with pytest.raises(kdtool.RecipeError, match=r"control: learns without a teacher[^`]*set `control: false`"):
            command(prompts)
    write([*PROMPTS, {"prompt": "a", "completion": "b"}])
    kdtool.check(prompts)


def test_steps_on_the_corpus_are_refused_before_the_first(prompts: dict[str, Any]) -> None:
    with pytest.raises(kdtool.KdtoolError, match=r"on_policy\.fraction: 0\.5 has steps on the corpus"):
        kdtool.run(prompts, {"trainer.on_policy.fraction": 0.5})


def test_without_room_there_are_no_rows_and_the_reason_is_said(
    prompts: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(kdtool.RecipeError, match="yields no rows from 48 documents"):
        kdtool.run(prompts, {"rows.room": 0})
    assert "48 prompts without answers, such as" in capsys.readouterr().err
