"""Agreement against a plain computation of whole logits, and what happens to subjects that cannot be compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
import transformers
from kdtool_evaluator_agreement import Agreement
from kdtool_evaluator_agreement._divergence import Encoded, TeacherFiles, agreement, final_states, heads_of
from kdtool_measuring import Document
from kdtool_testing import EvaluatorConformance, make_run
from kdtool_testing.tiny_models import begin_texts_with
from kdtool_transformers import TransformersModel, TransformersRuntime, TransformersTokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXTS = [f"def f{i}(n):\n    return n * {i}\n" * (i + 1) for i in range(5)]
EXAMPLES = [kdtool.Example(f"d{i}", kdtool.Text(text), split="test") for i, text in enumerate(TEXTS)]
TEACHER = kdtool.Subject("teacher", "teacher")
STUDENT = kdtool.Subject("student", "student", Path("student"), 0)
CONTROL = kdtool.Subject("control", "control", Path("control"), 0)


class TestAgreement(EvaluatorConformance):
    component = Agreement
    entry_point = "agreement"


class Opener(kdtool.Exporter):
    """Opens each subject by its name, and counts."""

    def __init__(self, **runtimes: kdtool.Runtime) -> None:
        super().__init__(self.Config())
        self.runtimes = runtimes
        self.opened: list[str] = []

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        self.opened.append(subject.name)
        return self.runtimes.get(subject.name)


def make_tokenizer(more: str = "") -> TransformersTokenizer:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([*TEXTS, more], trainer)
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>")
    return TransformersTokenizer(wrapped)


def make_model(
    seed: int, hidden: int, tokenizer: TransformersTokenizer, padding: int = 0, context: int = 64
) -> TransformersModel:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocabulary + padding,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.3,
    )
    return TransformersModel(transformers.LlamaForCausalLM(config).eval(), tokenizer)


def make_gpt2(tokenizer: TransformersTokenizer, context: int) -> TransformersModel:
    """A model with a vector for each place: behind its context there is none."""
    torch.manual_seed(2)
    config = transformers.GPT2Config(
        vocab_size=tokenizer.vocabulary, n_embd=16, n_layer=1, n_head=2, n_positions=context, initializer_range=0.3
    )
    return TransformersModel(transformers.GPT2LMHeadModel(config).eval(), tokenizer)


def record(folder: Path, teacher: TransformersModel) -> TeacherFiles:
    documents = [Document(f"d{number}", text) for number, text in enumerate(TEXTS)]
    return TeacherFiles.record(folder, teacher, documents, 512, "", lambda: None)


def evaluate(run: kdtool.RunInfo, *subjects: kdtool.Subject, **settings: Any) -> dict[tuple[str, str], Any]:
    evaluator = Agreement(Agreement.Config(**settings))
    return {(found.name, found.subject): found for found in evaluator.kdtool_evaluate(run, subjects)}


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain computation is in float32, so the evaluator's must be."""
    monkeypatch.setattr("kdtool_evaluator_agreement._divergence.compute_dtype", lambda name, device: torch.float32)


def compared(
    teacher: TransformersModel, student: TransformersModel, texts: list[list[int]], size: int, context: list[int]
) -> tuple[float, float, int]:
    """Return the mean divergence and agreement over the first `size` tokens, and the count, by whole logits."""
    divergence, same, tokens = 0.0, 0.0, 0
    for text in texts:
        logs = []
        for model in (teacher, student):
            model.model.set_attn_implementation("eager")
            with torch.no_grad():
                logits = model.model(input_ids=torch.tensor([[*context, *text[:-1]]])).logits[0]
            logs.append(logits[len(context) - 1 :, :size].double().log_softmax(-1))
        divergence += float(torch.nn.functional.kl_div(logs[1], logs[0], reduction="sum", log_target=True))
        same += float((logs[0].argmax(-1) == logs[1].argmax(-1)).sum())
        tokens += len(text)
    return divergence / tokens, same / tokens, tokens


@pytest.mark.parametrize("start", [(), ("<s>",), ("[gMASK]", "<sop>")])
def test_it_equals_a_plain_computation_of_all_logits(start: tuple[str, ...], tmp_path: Path) -> None:
    tokenizer = begin_texts_with(make_tokenizer(), *start) if start else make_tokenizer()
    context = list(tokenizer.scoring_context)
    assert len(context) == max(1, len(start))
    teacher, student = make_model(0, 32, tokenizer, padding=7), make_model(1, 16, tokenizer)
    opener = Opener(
        teacher=TransformersRuntime(teacher), student=TransformersRuntime(student), control=TransformersRuntime(teacher)
    )
    found = evaluate(make_run(tmp_path, {"any": opener}, EXAMPLES), STUDENT, TEACHER, CONTROL, tokens=40)
    divergence, same, tokens = compared(
        teacher, student, [tokenizer.encode(text)[:40] for text in TEXTS], tokenizer.vocabulary, context
    )
    measured = found["kl-to-teacher", "student"]
    assert measured.value == pytest.approx(divergence, rel=1e-4)
    assert measured.settings["tokens"] == str(tokens)
    assert measured.low < measured.value < measured.high
    assert found["top-1-agreement-with-teacher", "student"].value == pytest.approx(same)
    assert found["kl-to-teacher", "control"].value == pytest.approx(0, abs=1e-6)
    assert found["top-1-agreement-with-teacher", "control"].value == 1.0
    assert opener.opened.count("teacher") == 1
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == [".jsonl"] * 4


class Capped(TransformersModel):
    """A model whose head has all that a head can have."""

    @property
    def head(self) -> kdtool.Head:
        head = super().head
        return replace(head, bias=torch.linspace(-1, 1, len(head.weight)), soft_cap=20.0, scale=0.5)


class Named(kdtool.Teacher):
    """A teacher whose tokenizer is known without its weights."""

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return make_tokenizer()

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        raise NotImplementedError


def test_it_is_the_same_with_states_of_the_teacher_s_own_call(tmp_path: Path) -> None:
    folders = together, before, after = [tmp_path / name for name in ("together", "before", "after")]
    for folder in folders:
        folder.mkdir()
    tokenizer = make_tokenizer()
    teacher = Capped(make_model(0, 32, tokenizer, padding=7).model, tokenizer)
    student = make_model(1, 16, tokenizer)
    both = Opener(teacher=TransformersRuntime(teacher), student=TransformersRuntime(student))
    expected = evaluate(make_run(together, {"any": both}, EXAMPLES), TEACHER, STUDENT, tokens=40)
    assert expected.keys() == {("kl-to-teacher", "student"), ("top-1-agreement-with-teacher", "student")}
    alone = Opener(teacher=TransformersRuntime(teacher))
    assert evaluate(make_run(before, {"any": alone}, EXAMPLES), TEACHER, tokens=40) == {}
    known = {"teacher": Named(Named.Config()), "any": Opener(student=TransformersRuntime(student))}
    found = evaluate(make_run(after, known, EXAMPLES), replace(TEACHER, files=before), STUDENT, tokens=40)
    assert {key: (one.value, one.settings) for key, one in found.items()} == {
        key: (one.value, one.settings) for key, one in expected.items()
    }
    heard: list[str] = []
    run = make_run(after, known, EXAMPLES, say=heard.append)
    assert evaluate(run, replace(TEACHER, files=together / "nothing"), STUDENT) == {}
    (line,) = heard
    assert line.startswith("agreement: nothing is compared with teacher, which does not expose its states; use")


def test_a_model_is_compared_up_to_where_its_context_ends(tmp_path: Path) -> None:
    heard: list[str] = []
    tokenizer = make_tokenizer()
    models = {"student": make_model(1, 16, tokenizer, context=8), "control": make_gpt2(tokenizer, 16)}
    opener = Opener(
        teacher=TransformersRuntime(make_model(0, 32, tokenizer)),
        **{name: TransformersRuntime(model) for name, model in models.items()},
    )
    run = make_run(tmp_path, {"any": opener}, EXAMPLES, say=heard.append)
    found = evaluate(run, TEACHER, STUDENT, CONTROL, tokens=40)
    for name, tokens in (("student", 8), ("control", 16)):
        measured = found["kl-to-teacher", name]
        assert measured.settings["texts"].startswith(f"5 documents, each cut after {tokens} tokens")
        again = Opener(
            teacher=TransformersRuntime(make_model(0, 32, tokenizer)), **{name: TransformersRuntime(models[name])}
        )
        subject = {"student": STUDENT, "control": CONTROL}[name]
        asked = evaluate(make_run(tmp_path, {"any": again}, EXAMPLES), TEACHER, subject, tokens=tokens)
        assert asked["kl-to-teacher", name].settings["texts"] == measured.settings["texts"]
        assert asked["kl-to-teacher", name].value == pytest.approx(measured.value, rel=1e-4)
    heard = [line for line in heard if "which kdtool puts before a text" not in line]
    assert len(heard) == 2
    assert "student is compared on the first 8 tokens of each document, and not on 40" in heard[0]
    assert opener.opened == ["teacher", "student", "control"]


def test_another_tokenizer_is_said_and_left_out(tmp_path: Path) -> None:
    heard: list[str] = []
    tokenizer, other = make_tokenizer(), make_tokenizer("lambda lambda lambda" * 50)
    opener = Opener(
        teacher=TransformersRuntime(make_model(0, 16, tokenizer)), student=TransformersRuntime(make_model(0, 16, other))
    )
    run = make_run(tmp_path, {"any": opener}, EXAMPLES, say=heard.append)
    assert evaluate(run, TEACHER, STUDENT, CONTROL) == {}
    sizes = f"student has {other.vocabulary} tokens and teacher {tokenizer.vocabulary}"
    assert heard[0].startswith(f"agreement: student is left out: {sizes}; the first ids with different tokens")
    assert heard[1:] == [
        "agreement: control is left out, no component opens it; its component must implement kdtool_open"
    ]


@pytest.mark.parametrize("longer", ["teacher", "student"])
def test_a_vocabulary_that_goes_on_is_compared_over_what_both_have(tmp_path: Path, longer: str) -> None:
    heard: list[str] = []
    marks = [f"<mark_{number}>" for number in range(5)]
    tokenizers = {name: make_tokenizer() for name in ("teacher", "student")}
    size = make_tokenizer().vocabulary
    tokenizers[longer]._backend.add_tokens(marks)
    models = {name: make_model(seed, 16, tokenizers[name], padding=3) for seed, name in enumerate(tokenizers)}
    opener = Opener(**{name: TransformersRuntime(model) for name, model in models.items()})
    marked = [*EXAMPLES, kdtool.Example("marked", kdtool.Text("def <mark_0>"), split="test")]
    run = make_run(tmp_path, {"any": opener}, marked, say=heard.append)
    found = evaluate(run, TEACHER, STUDENT, tokens=40)["kl-to-teacher", "student"]
    heard = [line for line in heard if "which kdtool puts before a text" not in line]
    assert len(heard) == 1
    assert f"the first {size} are the same" in heard[0]
    texts = [tokenizers["teacher"].encode(text)[:40] for text in (*TEXTS, "def <mark_0>")]
    readable = [ids for ids in texts if max(ids) < size]  # by the student
    divergence, _, _ = compared(
        models["teacher"], models["student"], readable, size, list(tokenizers["teacher"].scoring_context)
    )
    assert found.value == pytest.approx(divergence, rel=1e-4)
    assert found.n == (5 if longer == "teacher" else 6)
    assert found.settings["tokens compared"] == f"the first {size}, which both have"


@pytest.mark.parametrize(
    ("subjects", "said"),
    [
        ([STUDENT], "no teacher of this run can be opened"),
        ([replace(TEACHER, name="remote"), STUDENT], "does not expose the model's states"),
    ],
)
def test_a_run_that_cannot_be_measured_says_why(tmp_path: Path, subjects: list[kdtool.Subject], said: str) -> None:
    class Remote(kdtool.Runtime):
        def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
            raise NotImplementedError

    heard: list[str] = []
    run = make_run(tmp_path, {"any": Opener(remote=Remote())}, EXAMPLES, say=heard.append)
    assert evaluate(run, *subjects) == {}
    assert len(heard) == 1
    assert said in heard[0]


def test_logits_are_not_rounded_to_half_precision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """States come from bfloat16; what is compared is as exact as float64 makes of them."""
    monkeypatch.setattr("kdtool_evaluator_agreement._divergence.compute_dtype", lambda name, device: torch.bfloat16)
    tokenizer = make_tokenizer()
    teacher, student = make_model(0, 32, tokenizer), make_model(1, 16, tokenizer)
    states = record(tmp_path, teacher)
    document = Encoded(0, "d", tuple(tokenizer.encode(TEXTS[0])))
    found = agreement(student, document, states, heads_of(student, states, tokenizer.vocabulary))
    own, other = (
        (final_states(model, document).double() @ model.head.weight.double().T).log_softmax(-1)
        for model in (student, teacher)
    )
    torch.testing.assert_close(found.divergence.double(), (other.exp() * (other - own)).sum(-1), rtol=1e-5, atol=1e-5)
    assert found.same_first.equal(own.argmax(-1) == other.argmax(-1))
