"""The evaluator on small files: conformance, questions as published, whole tokens as CodeXGLUE counts them, a killed run."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
import torch
from kdtool_evaluator_codexglue import CodeXGlue
from kdtool_evaluator_codexglue._lines import lines_of
from kdtool_evaluator_codexglue._tokens import codes_of, likeliest
from kdtool_testing import EvaluatorConformance, OneRuntime, ScriptedRuntime, make_run, write_toy_model
from kdtool_testing.tiny_models import begin_texts_with
from kdtool_torch import exact_head
from kdtool_transformers import TransformersModel, TransformersRuntime, open_model

SUBJECT = kdtool.Subject("student", "student", Path("nowhere"), 0)
PYTHON_LINES = [
    {"id": 7, "input": "<s> import os <EOL> def f ( x ) : <EOL> return", "gt": "x + <NUM_LIT:1>"},
    {"id": 7, "input": "<s> y = <STR_LIT> <EOL>", "gt": "print ( y )"},
]
JAVA_LINES = [{"input": "<s> package a ; import", "gt": "java . util . List ;"}]
CODES = ["<s> import os <EOL> x = os . getcwd ( ) </s>", "<s> <EOL> </s>", "<s> def f ( n ) : <EOL> return n </s>"]


def written(folder: Path) -> dict[str, str]:
    """Write a small file of each task, as its authors do."""
    folder.mkdir(exist_ok=True)
    texts = {"line_completion": "\n".join(map(json.dumps, PYTHON_LINES)), "token_completion": "\n".join(CODES)}
    for name, text in texts.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    return {name: str(folder / name) for name in texts}


class TestCodeXGlue(EvaluatorConformance):
    component = CodeXGlue
    entry_point = "codexglue"
    settings: ClassVar[dict[str, Any]] = {"line_completion": "test.json"}

    def prepare(self, folder: Path) -> dict[str, Any]:
        return written(folder / "files")

    def nothing_to_measure(self, folder: Path) -> Iterator[dict[str, Any]]:
        (folder / "empty").touch()
        yield from ({name: str(folder / "empty")} for name in written(folder))


def evaluate(
    folder: Path, runtime: kdtool.Runtime | None, said: list[str] | None = None, **settings: Any
) -> dict[str, kdtool.Measurement]:
    run = make_run(folder, {"any": OneRuntime(runtime)}, say=(said if said is not None else []).append)
    evaluator = CodeXGlue(CodeXGlue.Config(**settings))
    return {found.name: found for found in evaluator.kdtool_evaluate(run, [SUBJECT])}


def test_each_file_gives_its_measures(tmp_path: Path) -> None:
    said: list[str] = []
    runtime = ScriptedRuntime(lambda _: " x + 1")
    found = evaluate(tmp_path, runtime, said, **written(tmp_path / "files"))
    exact = found["codexglue.python.line.exact-match"]
    assert (exact.value, exact.n, exact.unit) == (0.5, 2, "fraction")
    assert (
        found["codexglue.python.line.edit-similarity"].value == (100 + 25) / 2
    )  # "x + 1" of "print ( y )": " ", " " of 5 + 11
    assert said == ["codexglue.python.token: student is left out, it does not expose the model's predictions"]
    assert all("CodeXGLUE" in one.settings["like"] and one.settings["file"] for one in found.values())
    assert {request.temperature for request in runtime.asked} == {0.0}


def test_questions_are_those_of_the_files(tmp_path: Path) -> None:
    lines = lines_of(Path(written(tmp_path)["line_completion"]), None, {})
    assert lines.questions[0].prompt == "import os <EOL> def f ( x ) : <EOL> return"
    assert lines.stop == ("\n", "<EOL>")
    assert len({question.id for question in lines.questions}) == 2
    (tmp_path / "java").write_text(json.dumps(JAVA_LINES[0]), encoding="utf-8")
    java = lines_of(tmp_path / "java", None, {})
    assert java.stop == ("\n",)
    assert java.cut(" java . util . List ; import b ;") == JAVA_LINES[0]["gt"]


def test_files_may_be_packed_and_some_examples_taken(tmp_path: Path) -> None:
    packed = tmp_path / "test.json.gz"
    packed.write_bytes(gzip.compress("\n".join(map(json.dumps, PYTHON_LINES * 10)).encode()))
    found = evaluate(tmp_path, ScriptedRuntime(lambda _: ""), line_completion=packed, limit=5)
    assert found["codexglue.python.line.exact-match"].n == 5
    assert found["codexglue.python.line.exact-match"].settings["examples"].startswith("at most 5")


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("line_completion", "", r"codexglue\.line_completion.*contains no record.*test\.json"),
        ("line_completion", '{"input": "x", "gt": ""}', r"lacks the ground truth \(`gt`\); take a file that has it"),
        ("token_completion", "x = 1", r"codexglue\.token_completion.*line 1.*<s> and </s>"),
        ("line_completion", '{"input": 1, "gt": "x"}', r"input is 1, not"),
    ],
)
def test_another_file_is_refused_with_what_was_expected(task: str, content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(kdtool.UsageError, match=message):
        evaluate(tmp_path, ScriptedRuntime(lambda _: ""), None, **{task: file})


def test_each_language_has_measurements_of_its_own(tmp_path: Path) -> None:
    lines = {name: tmp_path / f"{name}.json" for name in ("python", "java")}
    for name, records in (("python", PYTHON_LINES), ("java", JAVA_LINES)):
        lines[name].write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    found = [
        name
        for file in lines.values()
        for name in evaluate(tmp_path, ScriptedRuntime(lambda _: "x"), line_completion=file)
    ]
    assert found == [
        f"codexglue.{name}.line.{what}" for name in ("python", "java") for what in ("exact-match", "edit-similarity")
    ]
    assert codes_of(Path(written(tmp_path / "files")["token_completion"]), None)[0] == "python"
    (tmp_path / "java.txt").write_text("<s> int x ; </s>\n", encoding="utf-8")
    assert codes_of(tmp_path / "java.txt", None)[0] == "java"


def test_no_file_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nothing would be measured.*line_completion"):
        CodeXGlue.Config()


def test_a_file_that_is_not_there_is_refused_before_a_run(tmp_path: Path) -> None:
    evaluator = CodeXGlue(CodeXGlue.Config(line_completion=tmp_path / "gone.json"))
    with pytest.raises(kdtool.UsageError, match=r"codexglue\.line_completion.*gone\.json cannot be read"):
        evaluator.kdtool_identity(make_run(tmp_path))


@pytest.fixture
def wrapped(tmp_path: Path) -> TransformersModel:
    return open_model(str(write_toy_model(tmp_path / "model")))


def test_token_accuracy_is_that_of_codexglues_own_count(wrapped: TransformersModel, tmp_path: Path) -> None:
    """Counted once more word by word, as `eval_acc` does, on a model that learnt some of the text by heart."""
    code = " ".join(f"<EOL> value_{i % 3} = compute ( {i % 5} )" for i in range(6))
    model, tokenizer = wrapped.model, wrapped.tokenizer
    ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(code)]])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = model(input_ids=ids, labels=ids).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found = model.eval()(input_ids=ids).logits[0, :-1, : tokenizer.vocabulary].argmax(-1).tolist()
    right, words, start = 0, code.split(" "), 0
    for word in words:
        size = len(word.encode()) + (start > 0)  # a token of this model is a byte
        predicted = tokenizer.decode(found[start : start + size]).strip().split()
        right += word != "<EOL>" and predicted[:1] == [word]
        start += size
    asked = sum(word != "<EOL>" for word in words)
    assert 0 < right < asked
    (tmp_path / "test.txt").write_text(f"<s> {code} </s>\n", encoding="utf-8")
    runtime = TransformersRuntime(wrapped)
    measured = evaluate(tmp_path, runtime, token_completion=tmp_path / "test.txt")["codexglue.python.token-accuracy"]
    assert measured.value == pytest.approx(right / asked)
    assert measured.items is not None
    assert json.loads(measured.items.read_text("utf-8")) == {"item": "1", "sum": right, "weight": asked}
    again = evaluate(tmp_path, None, token_completion=tmp_path / "test.txt")
    assert again["codexglue.python.token-accuracy"] == measured


def test_texts_beyond_the_context_are_read_in_windows(wrapped: TransformersModel) -> None:
    context = wrapped.facts.context
    ids = wrapped.tokenizer.encode("value = compute ( 1 ) " * 30)
    assert len(ids) > 2 * context
    found = likeliest(wrapped, exact_head(wrapped.head), ids)
    assert len(found) == len(ids)
    tokens = [*wrapped.tokenizer.scoring_context, *ids]
    for start, scored in ((0, 0), (context // 2, context), (context, context * 3 // 2)):
        with torch.no_grad():
            logits = wrapped.model.eval()(input_ids=torch.tensor([tokens[start : start + context]])).logits[0]
        expected = logits[:, : wrapped.tokenizer.vocabulary].argmax(-1).tolist()
        assert found[scored : start + context] == expected[scored - start :]


def test_programs_are_read_behind_the_start_of_a_document(wrapped: TransformersModel) -> None:
    wrapped.model.resize_token_embeddings(259)
    torch.nn.init.normal_(wrapped.model.get_input_embeddings().weight, std=0.5)
    wrapped.tokenizer = begin_texts_with(wrapped.tokenizer, "<a>", "<b>")
    ids = wrapped.tokenizer.encode("value = compute ( 1 )")
    with torch.no_grad():
        logits = wrapped.model.eval()(input_ids=torch.tensor([[257, 258, *ids]])).logits[0]
    expected = logits[1:-1].argmax(-1).tolist()
    assert likeliest(wrapped, exact_head(wrapped.head), ids) == expected


def test_the_likeliest_token_of_a_model_in_half_precision_is_not_a_tie_of_rounded_logits(
    wrapped: TransformersModel,
) -> None:
    wrapped.model.to(torch.bfloat16)
    ids = wrapped.tokenizer.encode("value = compute ( 1 ) " * 30)[: wrapped.facts.context]
    tokens = torch.tensor([[*wrapped.tokenizer.scoring_context, *ids]])
    positions = torch.arange(len(ids))[None]
    document = torch.zeros_like(positions, dtype=torch.int32)
    with torch.no_grad():
        states = wrapped.backbone(
            kdtool.Batch(tokens[:, :-1], positions, tokens[:, 1:], document, ("",)), kdtool.SignalRequest()
        ).last
    logits = states.double() @ wrapped.head.weight[: wrapped.tokenizer.vocabulary].double().T
    assert not logits.argmax(-1).equal(logits.bfloat16().argmax(-1)), "rounding would matter here"
    assert likeliest(wrapped, exact_head(wrapped.head), ids) == logits.argmax(-1).tolist()
