"""The suites of components that build, transform and export a student.

Torch is imported when a test runs; the suites of students and transforms need it.
"""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from kdtool import Artifact, LanguageModel, RunInfo, SignalRequest, Subject, UsageError
from kdtool._contract.evaluation import Role
from kdtool._contract.language_model import facts_in
from kdtool._run.stages.phase_training import Transforming

from kdtool_testing.component import ComponentConformance
from kdtool_testing.model_checks import (
    check_answers,
    check_generate,
    check_model,
    check_runtime,
    check_tokenizer,
    compute_logits,
    logits_of,
    no_model_is_built,
    pack_rows,
    same_shapes,
)
from kdtool_testing.toy import batch_of, write_toy_model
from kdtool_testing.toy.runtime import toy_model

if TYPE_CHECKING:
    from torch import Tensor


class StudentConformance(ComponentConformance):
    """A student matches its description, depends only on the seed, learns, and opens again as it was saved.

    Return its sources from `companions`, for instance a teacher under the name `teacher`.
    """

    kind: ClassVar[str] = "student"

    @pytest.fixture
    def model(self, run: RunInfo) -> LanguageModel:
        """A freshly built student."""
        return self._build(run)

    def test_its_tokenizer_needs_no_weights_and_keeps_text(self, run: RunInfo, tmp_path: Path) -> None:
        student = self.ready(run)
        with no_model_is_built():
            tokenizer = student.kdtool_tokenizer(run)
        check_tokenizer(tokenizer, tmp_path / "tokenizer")
        assert self._build(run).tokenizer.fingerprint == tokenizer.fingerprint

    def test_its_facts_are_so(self, run: RunInfo, model: LanguageModel) -> None:
        check_model(model)
        described = facts_in(self.ready(run).kdtool_describe(run))
        assert described is not None, "a student describes itself before it is built"
        same_shapes(described, model.facts)

    def test_its_outline_has_its_shapes_and_no_memory(self, run: RunInfo, model: LanguageModel) -> None:
        outline = self.ready(run).kdtool_describe(run)
        if not isinstance(outline, LanguageModel):  # allowed: kdtool check then reports that training is not estimated
            return
        assert {parameter.device.type for parameter in outline.model.parameters()} == {"meta"}
        same_shapes(outline.facts, model.facts)
        shapes = [{name: tuple(p.shape) for name, p in one.model.named_parameters()} for one in (outline, model)]
        assert shapes[0] == shapes[1]

    def test_it_starts_from_the_seed_alone(self, tmp_path: Path) -> None:
        import torch

        weights = []
        for number, seed in enumerate((0, 0, 1)):
            torch.manual_seed(1000 + number)
            weights.append(self._build(self.make_run(tmp_path / "run", seed=seed)).model.state_dict())
        same = [all(torch.equal(weight, other[name]) for name, weight in weights[0].items()) for other in weights[1:]]
        assert same[0], "the same seed gives other weights: it draws from torch's global generator"
        differs: bool = self.component.uses_seed  # type: ignore[attr-defined]
        assert same[1] == (not differs), "uses_seed must be True if, and only if, another seed gives other weights"

    def test_it_learns(self, model: LanguageModel) -> None:
        import torch

        batch = batch_of(pack_rows(model.tokenizer))
        model.model.train()
        head = model.head
        states = model.backbone(batch, SignalRequest()).last
        logits = (states @ head.weight.T)[:, : head.vocabulary]
        torch.nn.functional.cross_entropy(logits, batch.labels[batch.labels != -100]).backward()  # type: ignore[no-untyped-call]
        learning = [parameter for parameter in model.model.parameters() if parameter.requires_grad]
        assert learning
        missed = sum(parameter.grad is None for parameter in learning)
        assert not missed, f"the gradient does not reach {missed} of {len(learning)} learning parameters"

    def test_it_continues_text_if_it_offers_that(self, model: LanguageModel) -> None:
        if type(model).generate is LanguageModel.generate:
            with pytest.raises(UsageError, match=type(model).__name__):
                model.generate([[0]], [1], 1.0, [0])
        else:
            check_generate(model)

    def test_it_opens_again_as_it_was_saved(self, run: RunInfo, model: LanguageModel, tmp_path: Path) -> None:
        folder = tmp_path / "saved"
        model.save(folder)
        assert list(folder.rglob("*.safetensors")), "weights are saved as safetensors"
        assert not [path for path in folder.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]
        batch = batch_of(pack_rows(model.tokenizer))
        roles: list[Role] = ["student", "control"]
        if self.ready(run).pretrained:
            roles.append("base")
        for role in roles:
            runtime = self.ready(run).kdtool_open(run, Subject("student", role, folder, run.seed))
            assert runtime is not None
            with runtime:
                assert runtime.model is not None, "a student's weights are needed for training"
                assert runtime.model.facts == model.facts
                assert (compute_logits(runtime.model, batch) - compute_logits(model, batch)).abs().max() < 1e-4
                check_runtime(runtime)

    def test_it_opens_nothing_else(self, run: RunInfo, tmp_path: Path) -> None:
        student = self.ready(run)
        assert student.kdtool_open(run, Subject("teacher", "teacher")) is None
        assert student.kdtool_open(run, Subject("q4", "artifact", tmp_path, 0)) is None

    def _build(self, run: RunInfo) -> LanguageModel:
        component: Any = self.ready(run)
        model = component.kdtool_build_student(run)
        assert isinstance(model, LanguageModel)
        component.kdtool_close()
        return model


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


class ExporterConformance(ComponentConformance):
    """An exporter writes below the run's folder, describes its files correctly, and opens them again, also elsewhere."""

    kind: ClassVar[str] = "exporter"
    opens: ClassVar[bool] = True
    """True if the exporter opens its artifacts for measurement; set False if nothing here runs the format."""

    def write_student(self, folder: Path) -> Path:
        """Write a trained student into `folder`, as `LanguageModel.save` leaves it, and return its folder."""
        return write_toy_model(folder)

    @pytest.fixture
    def artifact(self, run: RunInfo, tmp_path: Path) -> Artifact:
        """The artifact of a small student."""
        found: Artifact = self.ready(run).kdtool_export(run, self.write_student(tmp_path / "trained"))
        return found

    def test_it_writes_below_the_run_s_folder_alone(self, run: RunInfo, tmp_path: Path) -> None:
        trained = self.write_student(tmp_path / "trained")
        before = _content(trained)
        artifact = self.ready(run).kdtool_export(run, trained)
        assert isinstance(artifact, Artifact)
        assert artifact.path.exists()
        assert artifact.path.resolve().is_relative_to(run.folder.resolve())
        assert artifact.path != run.folder, "the engine keeps its own files there"
        assert _content(trained) == before, "the exporter must not change the trained student"
        assert {path.name for path in tmp_path.iterdir()} == {"trained", "run"}

    def test_what_it_says_of_its_files_is_so(self, artifact: Artifact) -> None:
        assert artifact.format
        files = [artifact.path] if artifact.path.is_file() else [p for p in artifact.path.rglob("*") if p.is_file()]
        assert artifact.bytes == sum(file.stat().st_size for file in files) > 0
        assert not [file for file in files if file.suffix in {".bin", ".pt", ".pkl"}], "pickles run code when opened"
        assert str(artifact.path) not in artifact.how_to_use, "the engine moves the files: write {path} for their place"
        assert not artifact.how_to_use or "{path}" in artifact.how_to_use
        assert str(artifact.path) not in artifact.card
        assert not [file for file in files if file.name == "README.md" and artifact.card], "the engine writes the card"

    def test_the_same_student_gives_the_same_files(self, tmp_path: Path) -> None:
        trained = self.write_student(tmp_path / "trained")
        contents = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            run = self.make_run(tmp_path / name)
            contents.append(_content(self.ready(run).kdtool_export(run, trained).path))
        assert contents[0] == contents[1]

    def test_it_opens_again_wherever_it_lies(self, run: RunInfo, artifact: Artifact, tmp_path: Path) -> None:
        moved = tmp_path / "elsewhere" / artifact.path.name
        moved.parent.mkdir()
        shutil.move(artifact.path, moved)
        runtime = self.ready(run).kdtool_open(run, Subject("exported", "artifact", moved, 0))
        assert (runtime is not None) == self.opens
        if runtime is not None:
            with runtime:
                check_runtime(runtime)
                check_answers(runtime.answer)
            runtime.close()

    def test_it_opens_nothing_else(self, run: RunInfo, artifact: Artifact, tmp_path: Path) -> None:
        exporter = self.ready(run)
        foreign = tmp_path / "foreign"
        foreign.mkdir()
        (foreign / "notes.txt").write_text("no model", encoding="utf-8")
        assert exporter.kdtool_open(run, Subject("teacher", "teacher")) is None
        assert exporter.kdtool_open(run, Subject("student", "student", artifact.path, 0)) is None
        assert exporter.kdtool_open(run, Subject("foreign", "artifact", foreign, 0)) is None
        assert exporter.kdtool_open(run, Subject("foreign", "artifact", foreign / "notes.txt", 0)) is None


def _content(path: Path) -> Mapping[str, str]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
