"""The suite of students. Needs torch, as every student does."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from kdtool import LanguageModel, RunInfo, SignalRequest, Subject, UsageError
from kdtool._contract.evaluation import Role
from kdtool._contract.language_model import facts_in

from kdtool_testing.component import ComponentConformance
from kdtool_testing.model_checks import (
    check_generate,
    check_model,
    check_runtime,
    check_tokenizer,
    compute_logits,
    no_model_is_built,
    pack_rows,
    same_shapes,
)
from kdtool_testing.toy.rows import batch_of

__all__ = ["StudentConformance"]


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
