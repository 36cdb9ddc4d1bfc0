"""Weights by syntax class and schedules on a value, in whole runs; what cannot work is refused by a check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_testing import make_run, write_toy_model

pytestmark = pytest.mark.slow

OWN = '''
import kdtool


class Targets(kdtool.TokenLoss):
    """Cross-entropy, perhaps with other targets where the token is a `#` or a `9`, which stand in comments alone."""

    class Config(kdtool.Config):
        other: bool = False
        """Use other targets."""

    def kdtool_token_loss(self, chunk):
        comment = (chunk.labels == ord("#")) | (chunk.labels == ord("9"))
        labels = chunk.labels.where(~comment, ord("Q")) if self.config.other else chunk.labels
        return -chunk.student_logits.float().log_softmax(-1).gather(-1, labels[:, None])[:, 0]
'''
CODE = "def f{n}(x):\n    y = x + {n}  # 99 9\n    return 'a' if x else y\n# 9\n"


def learned(comment: float, **more: Any) -> bytes:
    """Return the weights of a tiny student that learned from code by bytes, comments weighing so much."""
    Path("own.py").write_text(OWN, encoding="utf-8")
    if not Path("toy").exists():
        write_toy_model(Path("toy"))
        texts = (CODE.replace("{n}", str(n)) * 3 for n in range(6))
        splits = ["train", "train", "train", "train", "validation", "test"]
        lines = [
            json.dumps({"id": str(n), "text": text, "split": split, "language": "python"})
            for n, (text, split) in enumerate(zip(texts, splits, strict=True))
        ]
        Path("code.jsonl").write_text("\n".join(lines), encoding="utf-8")
    results = kdtool.run(
        {
            "name": f"run-{comment > 0}-{len(more)}",
            "corpus": {"use": "jsonl", "files": ["code.jsonl"]},
            "rows": {"use": "packed", "length": 64},
            "student": {"use": "pretrained", "model": "toy"},
            "trainer": {"use": "standard", "batch": 2, "dtype": "float32", "learning_rate": 1e-2, "compile": "off"},
            "train": {
                "weightings": {"syntax": {"comment": comment}},
                "losses": {"targets": {"use": "./own.py:Targets", **more}},
                "steps": 4,
            },
        }
    )
    return (results.arms[0].path / "model.safetensors").read_bytes()


def test_targets_in_comments_of_weight_0_teach_nothing() -> None:
    assert learned(0.0) == learned(0.0, other=True)
    assert learned(1e-3) != learned(1e-3, other=True), "else the targets are not changed at all"


def test_classes_follow_text_that_is_cut_by_a_real_tokenizer(marked_teacher_folder: Path) -> None:
    from kdtool_essentials.packed import Packed
    from kdtool_torch.weightings import SYNTAX_CLASSES, Syntax
    from kdtool_transformers import open_tokenizer

    tokenizer = open_tokenizer(marked_teacher_folder)
    code = CODE.replace("{n}", "é漢")
    talk = kdtool.Messages((("user", "code!"), ("assistant", f"Here:\n```python\n{code}```\n")))
    names = dict(enumerate(SYNTAX_CLASSES))
    for body, fim in ((kdtool.Text(code), None), (kdtool.Text(code), {"rate": 1.0}), (talk, None)):
        for number in range(20):
            example = kdtool.Example(f"e{number}", body, language="python")
            said = Syntax(Syntax.Config()).kdtool_annotate(example)
            told = kdtool.Example(f"e{number}", body, language="python", annotations=said)
            packer = Packed(Packed.Config.model_validate({"length": 256, "fim": fim}))
            (row,) = packer.kdtool_rows(make_run(Path()), [told], tokenizer)
            pieces = tokenizer.pieces(row.input_ids)
            classes = [names[each] for each in row.columns["syntax"]]
            seen = dict(zip((piece.strip() for piece in pieces), classes, strict=True))
            whole = {b"#": "comment", b"+": "operator"} | ({} if body is talk else {b"return": "keyword"})
            found = {piece: kind for piece, kind in seen.items() if piece in whole}
            assert found.items() <= whole.items()
            assert b"#" in found or fim
            comments = b"".join(p for p, kind in zip(pieces, classes, strict=True) if kind == "comment")
            assert set(comments) <= set(b"# 9\n"), comments
            special = [kind for piece, kind in zip(pieces, classes, strict=True) if not piece]
            assert set(special) == {"other"}


def test_weights_follow_a_value_and_several_schedules_are_multiplied(recipe: dict[str, Any]) -> None:
    at_once = {"use": "on-metric", "watch": "ce", "above": -1.0, "change": "hidden", "factor": 0.5}
    never = {**at_once, "above": 1e6, "factor": 9.0}
    recipe |= {"control": {"match": "tokens", "losses": {"ce": {}}}, "evaluators": {}, "exporters": []}
    recipe["trainer"]["log_every"] = 1
    recipe["train"]["weightings"] = {"a": at_once, "b": {**at_once, "over": 2, "factor": 0.0}, "c": never}
    student, control = kdtool.run(recipe).arms
    weights = [report.terms["hidden"].weight for report in student.histories["train"]]
    assert weights == pytest.approx([1.0, 0.25, 0.0, 0.0, 0.0, 0.0])
    assert {report.terms["ce"].weight for report in control.histories["train"]} == {1.0}


@pytest.mark.parametrize(
    ("weighting", "signals", "told"),
    [
        ({"teacher-entropy": {}}, {"use": "sampled"}, r"teacher-entropy: needs logits of the teacher, .* sampled"),
        ({"teacher-entropy": {}}, {"use": "top-k"}, r"teacher-entropy: needs logits of the teacher, .* top-k"),
        ({"confidence": {}}, {"use": "sampled"}, r"confidence: needs logits or top-k of the teacher, .* sampled"),
        (
            {"later": {"use": "on-metric", "watch": "forward-k", "below": 1.0, "change": "ce"}},
            {"use": "states"},
            r"later: names the loss 'forward-k', which is not in phase 'train'\n.*did you mean 'forward-kl'",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(
    weighting: dict[str, Any], signals: dict[str, Any], told: str, recipe: dict[str, Any]
) -> None:
    recipe |= {"signals": signals}
    recipe["train"] |= {"weightings": weighting, "losses": {"forward-kl": {}, "ce": {}}}
    with pytest.raises(kdtool.RecipeError, match=told):
        kdtool.check(recipe)
