"""The harness's own model and a subject of kdtool get equal figures, and each document's score is an item."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from math import exp, log
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
from kdtool_evaluator_lm_eval import LMEval
from kdtool_testing import EvaluatorConformance, OneRuntime, make_run

NAMES = ("own_choice", "own_cloze", "own_text", "own_answer")
"""Tasks in the folder `tasks`, one of each kind of request; the group `own` holds them."""
SUBJECT = kdtool.Subject("student", "student", Path("nowhere"), 0)


def write_tasks(folder: Path, documents: int = 7) -> Path:
    """Copy the tasks into a folder, with a number of their documents, and return it."""
    tasks = folder / "tasks"
    shutil.copytree(Path(__file__).with_name("tasks"), tasks)
    file = tasks / "documents.jsonl"
    file.write_text("".join(file.read_text("utf-8").splitlines(keepends=True)[:documents]), "utf-8")
    return tasks


class TestLMEval(EvaluatorConformance):
    component = LMEval
    entry_point = "lm-eval"
    settings: ClassVar[dict[str, Any]] = {"tasks": ["own_choice", "own_text"], "include": ["tasks"]}

    def prepare(self, folder: Path) -> dict[str, Any]:
        tasks = folder / "tasks"
        return {"tasks": [*NAMES], "include": [str(tasks if tasks.is_dir() else write_tasks(folder))]}

    def nothing_to_measure(self, folder: Path) -> Iterator[dict[str, Any]]:
        yield {"include": [str(write_tasks(folder, documents=0))]}


class Fixed(kdtool.Runtime):
    """Gives each byte the probability 1/4, but 1/2 to a digit; shows no predictions."""

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        raise NotImplementedError

    def score(self, texts: Sequence[str]) -> Iterator[kdtool.LogLikelihood]:
        for text in texts:
            content = text.encode()
            bits = sum(1 if chr(byte).isdigit() else 2 for byte in content)
            yield kdtool.LogLikelihood(-bits * log(2), len(content), len(content))


def evaluate(
    folder: Path, runtime: kdtool.Runtime | None, said: list[str] | None = None, **settings: Any
) -> dict[str, kdtool.Measurement]:
    say = [].append if said is None else said.append
    run = make_run(folder, {"any": OneRuntime(runtime)}, say=say)
    evaluator = LMEval(LMEval.Config(**settings))
    evaluator.kdtool_check(run, "start")
    evaluator.kdtool_check(run, "text")
    return {found.name: found for found in evaluator.kdtool_evaluate(run, [SUBJECT])}


def items(found: kdtool.Measurement) -> list[dict[str, Any]]:
    assert found.items is not None
    return [json.loads(line) for line in found.items.read_text("utf-8").splitlines()]


def test_scores_of_a_model_with_known_probabilities(tmp_path: Path) -> None:
    said: list[str] = []
    found = evaluate(tmp_path, Fixed(), said, tasks=[*NAMES[:3]], include=[write_tasks(tmp_path)])
    assert {name.removeprefix("lm-eval.own_") for name in found} == {
        "choice.acc", "choice.acc_norm", "choice.mcc", "text.word_perplexity", "text.byte_perplexity", "text.bits_per_byte",
    }  # fmt: skip
    assert said == ["lm-eval.own_cloze: student is left out, it does not expose the model's predictions"]
    # " 1" and " i" cost 3 bits each, " n - 1" 11: the first of equal choices wins, and is right for gold 0
    accuracy = found["lm-eval.own_choice.acc"]
    assert [row["sum"] for row in items(accuracy)] == [1, 0, 0, 1, 0, 0, 1]
    assert accuracy.value == pytest.approx(3 / 7)
    assert (accuracy.n, accuracy.unit) == (7, "fraction")
    texts = [f"def f{i}(n):\n    return n * {i}\n# größer" for i in range(7)]
    bits = sum(2 * len(text.encode()) - 2 for text in texts)
    nats, content = bits * log(2), sum(len(text.encode()) for text in texts)
    assert found["lm-eval.own_text.bits_per_byte"].value == pytest.approx(bits / content)
    assert found["lm-eval.own_text.bits_per_byte"].low is not None
    assert found["lm-eval.own_text.byte_perplexity"].value == pytest.approx(exp(nats / content))
    assert found["lm-eval.own_text.word_perplexity"].value == pytest.approx(
        exp(nats / sum(len(re.split(r"\s+", text)) for text in texts))
    )
    together = found["lm-eval.own_choice.mcc"]
    assert together.items is None
    assert together.low is None


def test_requests_are_on_disk_and_not_repeated(tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path)
    first = evaluate(tmp_path, Fixed(), tasks=["own_choice"], include=[tasks], limit=5)
    again = evaluate(tmp_path, None, tasks=["own_choice"], include=[tasks], limit=5)
    assert first == again
    assert first["lm-eval.own_choice.acc"].n == 5


def test_examples_before_each_document_change_the_requests(tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path)
    bare, shown = (
        evaluate(tmp_path, Fixed(), tasks=["own_choice"], include=[tasks], fewshot=number)["lm-eval.own_choice.acc"]
        for number in (0, 2)
    )
    assert (bare.settings["examples before each document"], shown.settings["examples before each document"]) == (
        "0",
        "2",
    )
    assert bare.settings["requests"] != shown.settings["requests"]


def test_the_identity_depends_on_documents(tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path)

    def identity() -> Any:
        return LMEval(LMEval.Config(tasks=("own",), include=(tasks,))).kdtool_identity(make_run(tmp_path))

    before = identity()
    assert before == identity()
    file = tasks / "documents.jsonl"
    file.write_text(file.read_text("utf-8").replace(" n - 1", " n - 2"), "utf-8")
    assert identity() != before


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param(
            {"tasks": ["own_choise"]},
            r"lm-eval\.tasks: unknown task 'own_choise' \(similar: own_choice.*expected a task.*ls tasks",
            marks=pytest.mark.slow,  # reads all tasks of the harness
        ),
        pytest.param(
            {"tasks": ["humaneval"]},
            r"lm-eval\.tasks: 'humaneval' runs programs.*no sandbox; expected.*with humaneval, mbpp",
            marks=pytest.mark.slow,
        ),
        ({"tasks": ["own_choice"], "form": "chat"}, r"lm-eval\.form: 'own_choice' compares likelihoods.*set form: base"),
        ({"tasks": ["own_unsafe"]}, r"lm-eval\.tasks: 'own_unsafe' runs programs"),
        ({"tasks": ["own_gone"]}, r"lm-eval\.tasks: 'own_gone' cannot be loaded: .*expected documents.*data_files"),
        ({"tasks": ["own_beams"]}, r"lm-eval\.tasks: 'own_beams' generates with num_beams.*expected only.*copy of the task"),
    ],
)  # fmt: skip
def test_tasks_that_cannot_be_measured_are_refused_before_training(
    settings: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    tasks = write_tasks(tmp_path)
    answer = (tasks / "own_answer.yaml").read_text("utf-8").replace("own_answer", "{name}")
    (tasks / "unsafe.yaml").write_text(answer.replace("{name}", "own_inner") + "unsafe_code: true\n", "utf-8")
    (tasks / "group.yaml").write_text("group: own_unsafe\ntask:\n  - {task: own_inner, num_fewshot: 1}\n", "utf-8")
    (tasks / "gone.yaml").write_text(
        answer.replace("{name}", "own_gone").replace("documents.jsonl", "gone.jsonl"), "utf-8"
    )
    beams = answer.replace("{name}", "own_beams").replace("max_gen_toks: 12", "max_gen_toks: 12, num_beams: 4")
    (tasks / "beams.yaml").write_text(beams, "utf-8")
    evaluator = LMEval(LMEval.Config(include=(tasks,), **settings))
    with pytest.raises(kdtool.UsageError, match=re.compile(expected, re.DOTALL)):
        evaluator.kdtool_check(make_run(tmp_path), "text")


def test_chats_send_turns(tmp_path: Path) -> None:
    asked: list[kdtool.Request] = []

    class Chat(Fixed):
        def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
            for request in requests:
                asked.append(request)
                yield kdtool.TextAnswer(request.id, " 3", "stop", 1, 1)

    found = evaluate(tmp_path, Chat(), tasks=["own_answer"], include=[write_tasks(tmp_path)], form="chat")
    assert found["lm-eval.own_answer.exact_match.first"].value == pytest.approx(1 / 7)
    assert [row["shown"]["target"] for row in items(found["lm-eval.own_answer.exact_match.first"])][3] == " 3"
    assert {(request.turns[0][0], request.prompt, request.max_tokens, request.stop) for request in asked} == {
        ("user", "", 12, ("\n\n",))
    }


def test_a_real_model_gets_the_figures_of_the_harness(tmp_path: Path) -> None:
    """The same weights, opened by the harness itself and by kdtool: every metric of every task."""
    pytest.importorskip("kdtool_transformers")
    import torch
    import transformers
    from kdtool_testing.tiny_models import save_starcoder2_tokenizer, tiny_config
    from kdtool_transformers import TransformersRuntime, open_model
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folder = tmp_path / "model"
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(tiny_config(vocabulary=320, bos_token_id=0, eos_token_id=0))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    model.save_pretrained(folder)
    save_starcoder2_tokenizer(folder, 320, 100_000)
    tasks = write_tasks(tmp_path)
    opened = open_model(folder, dtype=torch.float32, offline=True)

    class Opening(OneRuntime):
        def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
            return TransformersRuntime(opened)

    evaluator = LMEval(LMEval.Config(tasks=("own",), include=(tasks,)))
    run = make_run(tmp_path, {"any": Opening(None)})
    found = {each.name: each for each in evaluator.kdtool_evaluate(run, [SUBJECT])}
    for file in tasks.glob("own_*.yaml"):  # the harness reads paths from the working directory
        file.write_text(file.read_text("utf-8").replace("documents.jsonl", str(tasks / "documents.jsonl")), "utf-8")
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    harness = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)
    expected = simple_evaluate(harness, tasks=["own"], task_manager=manager, bootstrap_iters=0)
    assert expected is not None
    compared = set()
    for task, metrics in expected["results"].items():
        for key, value in metrics.items():
            metric, _, filter_ = key.partition(",")
            name = f"lm-eval.{task}.{metric}" + ("" if filter_ == "none" else f".{filter_}")
            if name in found:
                assert found[name].value == pytest.approx(value, rel=1e-4), name
                compared.add(name)
    assert compared == found.keys()
    assert len(compared) == 10
    replies = [[sample["resps"][0][0] for sample in expected["samples"]["own_answer"][:7]]]
    assert replies == [[row["shown"]["answer"] for row in items(found["lm-eval.own_answer.exact_match.first"])]]
