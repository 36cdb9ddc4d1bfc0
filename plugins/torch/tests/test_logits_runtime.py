"""A teacher opened by its logits alone: against sums by hand, and under the checks of all runtimes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log
from pathlib import Path
from typing import Any, cast

import kdtool
import pytest
import torch
from kdtool_testing import ByteTokenizer, make_run
from kdtool_testing.model_checks import check_answers, check_runtime
from kdtool_testing.toy import StartedTokenizer
from kdtool_torch import LogitsRuntime


class Pairs(kdtool.Teacher):
    """Random probabilities of a byte after another one."""

    offers = frozenset({"logits"})
    tokenizer: kdtool.Tokenizer = ByteTokenizer()

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return self.tokenizer

    def table(self) -> torch.Tensor:
        """Logits [before, after]."""
        size = self.tokenizer.vocabulary
        return torch.randn(size, size, generator=torch.Generator().manual_seed(1))

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        assert want.kinds == {"logits"}
        states = self.table()[batch.input_ids[batch.labels != -100]]
        head = kdtool.Head(torch.eye(self.tokenizer.vocabulary), self.tokenizer.vocabulary)
        return kdtool.Signal("pairs", kdtool.LazyLogits(states, head))


class Begun(Pairs):
    """Texts behind a start."""

    tokenizer = StartedTokenizer()


class Silent(Pairs):
    """Offers logits, and signals none."""

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        return kdtool.Signal("silent")


def opened(teacher: type[Pairs], folder: Path) -> LogitsRuntime:
    return LogitsRuntime(teacher(teacher.Config()), make_run(folder))


@pytest.mark.parametrize("teacher", [Pairs, Begun])
def test_a_text_is_scored_behind_the_scoring_context(teacher: type[Pairs], tmp_path: Path) -> None:
    text = "x = [1, 2]\n" * 100  # longer than what is projected at once
    ids = [*teacher.tokenizer.scoring_context, *text.encode()]
    expected = float(teacher(teacher.Config()).table().double().log_softmax(-1)[ids[:-1], ids[1:]].sum())
    score, empty = opened(teacher, tmp_path).score([text, ""])
    assert score.log_likelihood == pytest.approx(expected, rel=1e-5)
    assert (score.tokens, score.bytes) == (len(text), len(text))
    assert empty == kdtool.LogLikelihood(0.0, 0, 0)


@pytest.mark.parametrize("teacher", [Pairs, Begun])
def test_it_does_what_all_runtimes_do(teacher: type[Pairs], tmp_path: Path) -> None:
    runtime = opened(teacher, tmp_path)
    check_runtime(runtime)
    check_answers(runtime.answer)
    assert runtime.tokenizer.fingerprint == teacher.tokenizer.fingerprint


def test_temperature_draws_from_the_request_s_seed(tmp_path: Path) -> None:
    runtime = opened(Pairs, tmp_path)
    requests = [kdtool.Request(str(seed), "", 40, temperature=1.0, seed=seed % 2) for seed in range(4)]
    texts = [found.text for found in runtime.answer(requests)]
    assert texts[:2] == texts[2:]
    assert texts[0] != texts[1]
    score = next(runtime.score(["x"]))
    assert score.log_likelihood > -3 * log(257), "logits are those of one token, behind the end of a text"


def test_a_teacher_without_the_logits_that_it_offers_is_named(tmp_path: Path) -> None:
    with pytest.raises(kdtool.PluginError, match="Silent is opened by its logits, but signals none"):
        list(opened(Silent, tmp_path).score(["x"]))


class Faulty(Pairs):
    """Returns a wrong signal, and is measured by it."""

    returned: Any = None

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        return cast("kdtool.Signal", self.returned)

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime:
        return LogitsRuntime(self, run)


class Scores(kdtool.Evaluator):
    """Scores a text by the teacher."""

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        runtime = kdtool.open_subject(run, subjects[0])
        assert runtime is not None
        found = next(runtime.value.score(["x"])).log_likelihood
        yield kdtool.Measurement("nats", subjects[0].name, "nats", found, 1, False)


EYE = kdtool.Head(torch.eye(257), 257)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "kdtool_signal must return Signal, but returned None"),
        (kdtool.DenseTokens(torch.zeros(1, 257)), "kdtool_signal must return Signal, but returned an object of class"),
        (kdtool.Signal("two", kdtool.LazyLogits(torch.zeros(2, 257), EYE)), "its signal has 2 rows in lazy"),
        (
            kdtool.Signal("narrow", kdtool.LazyLogits(torch.zeros(1, 9), EYE)),
            "its signal has width 9 in lazy.hidden, but its",
        ),
        (kdtool.Signal("odd", cast("Any", torch.zeros(1, 9))), "the answer.lazy is of class Tensor, not LazyLogits"),
    ],
)
def test_a_wrong_signal_names_the_teacher_also_when_it_is_measured(returned: Any, message: str, tmp_path: Path) -> None:
    teacher = Faulty(Faulty.Config())
    teacher.returned = returned
    run = make_run(tmp_path, {"evaluator": Scores(Scores.Config()), "teacher": teacher})
    subjects = [kdtool.Subject("teacher", "teacher", None, 0)]
    with pytest.raises(kdtool.PluginError, match=f"Faulty: .*{message}"):
        list(run.component("evaluator", kdtool.Evaluator).kdtool_evaluate(run, subjects))


def test_a_signal_of_logits_gives_them_back_exactly_and_has_no_gradient() -> None:
    logits = torch.randn(5, 7, requires_grad=True)
    for given in (logits, logits.double(), logits[:0]):
        signal = kdtool.Signal.of_logits("table", given)
        assert signal.lazy is not None
        found = signal.lazy.head.logits(signal.lazy.hidden)
        assert found.equal(given.detach().float())
        assert not found.requires_grad
    with torch.inference_mode():
        kdtool.Signal.of_logits("table", torch.randn(2, 9))
    head = kdtool.Signal.of_logits("table", torch.randn(2, 9)).lazy
    assert head is not None
    assert not head.head.weight.is_inference()
