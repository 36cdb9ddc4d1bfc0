"""The suites of trainers and optimizers. Torch is imported when a test runs."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from kdtool import (
    Component,
    KdtoolError,
    LanguageModel,
    Loss,
    LossTerm,
    PluginError,
    Row,
    RowSource,
    RunInfo,
    StepReport,
    Trained,
    UsageError,
)
from kdtool._store.files import discard_uncommitted, json_lines
from pydantic import TypeAdapter

from kdtool_testing.component import ComponentConformance
from kdtool_testing.phase import (
    Beside,
    BrokenLoss,
    CutTeacher,
    FrozenTeacher,
    Twice,
    Watcher,
    Widths,
    companions,
    make_phase,
)
from kdtool_testing.toy import ListSource, make_run
from kdtool_testing.toy.runtime import toy_model

if TYPE_CHECKING:
    from torch import Tensor

STEPS = 16
_REPORT: TypeAdapter[StepReport] = TypeAdapter(StepReport)


@dataclass
class Training:
    """The result of a phase: its weights, and the events of its training."""

    trained: Trained
    weights: dict[str, Tensor]
    watcher: Watcher
    history: list[StepReport]


class TrainerConformance(ComponentConformance):
    """A trainer takes its steps with any mixture of losses, reports them, and resumes after a kill to the same bits.

    Give `settings` under which it reports every step, leaves a checkpoint after every second step, and learns visibly
    within the 8 steps of the phase.
    """

    kind: ClassVar[str] = "trainer"

    def student(self) -> LanguageModel:
        """Return the student to train, the same one each time."""
        return toy_model(1)

    _whole: ClassVar[Training]

    @pytest.fixture
    def whole(self, tmp_path_factory: pytest.TempPathFactory) -> Training:
        """A phase trained without interruption, once for all tests of a class."""
        cls = type(self)
        if "_whole" not in vars(cls):
            cls._whole = self._train(tmp_path_factory.mktemp("whole"))
        return cls._whole

    def test_it_does_its_steps(self, whole: Training) -> None:
        trained = whole.trained
        assert isinstance(trained, Trained)
        assert trained.steps == STEPS
        assert trained.tokens == whole.history[-1].tokens > 0
        assert trained.seconds > 0
        assert trained.dtype
        assert all(isinstance(note, str) for note in trained.notes)

    def test_the_student_learns_in_place(self, whole: Training) -> None:
        before = self.student().model.state_dict()
        assert list(whole.weights) == list(before)
        assert any(not weight.equal(before[name]) for name, weight in whole.weights.items())
        values = [report.terms["likelihood"].value for report in whole.history if "likelihood" in report.terms]
        assert sum(values[-2:]) < sum(values[:2])

    def test_every_step_is_reported(self, whole: Training) -> None:
        assert [report.step for report in whole.history] == list(range(1, STEPS + 1))
        assert [report.step for report in whole.watcher.reports] == list(range(1, STEPS + 1))
        assert whole.watcher.progress[-1] == STEPS
        assert whole.watcher.progress == sorted(whole.watcher.progress)
        tokens = [report.tokens for report in whole.history]
        assert tokens == sorted(set(tokens)), "tokens are counted since the phase began"
        for report in whole.history:
            assert report.steps == STEPS
            total = sum(term.value * term.weight for term in report.terms.values())
            assert report.loss == pytest.approx(total, rel=1e-4)
        reported = {label for report in whole.history for label in report.terms}
        assert reported == {"likelihood", "divergence", "states"}, "terms are reported by their labels"
        assert all({"divergence", "states"} <= set(report.terms) for report in whole.history), (
            "a term without tokens is left out"
        )

    def test_checkpoints_are_told(self, whole: Training) -> None:
        steps = whole.watcher.checkpoints
        assert steps == sorted(set(steps))
        assert steps, "give settings under which there are checkpoints: this suite kills the phase after one"
        assert steps[0] <= 2

    def test_it_depends_on_the_seed_alone(self, whole: Training, tmp_path: Path) -> None:
        import torch

        torch.manual_seed(12345)
        again = self._train(tmp_path / "again")
        _same_bits(again.weights, whole.weights)
        other = self._train(tmp_path / "other", seed=1)
        assert any(not weight.equal(whole.weights[name]) for name, weight in other.weights.items())

    @pytest.mark.parametrize("kills", [((1, 0),), ((1, 1), (2, 0))], ids=["at a checkpoint", "twice"])
    def test_killed_it_goes_on_to_the_same_bits(
        self, whole: Training, tmp_path: Path, kills: tuple[tuple[int, int], ...]
    ) -> None:
        done = 0
        for number, (checkpoint, more_steps) in enumerate(kills):
            watcher = Watcher(checkpoint, more_steps)
            with pytest.raises(KeyboardInterrupt):
                self._train(tmp_path, watcher)
            if number:
                assert watcher.reports[0].step > done, "steps before the checkpoint were done again"
            done = watcher.checkpoints[-1]
            discard_uncommitted(tmp_path, print)  # as the engine does: what was not committed is gone
        resumed = self._train(tmp_path)
        assert resumed.watcher.reports[0].step > done  # a checkpoint may be complete before it is reported
        _same_bits(resumed.weights, whole.weights)
        assert resumed.trained.tokens == whole.trained.tokens
        assert [replace(report, seconds=0, memory=0) for report in resumed.history] == [
            replace(report, seconds=0, memory=0) for report in whole.history
        ]

    def test_what_is_frozen_stays(self, tmp_path: Path) -> None:
        student = self.student()
        frozen = next(iter(student.model.parameters()))
        frozen.requires_grad_(requires_grad=False)
        before = frozen.detach().clone()
        self._train(tmp_path, student=student)
        assert frozen.equal(before)

    @pytest.mark.parametrize(
        "spoil",
        [lambda v: v * float("nan"), lambda v: v.mean(), lambda v: v.bfloat16(), lambda v: v.tolist()],
        ids=["not finite", "one number", "half precision", "no tensor"],
    )
    def test_a_loss_that_breaks_its_contract_is_named(self, tmp_path: Path, spoil: Any) -> None:
        broken = {**companions(), "losses.broken": BrokenLoss(spoil)}
        with pytest.raises(PluginError, match="broken"):
            self._train(tmp_path, terms=(LossTerm("losses.broken", "broken", 1.0),), others=broken)

    def test_logits_are_cut_to_the_tokens_that_both_have(self, tmp_path: Path) -> None:
        loss = Widths(Widths.Config())
        term = LossTerm("losses.cut", "cut", 1.0, 1.0, 1.0, "teacher", (frozenset({"logits"}),), True, shared=200)
        self._train(tmp_path, terms=(term,), others=_with("losses.cut", loss), signals={"teacher": CutTeacher(200)})
        assert loss.seen == {(200, 200)}

    def test_a_teacher_may_be_told_about_rows_of_its_own(self, tmp_path: Path) -> None:
        loss, cut = Beside(Beside.Config()), 16
        term = LossTerm("losses.beside", "beside", 1.0, 1.0, 1.0, "teacher", (frozenset({"hidden"}),), False, ((0, 0),))
        source = make_phase(tmp_path, STEPS).rows
        rows = [source[number] for number in range(len(source))]
        teacher_rows = [Row(row.key, row.input_ids[:cut], row.labelled[:cut], row.document[:cut]) for row in rows]
        others, signals = _with("losses.beside", loss), {"teacher": FrozenTeacher()}
        rows_of = {"teacher": ListSource(teacher_rows)}
        trainer: Any = self.build()
        if trainer.on_policy and getattr(trainer.config, trainer.on_policy) is not None:
            with pytest.raises(UsageError, match=trainer.on_policy):
                self._train(tmp_path, terms=(term,), others=others, signals=signals, teacher_rows=rows_of)
            return  # such a teacher could not read what the student writes
        self._train(tmp_path, terms=(term,), others=others, signals=signals, teacher_rows=rows_of)
        assert loss.views
        for view in loss.views:
            told = view.teacher_batch
            assert told is not None
            assert view.teacher is not None
            assert told.row_keys == view.batch.row_keys
            assert told.input_ids.shape[1] == cut
            assert len(view.teacher.hidden[0]) == int((told.labels != -100).sum()), (
                "its signal is of the teacher's rows"
            )

    def test_a_second_pass_is_given_to_the_loss_that_asks_for_it_or_refused(self, tmp_path: Path) -> None:
        loss = Twice(Twice.Config())
        terms = (
            LossTerm("losses.likelihood", "likelihood", 1.0),
            LossTerm("losses.twice", "twice", 1.0, forward_passes=2),
        )
        try:
            self._train(tmp_path, terms=terms, others={**companions(), "losses.twice": loss})
        except UsageError:
            assert not loss.seen, "what is refused is refused before training"
            return
        vocabulary = self.student().head.vocabulary
        assert {widths for widths, _ in loss.seen} == {(vocabulary, vocabulary)}
        assert max(apart for _, apart in loss.seen) > 0, "each pass draws separate dropout"

    def test_what_losses_say_of_rejected_tokens_is_left_out(self, tmp_path: Path) -> None:
        import torch

        source = make_phase(tmp_path, STEPS).rows
        rows = [source[number] for number in range(len(source))]
        marks = [int(position % 3 == 1) for position in range(source.length)]
        rejected = ListSource([replace(row, columns={"rejected": marks}) for row in rows])
        labels = [[label and not mark for label, mark in zip(row.labelled, marks, strict=True)] for row in rows]
        unlabelled = ListSource([replace(row, labelled=kept) for row, kept in zip(rows, labels, strict=True)])
        result, expected = (
            self._train(tmp_path / name, rows=train_rows)
            for name, train_rows in (("rejected", rejected), ("unlabelled", unlabelled))
        )
        assert result.trained.tokens == expected.trained.tokens
        torch.testing.assert_close(result.weights, expected.weights)

    def test_nothing_to_learn_from_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(KdtoolError):
            self._train(tmp_path, rows=0)

    def test_files_are_written_below_the_run_and_the_checkpoints_alone(
        self, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        monkeypatch.chdir(elsewhere)
        self._train(tmp_path)
        assert list(elsewhere.iterdir()) == []

    def _train(
        self,
        folder: Path,
        watcher: Watcher | None = None,
        *,
        seed: int = 0,
        rows: int | RowSource = 8,
        student: LanguageModel | None = None,
        terms: tuple[LossTerm, ...] | None = None,
        others: dict[str, Component] | None = None,
        signals: Mapping[str, FrozenTeacher] | None = None,
        teacher_rows: Mapping[str, RowSource] | None = None,
    ) -> Training:
        watcher = watcher or Watcher()
        (folder / "run").mkdir(parents=True, exist_ok=True)
        given = {"watcher": watcher, **(companions() if others is None else others)}
        run = make_run(folder / "run", given, seed=seed, say=lambda _: None)
        phase = make_phase(folder, STEPS, rows if isinstance(rows, int) else len(rows))
        phase = phase if isinstance(rows, int) else replace(phase, rows=rows)
        if terms is not None:
            phase = replace(phase, terms=terms, signals=signals or {}, weightings=(), teacher_rows=teacher_rows or {})
        student = student or self.student()
        trainer = self.ready(run)
        trained = trainer.kdtool_train(run, phase, student)
        trainer.kdtool_close()
        weights = {name: weight.detach().cpu().clone() for name, weight in student.model.state_dict().items()}
        return Training(
            trained, weights, watcher, [_REPORT.validate_json(line) for line in json_lines(trained.history)]
        )


def _with(name: str, loss: Loss) -> dict[str, Component]:
    return {"teacher": companions()["teacher"], name: loss}


def _same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, weight in found.items():
        assert weight.equal(expected[name]), f"{name} differs"


PEAK = 0.02
"""Learning rate of the tests."""


class OptimizerConformance(ComponentConformance):
    """An optimizer updates every parameter, follows the trainer's learning rate, and resumes to the same bits."""

    kind: ClassVar[str] = "optimizer"

    def parameters(self) -> Mapping[str, Tensor]:
        """Return the parameters to train, by name, the same ones each time: leaves that require a gradient."""
        return dict(toy_model(1).model.named_parameters())

    def test_every_parameter_is_in_one_group(self, run: RunInfo) -> None:
        parameters = self.parameters()
        grouped = [id(parameter) for group in self._make(run, parameters).param_groups for parameter in group["params"]]
        assert sorted(grouped) == sorted(map(id, parameters.values()))

    def test_every_parameter_changes(self, run: RunInfo) -> None:
        trained = self._train(run, 2)
        for name, before in self.parameters().items():
            assert not trained[name].equal(before), f"{name} is as before"

    def test_the_distance_to_a_target_falls(self, run: RunInfo) -> None:
        parameters = self.parameters()
        optimizer, before = self._make(run, parameters), float(_distance(parameters).detach())
        for _ in range(20):
            _step(optimizer, parameters)
        assert float(_distance(parameters).detach()) < before

    def test_a_learning_rate_of_zero_changes_nothing(self, run: RunInfo) -> None:
        """The first step of a warm-up; weight decay is multiplied by the learning rate, too."""
        trained = self._train(run, 2, factor=0.0)
        for name, before in self.parameters().items():
            assert trained[name].equal(before), f"{name} changes at a learning rate of 0"

    def test_learning_rates_follow_the_trainers(self, run: RunInfo) -> None:
        rates = [
            [float(group["lr"]) for group in self._make(run, self.parameters(), peak).param_groups]
            for peak in (PEAK, PEAK / 2)
        ]
        assert [rate / 2 for rate in rates[0]] == rates[1], "a group's lr is not a multiple of the learning rate"

    def test_its_state_is_tensors_and_numbers(self, run: RunInfo) -> None:
        import torch

        parameters = self.parameters()
        optimizer = self._make(run, parameters)
        _step(optimizer, parameters)
        for state in optimizer.state_dict()["state"].values():
            for name, value in state.items():
                assert isinstance(name, str)
                assert isinstance(value, torch.Tensor | int | float), f"{name} is {type(value).__name__}"
                assert not isinstance(value, torch.Tensor) or type(value) is torch.Tensor, f"{name} is a subclass"

    def test_it_resumes_to_the_same_bits(self, run: RunInfo) -> None:
        whole, parameters = self._train(run, 6), self.parameters()
        optimizer = self._make(run, parameters)
        for _ in range(3):
            _step(optimizer, parameters)
        saved = deepcopy(optimizer.state_dict())
        resumed = {name: weight.detach().clone().requires_grad_() for name, weight in parameters.items()}
        optimizer = self._make(run, resumed)
        optimizer.load_state_dict(saved)
        for _ in range(3):
            _step(optimizer, resumed)
        for name, weight in whole.items():
            assert weight.equal(resumed[name]), f"{name} differs"

    def test_it_draws_nothing_from_the_global_generator(self, run: RunInfo) -> None:
        import torch

        results = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            results.append(self._train(run, 2))
        for name, weight in results[0].items():
            assert weight.equal(results[1][name]), f"{name} depends on torch's global generator"

    def _make(self, run: RunInfo, parameters: Mapping[str, Tensor], peak: float = PEAK) -> Any:
        import torch

        optimizer = self.ready(run).kdtool_optimizer(run, parameters, peak)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    def _train(self, run: RunInfo, steps: int, factor: float = 1.0) -> dict[str, Tensor]:
        """Return the parameters after some steps at a multiple of the peak learning rate."""
        parameters = self.parameters()
        optimizer = self._make(run, parameters)
        for group in optimizer.param_groups:
            group["lr"] *= factor
        for _ in range(steps):
            _step(optimizer, parameters)
        return {name: parameter.detach() for name, parameter in parameters.items()}


def _step(optimizer: Any, parameters: Mapping[str, Tensor]) -> None:
    optimizer.zero_grad()
    _distance(parameters).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _distance(parameters: Mapping[str, Tensor]) -> Tensor:
    """Return the squared distance of the parameters to a point far away from them."""
    import torch

    return torch.stack([(parameter - 2.0).square().mean() for parameter in parameters.values()]).sum()
