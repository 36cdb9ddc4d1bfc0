"""The suites of losses and caches refuse what is broken. Needs torch, which kdtool itself does not."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_testing import CacheConformance, SequenceLossConformance, TokenLossConformance, make_run

torch = pytest.importorskip("torch")


def run_test(suite: Any, test: str, component: type[kdtool.Component], *given: Any, **more: Any) -> None:
    subject = type("Subject", (suite,), {"component": component, "entry_point": "x", "__module__": __name__, **more})()
    getattr(subject, test)(*given)


def token_loss(function: Any, **attributes: Any) -> type[kdtool.Loss]:
    return type("Some", (kdtool.TokenLoss,), {"kdtool_token_loss": lambda self, chunk: function(chunk), **attributes})


def nll(chunk: kdtool.TokenChunk) -> Any:
    return -chunk.student_logits.float().log_softmax(-1).gather(-1, chunk.labels[:, None])[:, 0]


def naive(chunk: kdtool.TokenChunk) -> Any:
    exponentials = chunk.student_logits.float().exp()
    return -(exponentials / exponentials.sum(-1, keepdim=True)).gather(-1, chunk.labels[:, None])[:, 0].log()


def in_place(chunk: kdtool.TokenChunk) -> Any:
    chunk.student_logits.detach().mul_(0.5)
    return nll(chunk)


def branching(chunk: kdtool.TokenChunk) -> Any:
    value = nll(chunk)
    return value * 2 if value.sum().item() > 1e9 else value


CALLS: list[int] = []


def remembering(chunk: kdtool.TokenChunk) -> Any:
    CALLS.append(1)
    return nll(chunk) * len(CALLS)


class Softened(kdtool.Config):
    """A temperature."""

    temperature: float = kdtool.Field(1.0, gt=0, le=100)
    """Logits are divided by it."""


def distance(chunk: Any) -> Any:
    p, q = ((z.float() / chunk.temperature).softmax(-1) for z in (chunk.teacher.logits, chunk.student_logits))
    return (p - q).abs().sum(-1) / 2


@pytest.mark.parametrize("power", [1, 2])
def test_a_loss_whose_weight_would_grow_with_its_temperature_is_refused(power: int) -> None:
    def build(self: kdtool.Loss, config: Softened) -> None:
        self.config, self.temperature = config, config.temperature

    needs = "logits"
    loss = token_loss(distance, needs=needs, temperature_power=power, Config=Softened, __init__=build)
    with nullcontext() if power == 1 else pytest.raises(AssertionError, match=f"of {power}"):
        run_test(TokenLossConformance, "test_a_weight_means_the_same_at_every_temperature", loss)


@pytest.mark.parametrize(
    ("test", "function"),
    [
        ("test_one_value_a_position_in_float32", lambda c: nll(c).mean()),
        ("test_one_value_a_position_in_float32", lambda c: nll(c).to(c.student_logits.dtype)),
        ("test_positions_do_not_see_each_other", lambda c: nll(c) - nll(c).mean()),
        ("test_nothing_is_changed_in_place_and_nothing_remembered", in_place),
        ("test_nothing_is_changed_in_place_and_nothing_remembered", remembering),
        ("test_its_gradient_is_right", lambda c: nll(c) * nll(c).detach()),
        ("test_it_stays_finite_at_extreme_logits", naive),
        ("test_it_can_be_differentiated_and_compiled_as_one_graph", branching),
    ],
)
def test_a_broken_token_loss_is_seen(test: str, function: Any) -> None:
    def exact(chunk: kdtool.TokenChunk) -> Any:
        double = chunk.student_logits.dtype == torch.float64
        return -chunk.student_logits.log_softmax(-1).gather(-1, chunk.labels[:, None])[:, 0] if double else nll(chunk)

    run_test(TokenLossConformance, test, token_loss(exact))
    with pytest.raises(Exception):  # noqa: B017, PT011 - torch has errors of its own for each
        run_test(TokenLossConformance, test, token_loss(function))


def by_hand(chunk: kdtool.TokenChunk) -> Any:
    logits = chunk.student_logits.to(torch.promote_types(chunk.student_logits.dtype, torch.float32))
    gradient = logits.softmax(-1)
    values = -gradient.gather(-1, chunk.labels[:, None])[:, 0].clamp(min=1e-30).log()
    return values, gradient.scatter_add_(-1, chunk.labels[:, None], -torch.ones_like(gradient[:, :1]))


@pytest.mark.parametrize(
    ("test", "broken"),
    [
        ("test_a_gradient_by_hand_is_that_of_autograd", lambda values, gradient, _: (values, -gradient)),
        ("test_a_gradient_by_hand_is_that_of_autograd", lambda values, gradient, _: (2 * values, gradient)),
        ("test_a_gradient_by_hand_is_that_of_autograd", lambda values, _, chunk: (values, chunk.student_logits)),
        (
            "test_a_gradient_by_hand_is_finite_float32_in_memory_of_its_own",
            lambda values, gradient, chunk: (values, gradient.to(chunk.student_logits.dtype)),
        ),
    ],
)
def test_a_broken_gradient_by_hand_is_seen(test: str, broken: Any) -> None:
    def loss_with(function: Any) -> type[kdtool.Loss]:
        return token_loss(nll, kdtool_token_gradient=lambda self, chunk: function(chunk))

    run_test(TokenLossConformance, test, loss_with(by_hand))
    with pytest.raises(AssertionError):
        run_test(TokenLossConformance, test, loss_with(lambda chunk: broken(*by_hand(chunk), chunk)))


def apart(chunk: kdtool.TokenChunk) -> Any:
    assert chunk.second_logits is not None
    return (chunk.student_logits.float() - chunk.second_logits.float()).square().mean(-1)


@pytest.mark.parametrize(
    ("test", "function"),
    [
        ("test_where_it_asks_for_two_passes_both_are_learned_from", nll),
        ("test_positions_do_not_see_each_other", lambda c: apart(c) - c.second_logits.float().mean()),
        (
            "test_nothing_is_changed_in_place_and_nothing_remembered",
            lambda c: apart(c) + c.second_logits.mul_(0.5).sum(-1),
        ),
        ("test_its_gradient_is_right", lambda c: apart(replace(c, second_logits=c.second_logits.detach())) + nll(c)),
        ("test_it_stays_finite_at_extreme_logits", lambda c: naive(replace(c, student_logits=c.second_logits))),
        (
            "test_a_divergence_is_nothing_between_equals_and_never_negative",
            lambda c: apart(c) + c.second_logits.float().sum(-1),
        ),
    ],
)
def test_a_broken_loss_of_two_passes_is_seen(test: str, function: Any) -> None:
    attributes = {"forward_passes": 2, "divergence": True}
    run_test(TokenLossConformance, test, token_loss(apart, **attributes))
    with pytest.raises(Exception):  # noqa: B017, PT011 - torch has errors of its own for each
        run_test(TokenLossConformance, test, token_loss(function, **attributes))


def test_a_cross_entropy_is_no_divergence() -> None:
    def cross_entropy(chunk: kdtool.TokenChunk) -> Any:
        assert isinstance(chunk.teacher, kdtool.DenseTokens)
        return -(chunk.teacher.logits.softmax(-1) * chunk.student_logits.log_softmax(-1)).sum(-1)

    wrong = token_loss(cross_entropy, divergence=True, needs="logits")
    with pytest.raises(AssertionError):
        run_test(TokenLossConformance, "test_a_divergence_is_nothing_between_equals_and_never_negative", wrong)


def sequence_loss(function: Any, *needs: kdtool.SignalKind, **attributes: Any) -> type[kdtool.Loss]:
    methods = {
        "kdtool_sequence_loss": lambda self, view: function(view),
        "kdtool_layers": lambda self, student, teacher: [(0, 0)],
    }
    return type("Some", (kdtool.SequenceLoss,), {**methods, "needs": (frozenset(needs or {"hidden"}),), **attributes})


@pytest.mark.parametrize(
    ("test", "function"),
    [
        ("test_one_value_a_position_or_a_row", lambda v: kdtool.PerToken(v.student.hidden[0].mean())),
        (
            "test_gradient_reaches_the_student_and_the_modules_and_not_the_teacher",
            lambda v: kdtool.PerToken(v.student.hidden[0].detach().mean(-1).requires_grad_()),
        ),
    ],
)
def test_a_broken_sequence_loss_is_seen(test: str, function: Any) -> None:
    run_test(SequenceLossConformance, test, sequence_loss(lambda v: kdtool.PerToken(v.student.hidden[0].mean(-1))))
    with pytest.raises(AssertionError):
        run_test(SequenceLossConformance, test, sequence_loss(function))


def test_a_sequence_loss_is_given_what_it_says_that_it_needs() -> None:
    def keys(view: kdtool.StepView) -> kdtool.PerToken:
        assert view.teacher is not None
        width = view.teacher.projections[0].keys.shape[2]
        return kdtool.PerToken(view.student.projections[0].keys[view.batch.labels != -100].mean(-1) / width)

    test = "test_gradient_reaches_the_student_and_the_modules_and_not_the_teacher"
    run_test(SequenceLossConformance, test, sequence_loss(keys, "projections"))
    with pytest.raises(KeyError):
        run_test(SequenceLossConformance, test, sequence_loss(keys, "attentions"))


def test_a_sequence_loss_that_is_something_between_equals_is_no_divergence() -> None:
    def apart(view: kdtool.StepView) -> Any:
        assert view.teacher is not None
        return (view.student.attentions[0] - view.teacher.attentions[0])[:, 0]

    test = "test_a_divergence_is_nothing_between_equals_and_never_negative"
    squared = sequence_loss(lambda v: kdtool.PerSequence(apart(v).square().mean((1, 2))), "attentions", divergence=True)
    run_test(SequenceLossConformance, test, squared)
    for wrong in (lambda v: apart(v).mean((1, 2)) + 1, lambda v: apart(v).mean((1, 2))):
        with pytest.raises(AssertionError):
            run_test(
                SequenceLossConformance,
                test,
                sequence_loss(lambda v, wrong=wrong: kdtool.PerSequence(wrong(v)), "attentions", divergence=True),
            )


class Forgetful(kdtool.Cache):
    """A cache in one file: writes at the end, sorts rows by key, checks nothing, and has one batch in mind at a time."""

    offers = frozenset({"logits"})

    def records(self, want: kdtool.SignalRequest, offers: frozenset[kdtool.SignalKind]) -> kdtool.SignalRequest:
        return replace(want, kinds=frozenset({"logits"}))

    def kdtool_record(self, run: kdtool.RunInfo, rows: Any, source: Any, folder: Path) -> int:
        from kdtool_testing import batch_of
        from safetensors.torch import save_file

        found = {rows[i].key: source.signal(batch_of([rows[i]])) for i in range(len(rows))}
        save_file({key: signal.lazy.hidden for key, signal in found.items()}, folder / "all.safetensors")
        return len(rows)

    def kdtool_recall(self, batch: kdtool.Batch, want: kdtool.SignalRequest, folder: Path) -> kdtool.Signal:
        from safetensors.torch import load_file

        self.asked = batch.row_keys
        states = load_file(folder / "all.safetensors")
        head = kdtool.Head(torch.zeros(1, 8), 1)
        parts = [states[key] for key in sorted(self.asked)]
        return kdtool.Signal("small teacher", kdtool.LazyLogits(torch.cat(parts), head))


@pytest.mark.parametrize(
    "test",
    [
        "test_rows_are_recalled_alike_in_any_batch",
        "test_threads_recall_at_the_same_time",
        "test_a_row_that_is_not_there_is_named",
        "test_a_flipped_byte_is_noticed",
        "test_recording_again_asks_for_nothing",
        "test_a_killed_recording_goes_on_where_it_stopped",
        "test_progress_is_told",
    ],
)
def test_a_broken_cache_is_seen(test: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    wants = kdtool.SignalRequest(frozenset({"logits"}))
    suite = type("Subject", (CacheConformance,), {"component": Forgetful, "wants": wants, "__module__": __name__})
    recorded = tmp_path / "signals"
    subject = suite()
    subject._record(run, recorded, subject._teacher())
    given = {
        "test_progress_is_told": (tmp_path,),
        "test_recording_again_asks_for_nothing": (run, recorded),
        "test_a_killed_recording_goes_on_where_it_stopped": (run, recorded),
    }.get(test, (recorded,))
    with pytest.raises((AssertionError, pytest.fail.Exception, IndexError, KeyError)):
        getattr(subject, test)(*given)
