"""The suites of losses and caches refuse what is broken. Needs torch, which kdtool itself does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
from case import subject
from kdtool_testing import CacheConformance, SequenceLossConformance, TokenLossConformance, make_run

torch = pytest.importorskip("torch")


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


def build_softened(self: Any, config: Softened) -> None:
    self.config, self.temperature = config, config.temperature


def softened(power: int) -> type[kdtool.Loss]:
    attributes = {"needs": "logits", "temperature_power": power, "Config": Softened, "__init__": build_softened}
    return token_loss(distance, **attributes)


def exact(chunk: kdtool.TokenChunk) -> Any:
    double = chunk.student_logits.dtype == torch.float64
    return -chunk.student_logits.log_softmax(-1).gather(-1, chunk.labels[:, None])[:, 0] if double else nll(chunk)


def by_hand(chunk: kdtool.TokenChunk) -> Any:
    logits = chunk.student_logits.to(torch.promote_types(chunk.student_logits.dtype, torch.float32))
    gradient = logits.softmax(-1)
    values = -gradient.gather(-1, chunk.labels[:, None])[:, 0].clamp(min=1e-30).log()
    return values, gradient.scatter_add_(-1, chunk.labels[:, None], -torch.ones_like(gradient[:, :1]))


def with_gradient(changed: Any) -> type[kdtool.Loss]:
    return token_loss(nll, kdtool_token_gradient=lambda self, chunk: changed(*by_hand(chunk), chunk))


def two_passes(function: Any) -> type[kdtool.Loss]:
    return token_loss(function, forward_passes=2, divergence=True)


def apart(chunk: Any) -> Any:
    return (chunk.student_logits.float() - chunk.second_logits.float()).square().mean(-1)


def divergence_of_teacher(function: Any) -> type[kdtool.Loss]:
    return token_loss(lambda chunk: function(chunk).sum(-1), divergence=True, needs="logits")


def forward_kl(chunk: Any) -> Any:
    p, q = (z.float().log_softmax(-1) for z in (chunk.teacher.logits, chunk.student_logits))
    return p.exp() * (p - q)


def sequence_loss(function: Any, needs: kdtool.SignalKind = "hidden", **attributes: Any) -> type[kdtool.Loss]:
    methods = {
        "kdtool_sequence_loss": lambda self, view: function(view),
        "kdtool_layers": lambda self, student, teacher: [(0, 0)],
    }
    return type("Some", (kdtool.SequenceLoss,), {**methods, "needs": (frozenset({needs}),), **attributes})


def keys(view: Any) -> kdtool.PerToken:
    width = view.teacher.projections[0].keys.shape[2]
    return kdtool.PerToken(view.student.projections[0].keys[view.batch.labels != -100].mean(-1) / width)


def maps(function: Any) -> type[kdtool.Loss]:
    def value(view: Any) -> kdtool.PerSequence:
        return kdtool.PerSequence(function((view.student.attentions[0] - view.teacher.attentions[0])[:, 0]))

    return sequence_loss(value, "attentions", divergence=True)


GRADIENT = "test_a_gradient_by_hand_is_that_of_autograd"
UNCHANGED = "test_nothing_is_changed_in_place_and_nothing_remembered"
ZERO = "test_a_divergence_is_nothing_between_equals_and_never_negative"
REACHES = "test_gradient_reaches_the_student_and_the_modules_and_not_the_teacher"
EXACT, RIGHT_GRADIENT, APART = token_loss(exact), with_gradient(lambda v, g, _: (v, g)), two_passes(apart)
MEAN = sequence_loss(lambda v: kdtool.PerToken(v.student.hidden[0].mean(-1)))
SQUARED = maps(lambda d: d.square().mean((1, 2)))
LOSSES = [
    ("test_a_weight_means_the_same_at_every_temperature", softened(1), softened(2)),
    ("test_one_value_a_position_in_float32", EXACT, token_loss(lambda c: nll(c).mean())),
    ("test_one_value_a_position_in_float32", EXACT, token_loss(lambda c: nll(c).to(c.student_logits.dtype))),
    ("test_positions_do_not_see_each_other", EXACT, token_loss(lambda c: nll(c) - nll(c).mean())),
    (UNCHANGED, EXACT, token_loss(in_place)),
    (UNCHANGED, EXACT, token_loss(remembering)),
    ("test_its_gradient_is_right", EXACT, token_loss(lambda c: nll(c) * nll(c).detach())),
    ("test_it_stays_finite_at_extreme_logits", EXACT, token_loss(naive)),
    ("test_it_can_be_differentiated_and_compiled_as_one_graph", EXACT, token_loss(branching)),
    (GRADIENT, RIGHT_GRADIENT, with_gradient(lambda v, g, _: (v, -g))),
    (GRADIENT, RIGHT_GRADIENT, with_gradient(lambda v, g, _: (2 * v, g))),
    (GRADIENT, RIGHT_GRADIENT, with_gradient(lambda v, g, c: (v, c.student_logits))),
    (
        "test_a_gradient_by_hand_is_finite_float32_in_memory_of_its_own",
        RIGHT_GRADIENT,
        with_gradient(lambda v, g, c: (v, g.to(c.student_logits.dtype))),
    ),
    ("test_where_it_asks_for_two_passes_both_are_learned_from", APART, two_passes(nll)),
    ("test_positions_do_not_see_each_other", APART, two_passes(lambda c: apart(c) - c.second_logits.float().mean())),
    (UNCHANGED, APART, two_passes(lambda c: apart(c) + c.second_logits.mul_(0.5).sum(-1))),
    (
        "test_its_gradient_is_right",
        APART,
        two_passes(lambda c: apart(replace(c, second_logits=c.second_logits.detach())) + nll(c)),
    ),
    (ZERO, APART, two_passes(lambda c: apart(c) + c.second_logits.float().sum(-1))),
    (
        ZERO,
        divergence_of_teacher(forward_kl),
        divergence_of_teacher(lambda c: -(c.teacher.logits.softmax(-1) * c.student_logits.log_softmax(-1))),
    ),
    ("test_one_value_a_position_or_a_row", MEAN, sequence_loss(lambda v: kdtool.PerToken(v.student.hidden[0].mean()))),
    (REACHES, MEAN, sequence_loss(lambda v: kdtool.PerToken(v.student.hidden[0].detach().mean(-1).requires_grad_()))),
    (REACHES, sequence_loss(keys, "projections"), sequence_loss(keys, "attentions")),
    (ZERO, SQUARED, maps(lambda d: d.mean((1, 2)) + 1)),
    (ZERO, SQUARED, maps(lambda d: d.mean((1, 2)))),
]


@pytest.mark.parametrize(("test", "sound", "broken"), LOSSES)
def test_a_broken_loss_is_seen(test: str, sound: type[kdtool.Loss], broken: type[kdtool.Loss]) -> None:
    suite = TokenLossConformance if issubclass(sound, kdtool.TokenLoss) else SequenceLossConformance
    getattr(subject(suite, sound), test)()
    with pytest.raises((AssertionError, KeyError, RuntimeError)):  # torch's own are RuntimeErrors
        getattr(subject(suite, broken), test)()


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
    recorded = tmp_path / "signals"
    suite = subject(CacheConformance, Forgetful, wants=wants)
    suite._record(run, recorded, suite._teacher())
    given = {
        "test_progress_is_told": (tmp_path,),
        "test_recording_again_asks_for_nothing": (run, recorded),
        "test_a_killed_recording_goes_on_where_it_stopped": (run, recorded),
    }.get(test, (recorded,))
    with pytest.raises((AssertionError, pytest.fail.Exception, IndexError, KeyError)):
        getattr(suite, test)(*given)
