"""Every form of data in one run: source, pairs, conversations and infilling, mixed by shares, to a trained student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kdtool._run.stages.row_files import StoredRows
from kdtool_transformers import open_tokenizer

ANSWERS = [f"the sum is {number}" for number in range(30)]


@pytest.fixture
def mixed(recipe: dict[str, Any], marked_teacher_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """The small recipe with four corpora, one of each form, and no arm but the student."""
    talks = [
        {"messages": [{"role": "user", "content": f"add {i}"}, {"role": "assistant", "content": answer}]}
        for i, answer in enumerate(ANSWERS)
    ]
    (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, talks)), encoding="utf-8")
    code = [{"content": f"def gap_{i}(x):\n    return x + {i}\n", "license": "mit"} for i in range(300)]
    pq.write_table(pa.Table.from_pylist(code), tmp_path / "code.parquet")
    problems = [
        {
            "task_id": 600 + i,
            "text": f"Add {i}.",
            "code": f"def add(x):\n    return x + {i}",
            "test_list": ["assert add"],
        }
        for i in range(1, 90)
    ]
    (tmp_path / "mbpp.jsonl").write_text("\n".join(map(json.dumps, problems)), encoding="utf-8")
    source = {"use": "python-source", "forms": ["implement", "explain"], "train_files": 6, "validation_files": 1}
    return {
        **{key: value for key, value in recipe.items() if key not in {"control", "evaluators", "corpus", "signals"}},
        "corpora": {
            "talks": {"use": "jsonl", "files": ["talks.jsonl"], "share": 0.1},
            "code": {"use": "hub", "files": ["code.parquet"], "text_column": "content", "licence_column": "license",
                     "share": 0.4},
            "problems": {"use": "mbpp", "file": "mbpp.jsonl", "share": 0.2},
            "source": {**source, "test_files": 1, "share": 0.3},
        },
        "rows": {"use": "packed", "length": 128, "fim": {"rate": 0.7}},
        "teacher": {"use": "causal-lm", "model": str(marked_teacher_folder), "dtype": "float32"},
        "train": {"losses": {"forward-kl": {"weight": 0.5}, "ce": {"weight": 0.5}}, "steps": 3},
    }  # fmt: skip


def test_every_form_is_packed_and_learned(mixed: dict[str, Any], marked_teacher_folder: Path) -> None:
    results = kdtool.run(mixed)
    corpora = results.data["corpora"]
    assert {name: round(own["share_of_training"], 1) for name, own in corpora.items()} == {
        "corpora.talks": 0.1, "corpora.code": 0.4, "corpora.problems": 0.2, "corpora.source": 0.3,
    }  # fmt: skip
    assert corpora["corpora.code"]["licences"] == {"mit": corpora["corpora.code"]["documents"]}
    assert any(own["left_out_documents"] for own in corpora.values())
    assert results.report is not None
    assert "Share of training" in results.report.read_text(encoding="utf-8")

    tokenizer = open_tokenizer(marked_teacher_folder)
    (stage,) = (stage for stage in results.stages if stage.name == "rows")
    rows = StoredRows(stage.path, stage.fingerprint)
    end, start, prefix = (tokenizer.encode(mark)[0] for mark in ("<|im_end|>", "<|im_start|>", "<fim_prefix>"))
    ids = [token for row in map(rows.__getitem__, range(len(rows))) for token in row.input_ids]
    learned = [learns for row in map(rows.__getitem__, range(len(rows))) for learns in row.labelled]
    answer = tokenizer.encode("assistant\n")
    found = []
    for place, token in enumerate(ids):
        if token == start and ids[place + 1 : place + 1 + len(answer)] == answer:
            begin = place + 1 + len(answer)
            stop = ids.index(end, begin)
            assert not any(learned[place:begin])
            assert all(learned[begin : stop + 1])
            assert not learned[stop + 1]
            found.append(tokenizer.decode(ids[begin:stop]))
    assert 5 < len(found) == corpora["corpora.talks"]["documents"]
    assert set(found) <= set(ANSWERS)
    assert 0.5 < ids.count(prefix) / corpora["corpora.code"]["documents"] < 0.9
    assert results.arms[0].phases["train"].steps == 3


def test_a_tokenizer_without_marks_is_refused_before_anything_is_made(
    mixed: dict[str, Any], teacher_folder: Path, tmp_path: Path
) -> None:
    for command in (kdtool.check, kdtool.run):
        with pytest.raises(kdtool.UsageError, match=r"rows\.fim: the student's tokenizer lacks tokens"):
            command(mixed, {"teacher.model": str(teacher_folder)})
    store = tmp_path / "store"
    assert not [path for path in store.rglob("*") if path.parent.name in {"text", "rows", "student"}]
