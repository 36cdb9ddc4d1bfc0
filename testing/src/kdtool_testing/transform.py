"""The suite of transforms. Torch is imported when a test runs."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from kdtool import LanguageModel, RunInfo, SignalRequest
from kdtool._run.transforming import Transforming

from kdtool_testing.component import ComponentConformance
from kdtool_testing.model_checks import compute_logits, logits_of, pack_rows
from kdtool_testing.toy.model import toy_model
from kdtool_testing.toy.rows import batch_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TransformConformance"]


class TransformConformance(ComponentConformance):
    """A transformed student learns; a finished one can be saved, keeps the trained weights, and can be trained again."""

    kind: ClassVar[str] = "transform"
    lossless: ClassVar[bool] = True
    """True if a student transformed and finished, without training between, computes the same as before.
    Set False for transforms that round or prune."""

    def student(self, folder: Path) -> LanguageModel:
        """Return a student that the transform takes, the same one each time; `folder` may contain its files."""
        return toy_model(0)

    def test_a_transformed_student_learns(self, run: RunInfo) -> None:
        student = self._transform(run)
        before = compute_logits(student, self._batch(student))
        assert before.isfinite().all()
        assert any(parameter.requires_grad for parameter in student.model.parameters())
        self._learn(student)
        assert not compute_logits(student, self._batch(student)).equal(before)

    def test_what_stays_and_what_learns_is_said_by_the_parameters(self, run: RunInfo) -> None:
        student = self._transform(run)
        assert student.facts.trainable == sum(
            {id(p): p.numel() for p in student.model.parameters() if p.requires_grad}.values()
        )
        fixed = {id(p): p.detach().clone() for p in student.model.parameters() if not p.requires_grad}
        self._learn(student)
        for parameter in student.model.parameters():
            if id(parameter) in fixed:
                assert parameter.equal(fixed[id(parameter)])

    def test_an_outline_learns_as_much_as_the_student(self, run: RunInfo) -> None:
        """As `kdtool check` counts it, by the weights on the device "meta"; otherwise all that learned before must learn."""
        transform, outline = self.ready(run), self.student(run.folder)
        if transform.on_meta_device:
            outline.model.to("meta")
            outline = self._start(transform, outline, run).student
        assert _learning(outline) == _learning(self._transform(run)), "kdtool check would count other parameters"

    def test_a_finished_student_can_be_saved(self, run: RunInfo, tmp_path: Path) -> None:
        plain, student = self.student(run.folder), self._finish(run)
        assert set(student.model.state_dict()) == set(plain.model.state_dict())
        student.save(tmp_path / "finished")
        assert list((tmp_path / "finished").rglob("*.safetensors"))

    def test_a_finished_student_keeps_what_it_learnt(self, run: RunInfo) -> None:
        transforming = self._start(self.ready(run), self.student(run.folder), run)
        student = transforming.student
        self._learn(student)
        learnt = compute_logits(student, self._batch(student))
        finished = transforming.finish()
        if self.lossless:
            _close(compute_logits(finished, self._batch(finished)), learnt)
        assert not compute_logits(finished, self._batch(finished)).equal(
            compute_logits(self.student(run.folder), self._batch(student))
        )

    def test_nothing_is_lost_without_training(self, run: RunInfo) -> None:
        if self.lossless:
            student = self._finish(run)
            _close(
                compute_logits(student, self._batch(student)),
                compute_logits(self.student(run.folder), self._batch(student)),
            )

    def test_a_finished_student_can_be_trained_again(self, run: RunInfo) -> None:
        learning = {name for name, p in self.student(run.folder).model.named_parameters() if p.requires_grad}
        component = self.ready(run)
        student = self._start(component, self.student(run.folder), run).finish()
        assert {name for name, p in student.model.named_parameters() if p.requires_grad} == learning
        self._start(component, student, run).finish()

    def test_it_depends_on_the_seed_alone(self, run: RunInfo) -> None:
        """A resumed phase transforms the student again and then reads its checkpoint: names and values must be the same."""
        import torch

        states = []
        for number in range(2):
            torch.manual_seed(1000 + number)
            states.append(self._transform(run).model.state_dict())
        assert set(states[0]) == set(states[1])
        for name, weight in states[0].items():
            assert weight.equal(states[1][name]), f"{name} differs: it was drawn from torch's global generator"

    def _batch(self, student: LanguageModel) -> Any:
        return batch_of(pack_rows(student.tokenizer))

    def _start(self, component: Any, student: LanguageModel, run: RunInfo) -> Transforming:
        transforming = Transforming(student)
        transforming.apply(component, run)
        assert isinstance(transforming.student, LanguageModel)
        return transforming

    def _transform(self, run: RunInfo) -> LanguageModel:
        return self._start(self.ready(run), self.student(run.folder), run).student

    def _finish(self, run: RunInfo) -> LanguageModel:
        return self._start(self.ready(run), self.student(run.folder), run).finish()

    def _learn(self, student: LanguageModel) -> None:
        """Take a step of plain gradient descent."""
        import torch

        batch = self._batch(student)
        student.model.eval()  # without dropout
        logits = logits_of(student.backbone(batch, SignalRequest()).last, student.head)
        student.model.zero_grad()
        torch.nn.functional.cross_entropy(logits, batch.labels[batch.labels != -100]).backward()  # type: ignore[no-untyped-call]
        learning = [parameter for parameter in student.model.parameters() if parameter.requires_grad]
        with torch.no_grad():
            for parameter in learning:
                if parameter.grad is not None:
                    parameter.sub_(0.5 * parameter.grad)
        assert any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in learning)


def _learning(student: LanguageModel) -> dict[str, Any]:
    """Return the shapes of the parameters that learn; a tied one has several names."""
    named = student.model.named_parameters(remove_duplicate=False)
    return {name: tuple(parameter.shape) for name, parameter in named if parameter.requires_grad}


def _close(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).abs().max()) <= 1e-3 * float(expected.std())
