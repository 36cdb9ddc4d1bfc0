"""Text of the student's own: which steps, what they hold, what is learned from them, and what stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from kdtool_testing import ListSource, make_run
from kdtool_torch import collate
from kdtool_torch.trainer import OnPolicy, StandardTrainer
from kdtool_torch.trainer.on_policy import OnPolicySampler
from safetensors.torch import load_file
from torch import Tensor
from trainer_models import (
    LENGTH,
    MIXTURE,
    VOCABULARY,
    TinyModel,
    TinyTeacher,
    Tokens,
    first_gradients,
    full_logits,
    make_model,
    make_rows,
    reports_of,
    train,
    train_terms,
    worst_difference,
)
from trainer_process import start_ranks, train_recorded

END = VOCABULARY - 1


class Noted(TinyModel):
    """Notes the batches that it runs, and what it is asked to continue in which mode; writes always the same token."""

    def __init__(self, blocks: Any, writes: int | None = None) -> None:
        super().__init__(blocks)
        self.writes = writes
        self.batches: list[kdtool.Batch] = []
        self.asked: list[tuple[list[list[int]], list[int], list[int]]] = []

    def backbone(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.ModelOutputs:
        if self.model.training:
            self.batches.append(batch)
        return super().backbone(batch, want)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        temperature: float,
        seeds: Sequence[int],
        top_p: float = 1.0,
    ) -> list[list[int]]:
        self.asked.append(([list(prompt) for prompt in prompts], list(limits), list(seeds)))
        if self.writes is None:
            return super().generate(prompts, limits, temperature, seeds, top_p)
        return [[self.writes] * (1 if self.writes == END else limit) for limit in limits]


def noted(writes: int | None = None, dropout: float = 0.0) -> Noted:
    return Noted(make_model(1, dropout=dropout).model, writes)


def row(key: str, documents: Sequence[tuple[Sequence[int], int]], length: int = 16) -> kdtool.Row:
    """Return a row of documents, each with how many of its tokens are not learned."""
    ids, labelled, numbers = list[int](), list[bool](), list[int]()
    for number, (tokens, first) in enumerate(documents):
        ids += tokens
        labelled += [place >= first for place in range(len(tokens))]
        numbers += [number] * len(tokens)
    missing = length - len(ids)
    padded = ids + [END] * missing, labelled + [False] * missing, numbers + [-1] * missing
    return kdtool.Row(key, *padded, {"kind": list(range(length))})


def written(student: Noted, *rows: kdtool.Row, tokens: int = 4, prompt: float = 0.5) -> kdtool.Batch:
    sampler = OnPolicySampler(
        OnPolicy(fraction=1, tokens=tokens, prompt=prompt), make_run(Path()), student, torch.float32
    )
    return sampler(collate(rows), step=3, number=0)


def test_what_the_student_writes_takes_the_place_of_what_was_learned() -> None:
    student = noted(writes=7)
    whole, answer, cut = [10, 11, 12, 13, 14, 15], [20, 21, 22, END], [30]
    batch = written(student, row("a", [(whole, 0), (answer, 2), (cut, 0)]), tokens=2)
    assert student.asked[0][:2] == ([[10, 11, 12], [20, 21]], [2, 2])
    assert batch.input_ids.tolist() == [[10, 11, 12, 7, 7, 20, 21, 7, 7, 30, *[END] * 6]]
    assert batch.document.tolist() == [[0] * 5 + [1] * 4 + [2] + [-1] * 6]
    assert batch.positions.tolist()[0][:10] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 0]
    learned = [2, 3, 6, 7]  # the positions before what was written
    assert batch.labels.tolist() == [[7 if place in learned else -100 for place in range(16)]]
    assert batch.columns["student_generated"].tolist() == [[int(place in learned) for place in range(16)]]
    assert not batch.columns["kind"].any(), "what the packer said of tokens is not known of these"
    assert len(batch.row_keys) == 1


class Begun(Tokens):
    """A tokenizer that begins each document with token 9."""

    document_start = (9,)


def test_documents_that_begin_with_a_start_have_the_same_prompts() -> None:
    """Documents: a whole one, one that continues, so that its first token of text is not learned, and an answer."""
    student = noted(writes=7)
    student.tokenizer = Begun()
    whole, continued, answer = [9, *range(10, 15)], [9, *range(20, 25)], [9, 30, 31, END]
    written(student, row("a", [(whole, 1), (continued, 2), (answer, 3)]))
    assert student.asked[0][0] == [[9, 10, 11], [9, 20, 21], [9, 30, 31]]


def test_each_text_has_no_more_room_than_it_had_and_ends_where_the_student_ends_it() -> None:
    rows = row("a", [(range(1, 9), 0), (range(20, 28), 7)]), row("b", [(range(40, 56), 0)])
    student = noted(writes=7)
    batch = written(student, *rows, tokens=100, prompt=0.3)
    assert student.asked[0][0] == [[1, 2], [20, 21, 22, 23, 24, 25, 26], [40, 41, 42, 43]]
    assert student.asked[0][1] == [6, 1, 12]
    assert batch.document.tolist() == collate(rows).document.tolist(), "nothing is left to be padded"
    ended = written(noted(writes=END), *rows, tokens=100, prompt=0.3)
    assert ended.input_ids[0].tolist() == [1, 2, END, 20, 21, 22, 23, 24, 25, 26, END, *[END] * 5]
    assert ended.labels[0].tolist() == [-100, END, -100, *[-100] * 6, END, *[-100] * 6]
    assert ended.document[0].tolist() == [0] * 3 + [1] * 8 + [-1] * 5


def test_documents_with_a_prompt_share_the_free_tokens_of_their_row() -> None:
    """Documents: a whole one, an answer, a prompt without one, and the last token of a text that was cut."""
    documents = [(range(1, 7), 0), (range(10, 15), 3), (range(20, 24), 4), ([30], 1)]
    student = noted(writes=7)
    batch = written(student, row("a", documents, length=27), tokens=100)
    assert student.asked[0][:2] == ([[1, 2, 3], [10, 11, 12], [20, 21, 22, 23]], [3, 2 + 5, 5])
    assert batch.document.tolist() == [[0] * 6 + [1] * 10 + [2] * 9 + [3] + [-1]]
    assert int((batch.labels != -100).sum()) == 3 + 7 + 5
    full = noted(writes=7)
    batch = written(full, row("b", documents, length=16))
    assert full.asked[0][0] == [[1, 2, 3], [10, 11, 12]], "a full row has no room after a whole prompt"
    assert batch.input_ids[0, 11:].tolist() == [20, 21, 22, 23, 30]
    begun = noted(writes=7)
    begun.tokenizer = Begun()
    written(begun, row("c", [([9, 10, 11], 3), ([9, 12], 2)], length=9))
    assert begun.asked[0][:2] == ([[9, 10, 11]], [4])


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=5), st.integers(0, 20))
def test_texts_never_exceed_their_row(sizes: list[tuple[int, int]], free: int) -> None:
    documents = [(range(size), min(size, given)) for size, given in sizes]
    length = max(2, sum(size for size, _ in sizes) + free)
    student = noted(writes=7)
    batch = written(student, row("a", documents, length=length), tokens=100)
    assert batch.input_ids.shape == (1, length)
    assert all(limit > 0 for limit in student.asked[0][1])


def train_on_prompts(
    folder: Path, fraction: float, answered: int = 0, terms: Sequence[kdtool.LossTerm] = MIXTURE[:2]
) -> tuple[kdtool.Trained, Noted]:
    """Train on 12 rows of prompts without answers, or some of them answered."""
    rows = [row(f"{place}", [(range(1, 4), 3), (range(4, 8), 4)], LENGTH) for place in range(12 - answered)]
    rows += [row(f"{12 + place}", [(range(1, 9), 4)], LENGTH) for place in range(answered)]
    student, options = noted(writes=7), {"fraction": fraction, "tokens": 6}
    given: dict[str, Any] = {"student": student, "teacher": TinyTeacher(make_model(99)), "rows": ListSource(rows)}
    return train_terms(folder, terms, on_policy=options, log_every=1, **given), student


@pytest.mark.parametrize("answered", [0, 3])
def test_prompts_without_answers_are_trained_on(tmp_path: Path, answered: int) -> None:
    trained, student = train_on_prompts(tmp_path, 1.0, answered)
    written = sum(sum(limits) for _, limits, _ in student.asked[1:])
    assert trained.tokens == written > 0
    assert all(batch.columns["student_generated"].any() for batch in student.batches[-3:])
    assert all(report["terms"].keys() == {"kl"} and report["loss"] > 0 for report in reports_of(tmp_path))


@pytest.mark.parametrize(
    ("fraction", "answered", "terms", "message"),
    [
        (0.5, 0, MIXTURE[:2], r"on_policy\.fraction: 0\.5 has steps on the corpus, .* set it to 1"),
        (0.5, 11, MIXTURE[:2], r"on_policy\.fraction: 0\.5 has steps on the corpus, .* set it to 1"),
        (1.0, 0, MIXTURE[1:2], r"nothing to learn from\. Prompts without answers need .* `control: false`"),
    ],
)
def test_prompts_without_answers_are_refused_where_nothing_learns_from_them(
    tmp_path: Path, fraction: float, answered: int, terms: Sequence[kdtool.LossTerm], message: str
) -> None:
    with pytest.raises(kdtool.UsageError, match=message):
        train_on_prompts(tmp_path, fraction, answered, terms)


def test_what_is_drawn_follows_from_seed_step_micro_batch_and_rank() -> None:
    def drawn(seed: int = 0, step: int = 1, number: int = 0, rank: int = 0) -> list[Any]:
        run = make_run(Path(), seed=seed, rank=rank)
        sampler = OnPolicySampler(OnPolicy(fraction=1.0, temperature=2.0), run, noted(), torch.float32)
        return sampler(batch, step, number).input_ids.tolist()

    batch = collate([make_rows(4)[place] for place in range(4)])
    noted()  # seeds the generator, as each call of `drawn` does
    state = torch.get_rng_state()
    first = drawn()
    assert drawn() == first
    assert all(other != first for other in (drawn(seed=1), drawn(step=2), drawn(number=1), drawn(rank=1)))
    assert torch.get_rng_state().equal(state)


def test_a_share_of_the_steps_is_sampled_each_in_all_its_micro_batches_on_all_ranks() -> None:
    batch = collate([make_rows(4)[place] for place in range(4)])

    def chosen(rank: int) -> list[bool]:
        sampler = OnPolicySampler(OnPolicy(fraction=0.25), make_run(Path(), rank=rank), noted(writes=3), torch.float32)
        flags = [
            bool(sampler(batch, step, number).columns["student_generated"].any())
            for step in range(400)
            for number in range(2)
        ]
        assert sampler.counts["batches"] == 800
        assert sampler.counts["sampled"] == sum(flags)
        return flags

    flags = chosen(rank=0)
    assert flags[::2] == flags[1::2], "a step of both kinds would not have GKD's share of each"
    assert 60 < sum(flags[::2]) < 140, "a quarter of 400, five standard deviations wide"
    assert chosen(rank=1) == flags


def oracle(student: TinyModel, batches: Sequence[kdtool.Batch], step: int = 1, steps: int = 2) -> dict[str, Tensor]:
    """Return the mixture's gradients by plain autograd in float64; cross-entropy is of the corpus's tokens alone."""
    student, teacher = copy.deepcopy(student), copy.deepcopy(make_model(99))
    student.model.double(), teacher.model.double()
    torch.manual_seed(0)
    projector = torch.nn.Linear(16, 16).double()
    count = sum(int((batch.labels != -100).sum()) for batch in batches)
    of_corpus = max(
        1, sum(int(((batch.labels != -100) & (batch.columns["student_generated"] == 0)).sum()) for batch in batches)
    )
    weight = MIXTURE[1].weight_at((step - 1) / max(1, steps - 1))
    for batch in batches:
        asked = batch.labels != -100
        ours, theirs = student.model.states(batch), teacher.model.states(batch)
        z, t = full_logits(student, ours[-1])[asked], full_logits(teacher, theirs[-1])[asked]
        kl = F.kl_div((z / 2).log_softmax(-1), (t / 2).log_softmax(-1), log_target=True, reduction="sum")
        ce = F.cross_entropy(z, batch.labels[asked], reduction="none")[
            batch.columns["student_generated"][asked] == 0
        ].sum()
        hidden = (projector(ours[1][asked]) - theirs[1][asked]).square().mean(-1).sum()
        ((0.7 * 4 * kl + 0.5 * hidden) / count + weight * ce / of_corpus).backward()
    return {name: p.grad for name, p in student.model.named_parameters() if p.grad is not None}


def values(steps: list[list[dict[str, Any]]]) -> list[dict[str, float]]:
    """Return each step's mean of `kl` and `ce` by full logits in float64; none of `ce` where no token is the corpus's."""
    student, teacher, found = make_model(1), make_model(99), []
    student.model.double(), teacher.model.double()
    for step in steps:
        kl, ce, own = [], [], []
        for batch in (kdtool.Batch(**fields) for fields in step):
            asked = batch.labels != -100
            z, t = (full_logits(model, model.model.states(batch)[-1])[asked].detach() for model in (student, teacher))
            p = (t / 2).softmax(-1)
            kl.append((p * (p.log() - (z / 2).log_softmax(-1))).sum(-1))
            ce.append(F.cross_entropy(z, batch.labels[asked], reduction="none"))
            own.append(batch.columns["student_generated"][asked] != 0)
        corpus = torch.cat(ce)[~torch.cat(own)]
        found.append({"kl": 4 * float(torch.cat(kl).mean()), **({"ce": float(corpus.mean())} if len(corpus) else {})})
    return found


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_each_term_is_the_mean_over_the_tokens_that_it_sees(tmp_path: Path, world: int, accumulation: int) -> None:
    settings: dict[str, Any] = {"steps": 4, "batch": 1, "accumulation": accumulation}
    settings |= {"on_policy": {"fraction": 0.5, "tokens": 6}, "head_chunk_size": 11, "loss_chunk_size": 5}
    if world == 1:
        train_recorded(tmp_path, settings, {})
    else:
        assert start_ranks(train_recorded, world, tmp_path, settings, {}) == [0] * world
    ranks = [torch.load(tmp_path / f"batches-{rank}.pt", weights_only=False) for rank in range(world)]
    chosen = [[bool(batch["columns"]["student_generated"].any()) for batch in batches] for batches in ranks]
    assert all(each == chosen[0] for each in chosen), "all ranks sample in the same steps"
    assert 0 < sum(chosen[0]) < len(chosen[0])
    cut = [slice(i, i + accumulation) for i in range(0, len(chosen[0]), accumulation)]
    steps = [[batch for batches in ranks for batch in batches[part]] for part in cut]
    expected = values(steps)
    assert 0 < sum("ce" in step for step in expected) < len(expected), "another seed is needed"
    gradients, tokens = load_file(tmp_path / "gradients.safetensors"), 0
    for number, (report, step, fields) in enumerate(zip(reports_of(tmp_path), expected, steps, strict=True), 1):
        batches = [kdtool.Batch(**each) for each in fields]
        tokens += sum(int((batch.labels != -100).sum()) for batch in batches)
        assert report["tokens"] == tokens
        terms = report["terms"]
        assert terms.keys() == {*step, "hidden"}, "a term that saw nothing is not reported as 0"
        assert {name: terms[name]["value"] for name in step} == pytest.approx(step, rel=1e-5)
        assert report["loss"] == pytest.approx(sum(term["value"] * term["weight"] for term in terms.values()))
        wanted = oracle(make_model(1), batches, number, len(steps))
        assert worst_difference({name: gradients[f"{number} {name}"] for name in wanted}, wanted) < 1e-5


class WholeCE(kdtool.SequenceLoss):
    """Cross-entropy as a sequence loss, of each token or of each row."""

    class Config(kdtool.Config):
        """Settings."""

        rows: bool = False
        """One value a row."""

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerToken | kdtool.PerSequence:
        labels = view.batch.labels
        assert view.head is not None
        values = F.cross_entropy(view.head.logits(view.student.last), labels[labels != -100], reduction="none")
        if not self.config.rows:
            return kdtool.PerToken(values)
        row = torch.arange(len(labels))[:, None].expand_as(labels)[labels != -100]
        return kdtool.PerSequence(torch.zeros(len(labels)).index_add(0, row, values))


@pytest.mark.parametrize("rows", [False, True])
def test_a_sequence_loss_without_a_teacher_learns_nothing_from_the_students_own(tmp_path: Path, rows: bool) -> None:
    losses = {"losses.ce": WholeCE(WholeCE.Config(rows=rows))}
    terms = [kdtool.LossTerm("losses.ce", "ce", 1.0), replace(MIXTURE[0], weight=1e-9)]
    for fraction, learned in ((1.0, False), (1e-9, True)):
        student, options = make_model(1), {"weight_decay": 0.0, "gradient_clip": 0.0}
        given: dict[str, Any] = {"student": student, "teacher": TinyTeacher(make_model(99)), "steps": 1, **options}
        with first_gradients(student.model) as found:
            train_terms(tmp_path / str(fraction), terms, losses, on_policy={"fraction": fraction, "tokens": 4}, **given)
        assert (max(float(gradient.abs().max()) for gradient in found.values()) > 1e-4) == learned


def test_the_student_trains_in_its_mode_and_with_the_dropout_that_it_would_have_had(tmp_path: Path) -> None:
    """Neither sampling nor anything else draws from the generators that dropout draws from."""
    student, plain = noted(dropout=0.3), noted(dropout=0.3)
    train(tmp_path / "never", student, steps=3, on_policy={"fraction": 1e-9})
    train(tmp_path / "off", plain, steps=3, on_policy={"fraction": 0.0})
    assert student.asked
    assert not plain.asked
    for name, weight in plain.model.state_dict().items():
        assert student.model.state_dict()[name].equal(weight)
    assert all(module.training for module in student.model.modules())


def test_without_a_loss_that_learns_from_a_teacher_nothing_is_written(tmp_path: Path) -> None:
    student = noted()
    term = kdtool.LossTerm("losses.ce", "ce", 1.0)
    trained = train_terms(tmp_path, [term], student=student, on_policy={"fraction": 1.0})
    assert not student.asked
    assert not trained.notes


def test_a_student_that_cannot_write_is_refused_before_the_first_step(tmp_path: Path) -> None:
    class Mute(TinyModel):
        generate = kdtool.LanguageModel.generate

    with pytest.raises(kdtool.UsageError, match="Mute does not support generation"):
        train(tmp_path, Mute(make_model(1).model), on_policy={"fraction": 0.1})
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_several_texts_of_a_prompt_have_their_own_seeds_and_keys() -> None:
    student, rows = (
        noted(),
        [row(key, [(range(first, first + 8), 4)]) for key, first in zip("abcd", (1, 9, 17, 25), strict=True)],
    )
    config = OnPolicy(fraction=1, temperature=2.0, samples=2)
    batch = OnPolicySampler(config, make_run(Path()), student, torch.float32)(collate(rows), step=3, number=0)
    prompts, _, seeds = student.asked[0]
    assert prompts == [[1, 2, 3, 4]] * 2 + [[9, 10, 11, 12]] * 2
    assert len(set(seeds)) == len(set(batch.row_keys)) == 4
    assert batch.input_ids.shape == (4, 16)


def test_samples_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"batch: 4 is not a multiple of on_policy.samples: 3"):
        StandardTrainer.Config.model_validate({"batch": 4, "on_policy": {"samples": 3}})


@pytest.mark.parametrize(("writes", "cut"), [(7, 64), (END, 0)])
def test_texts_that_the_student_does_not_end_are_counted(writes: int, cut: int) -> None:
    sampler = OnPolicySampler(OnPolicy(fraction=1, tokens=4), make_run(Path()), noted(writes=writes), torch.float32)
    sampler(collate([row(f"row {number}", [(range(1, 9), 4)]) for number in range(64)]), 0, 0)
    assert sampler.counts["cut"] == cut
