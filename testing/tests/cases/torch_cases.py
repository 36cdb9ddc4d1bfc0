"""Components that compute, sound and broken, under the suites of their kinds; `fails` names the tests that must fail."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import torch
from kdtool_testing import (
    ByteTokenizer,
    StudentConformance,
    TeacherConformance,
    ToyRuntime,
    TransformConformance,
    WeightingConformance,
    toy_model,
)
from safetensors.torch import load_file
from torch import Tensor

# --- teachers ---


class Toy(kdtool.Teacher):
    """A small teacher that offers nearly everything."""

    offers: frozenset[kdtool.SignalKind] = frozenset({"logits", "hidden", "attentions", "projections", "top-k", "text"})

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return ByteTokenizer()

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.ModelFacts:
        return toy_model(0).facts

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        model = toy_model(7)
        model.model.eval()
        with torch.no_grad():
            outputs = model.backbone(self.seen(batch), want)
            return self.told(batch, want, outputs, model.head)

    def seen(self, batch: kdtool.Batch) -> kdtool.Batch:
        return batch

    def told(
        self, batch: kdtool.Batch, want: kdtool.SignalRequest, outputs: kdtool.ModelOutputs, head: kdtool.Head
    ) -> kdtool.Signal:
        kinds = want.kinds
        weights, ids = (outputs.last @ head.weight[: head.vocabulary].T).softmax(-1).topk(4)
        return kdtool.Signal(
            "toy",
            lazy=kdtool.LazyLogits(outputs.last, replace(head, weight=head.weight.detach()))
            if "logits" in kinds
            else None,
            sparse=kdtool.SparseTokens(ids.int(), weights, "top-k", want.temperature) if "top-k" in kinds else None,
            hidden=outputs.hidden if "hidden" in kinds else {},
            attentions=dict.fromkeys(want.layers, _attention(batch)) if "attentions" in kinds else {},
            projections=dict.fromkeys(want.layers, self.projected(batch)) if "projections" in kinds else {},
        )

    def projected(self, batch: kdtool.Batch) -> kdtool.Projections:
        return kdtool.Projections(*[_attention(batch)[:, 0]] * 3)

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        return ToyRuntime(7).answer(requests)

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        return ToyRuntime(7) if subject.role == "teacher" else None


def _attention(batch: kdtool.Batch) -> Tensor:
    same = batch.document[:, :, None] == batch.document[:, None, :]
    seen = (same & torch.ones_like(same).tril()).float()
    return (seen / seen.sum(-1, keepdim=True))[:, None]


class Texts(kdtool.Teacher):
    """A teacher that answers by text, as behind a service, and has no tokenizer."""

    offers: frozenset[kdtool.SignalKind] = frozenset({"text"})

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> None:
        return None

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        for request in requests:
            yield kdtool.TextAnswer(request.id, "", "stop", 1, 0)


class Plain(kdtool.Teacher):
    """Leaves `kdtool_tokenizer` out."""

    offers = Texts.offers
    kdtool_answer = Texts.kdtool_answer


class Unspelled(Texts):
    """Offers signals of tokens and has no tokenizer."""

    offers: frozenset[kdtool.SignalKind] = frozenset({"text", "logits"})


class Unloading(Toy):
    """Can be trained, and cannot load what was trained."""

    def kdtool_trainable(self, run: kdtool.RunInfo) -> kdtool.Runtime:
        raise NotImplementedError


class Heavy(Toy):
    """Builds its model for its tokenizer."""

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return toy_model(7).tokenizer


class Misdescribed(Toy):
    """Says that it has more layers than it has."""

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.ModelFacts:
        return replace(toy_model(0).facts, layers=3)


class Generous(Toy):
    """Returns hidden states that were not requested."""

    def told(
        self, batch: kdtool.Batch, want: kdtool.SignalRequest, outputs: kdtool.ModelOutputs, head: kdtool.Head
    ) -> kdtool.Signal:
        return replace(super().told(batch, want, outputs, head), hidden=outputs.hidden)


class Divided(Toy):
    """Gives queries, keys and values head by head."""

    def projected(self, batch: kdtool.Batch) -> kdtool.Projections:
        return kdtool.Projections(*(heads[:, None] for heads in super().projected(batch)))


class Padded(Toy):
    """Gives a state for every position, whether it has a label or not."""

    def seen(self, batch: kdtool.Batch) -> kdtool.Batch:
        return replace(batch, labels=batch.labels.clamp(min=0))


class Mixed(Toy):
    """Subtracts the batch's mean."""

    def told(
        self, batch: kdtool.Batch, want: kdtool.SignalRequest, outputs: kdtool.ModelOutputs, head: kdtool.Head
    ) -> kdtool.Signal:
        last = outputs.last - outputs.last.mean(0) if len(outputs.last) else outputs.last
        return super().told(batch, want, replace(outputs, last=last), head)


class Leaky(Toy):
    """Lets a row's documents see each other."""

    def seen(self, batch: kdtool.Batch) -> kdtool.Batch:
        return replace(batch, document=torch.zeros_like(batch.document))


class Random(Toy):
    """Is never the same."""

    def told(
        self, batch: kdtool.Batch, want: kdtool.SignalRequest, outputs: kdtool.ModelOutputs, head: kdtool.Head
    ) -> kdtool.Signal:
        noisy = {layer: states + 1e-4 * torch.randn_like(states) for layer, states in outputs.hidden.items()}
        return super().told(batch, want, replace(outputs, hidden=noisy), head)


class Inferring(Toy):
    """Gives tensors that autograd refuses."""

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        with torch.inference_mode():
            return super().kdtool_signal(batch, want)


class Talkative(Toy):
    """Goes on after the stop."""

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        for request in requests:
            yield kdtool.TextAnswer(request.id, "hello\n", "length", 3, min(6, request.max_tokens))


class Grabbing(Toy):
    """Opens students as itself."""

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        return ToyRuntime(7)


class TestToy(TeacherConformance):
    component = Toy
    fails: ClassVar[set[str]] = set()


class TestTexts(TeacherConformance):
    component = Texts
    fails: ClassVar[set[str]] = set()


class TestPlain(TeacherConformance):
    component = Plain
    fails: ClassVar[set[str]] = set()


class TestUnspelled(TeacherConformance):
    component = Unspelled
    fails: ClassVar = {
        "test_its_tokenizer_needs_no_weights_and_keeps_text",
        "test_signals_have_the_right_forms",
        "test_signals_are_the_same_each_time",
        "test_a_row_s_signal_does_not_depend_on_its_batch",
        "test_documents_of_a_row_do_not_see_each_other",
        "test_signals_can_be_learned_from",
        "test_it_can_be_closed_after_work_and_twice",
    }


class TestUnloading(TeacherConformance):
    component = Unloading
    fails: ClassVar = {"test_it_switches_to_trained_weights_and_back"}


class TestHeavy(TeacherConformance):
    component = Heavy
    fails: ClassVar = {"test_its_tokenizer_needs_no_weights_and_keeps_text"}


class TestMisdescribed(TeacherConformance):
    component = Misdescribed
    fails: ClassVar = {"test_its_description_is_the_model_and_needs_no_weights"}


class TestGenerous(TeacherConformance):
    component = Generous
    fails: ClassVar = {"test_signals_have_the_right_forms"}


class TestDivided(TeacherConformance):
    component = Divided
    fails: ClassVar = {"test_signals_have_the_right_forms"}


class TestPadded(TeacherConformance):
    component = Padded
    fails: ClassVar = {
        "test_signals_have_the_right_forms",
        "test_documents_of_a_row_do_not_see_each_other",
        "test_a_row_s_signal_does_not_depend_on_its_batch",
        "test_signals_are_the_same_each_time",
        "test_signals_can_be_learned_from",
        "test_it_can_be_closed_after_work_and_twice",
    }


class TestMixed(TeacherConformance):
    component = Mixed
    fails: ClassVar = {
        "test_a_row_s_signal_does_not_depend_on_its_batch",
        "test_documents_of_a_row_do_not_see_each_other",
    }


class TestLeaky(TeacherConformance):
    component = Leaky
    fails: ClassVar = {"test_documents_of_a_row_do_not_see_each_other"}


class TestRandom(TeacherConformance):
    component = Random
    fails: ClassVar = {"test_signals_are_the_same_each_time"}


class TestInferring(TeacherConformance):
    component = Inferring
    fails: ClassVar = {"test_signals_can_be_learned_from"}


class TestTalkative(TeacherConformance):
    component = Talkative
    fails: ClassVar = {"test_prompts_are_answered"}


class TestGrabbing(TeacherConformance):
    component = Grabbing
    fails: ClassVar = {"test_it_opens_itself_and_nothing_else"}


# --- students ---


class Fresh(kdtool.Student):
    """A small model with random weights."""

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return ByteTokenizer()

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.ModelFacts:
        return toy_model(0).facts

    def kdtool_build_student(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        return toy_model(run.seed)

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        if subject.role not in {"student", "control"} or subject.path is None:
            return None
        runtime = ToyRuntime()
        runtime.model = toy_model(0)
        runtime.model.model.load_state_dict(load_file(subject.path / "model.safetensors"))
        return runtime


class Fixed(Fresh):
    """Does not use the seed, and says that it does."""

    def kdtool_build_student(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        return toy_model(3)


class Global(Fresh):
    """Draws from the generator of the process."""

    def kdtool_build_student(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        return toy_model(int(torch.randint(1000, ())))


class Otherwise(Fresh):
    """Describes a smaller model."""

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.ModelFacts:
        return replace(toy_model(0).facts, parameters=5)


class Forgetful(Fresh):
    """Opens without reading the weights."""

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        runtime = super().kdtool_open(run, subject)
        if runtime is not None:
            runtime.model = toy_model(9)
        return runtime


class Idle(Fresh):
    """Has a parameter that no gradient reaches."""

    def kdtool_build_student(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        model = toy_model(run.seed)
        model.model.layers.requires_grad_(requires_grad=False)
        return model


class Pickled(Fresh):
    """Leaves a pickle beside its weights."""

    def kdtool_build_student(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        model = toy_model(run.seed)
        save = model.save

        def both(folder: Path) -> None:
            save(folder)
            (folder / "config.pkl").write_bytes(pickle.dumps({}))

        model.save = both  # type: ignore[method-assign]
        return model


class TestFresh(StudentConformance):
    component = Fresh
    fails: ClassVar[set[str]] = set()


class TestFixed(StudentConformance):
    component = Fixed
    fails: ClassVar = {"test_it_starts_from_the_seed_alone"}


class TestGlobal(StudentConformance):
    component = Global
    fails: ClassVar = {"test_it_starts_from_the_seed_alone"}


class TestOtherwise(StudentConformance):
    component = Otherwise
    fails: ClassVar = {"test_its_facts_are_so"}


class TestForgetful(StudentConformance):
    component = Forgetful
    fails: ClassVar = {"test_it_opens_again_as_it_was_saved"}


class TestIdle(StudentConformance):
    component = Idle
    fails: ClassVar = {"test_its_facts_are_so", "test_it_opens_again_as_it_was_saved"}


class TestPickled(StudentConformance):
    component = Pickled
    fails: ClassVar = {"test_it_opens_again_as_it_was_saved"}


# --- transforms ---


class Adapter(kdtool.Transform):
    """A small addition to the first block's matrix that learns in its place, added to it at the end."""

    on_meta_device = True

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Iterator[kdtool.LanguageModel]:
        layer = student.model.layers[0]
        shape = layer.weight.shape
        start = torch.randn(shape[0], 2, generator=self.generator(run)).to(layer.weight)
        student.model.requires_grad_(requires_grad=False)
        torch.nn.utils.parametrize.register_parametrization(layer, "weight", _LowRank(start, shape[1]))
        yield student
        self.finish(student)

    def generator(self, run: kdtool.RunInfo) -> torch.Generator | None:
        return torch.Generator().manual_seed(run.seed)

    def finish(self, student: kdtool.LanguageModel) -> None:
        torch.nn.utils.parametrize.remove_parametrizations(student.model.layers[0], "weight")
        student.model.requires_grad_(requires_grad=True)


class _LowRank(torch.nn.Module):
    def __init__(self, start: Tensor, width: int) -> None:
        super().__init__()
        self.down = torch.nn.Parameter(start)
        self.up = torch.nn.Parameter(start.new_zeros(2, width))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.down @ self.up


class Unmerged(Adapter):
    """Leaves the adapter where it is."""

    def finish(self, student: kdtool.LanguageModel) -> None:
        student.model.requires_grad_(requires_grad=True)


class Thrown(Adapter):
    """Throws away what was learnt."""

    def finish(self, student: kdtool.LanguageModel) -> None:
        layer = student.model.layers[0]
        torch.nn.utils.parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        student.model.requires_grad_(requires_grad=True)


class Frozen(Adapter):
    """Leaves everything frozen."""

    def finish(self, student: kdtool.LanguageModel) -> None:
        torch.nn.utils.parametrize.remove_parametrizations(student.model.layers[0], "weight")
        student.model.requires_grad_(requires_grad=False)


class Drawn(Adapter):
    """Draws from the generator of the process."""

    def generator(self, run: kdtool.RunInfo) -> torch.Generator | None:
        return None


class Untold(Adapter):
    """Does not say beforehand that it freezes."""

    on_meta_device = False


class TestAdapter(TransformConformance):
    component = Adapter
    fails: ClassVar[set[str]] = set()


class TestUnmerged(TransformConformance):
    component = Unmerged
    fails: ClassVar = {
        "test_a_finished_student_can_be_saved",
        "test_a_finished_student_can_be_trained_again",
    }


class TestThrown(TransformConformance):
    component = Thrown
    fails: ClassVar = {"test_a_finished_student_keeps_what_it_learnt"}


class TestFrozen(TransformConformance):
    component = Frozen
    fails: ClassVar = {"test_a_finished_student_can_be_trained_again"}


class TestDrawn(TransformConformance):
    component = Drawn
    fails: ClassVar = {"test_it_depends_on_the_seed_alone"}


class TestUntold(TransformConformance):
    component = Untold
    fails: ClassVar = {"test_an_outline_learns_as_much_as_the_student"}


# --- weightings ---


class Early(kdtool.Weighting):
    """Counts early positions a little more."""

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        return self.weighed(1 + 0.1 * (chunk.positions % 3 - 1).float(), chunk)

    def weighed(self, weights: Tensor, chunk: kdtool.TokenChunk) -> Tensor:
        return weights


class Nothing(Early):
    """Counts nothing."""

    def weighed(self, weights: Tensor, chunk: kdtool.TokenChunk) -> Tensor:
        return 0 * weights


class Relative(Early):
    """Depends on the rest of the chunk."""

    def weighed(self, weights: Tensor, chunk: kdtool.TokenChunk) -> Tensor:
        return weights / weights[0]


class Learning(Early):
    """Lets gradients through."""

    def weighed(self, weights: Tensor, chunk: kdtool.TokenChunk) -> Tensor:
        return weights + 0 * chunk.student_logits.float().sum(-1)


class Branching(Early):
    """Cannot be compiled as one graph."""

    def weighed(self, weights: Tensor, chunk: kdtool.TokenChunk) -> Tensor:
        return weights if chunk.student_logits.max().item() < 1e9 else 0 * weights


class Running(kdtool.Weighting):
    """Balances terms by running means."""

    def kdtool_balance(
        self, terms: Mapping[str, kdtool.TermReport], step: int, state: dict[str, Any]
    ) -> Mapping[str, float]:
        for name, term in terms.items():
            state[name] = 0.9 * state.get(name, term.value) + 0.1 * term.value
        return {name: 1 / (1 + mean) for name, mean in state.items()}


class Amnesic(Running):
    """Forgets its means when a phase is killed."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.means: dict[str, Any] = {}

    def kdtool_balance(
        self, terms: Mapping[str, kdtool.TermReport], step: int, state: dict[str, Any]
    ) -> Mapping[str, float]:
        return super().kdtool_balance(terms, step, self.means)


class Foreign(Running):
    """Gives a factor for a term that there is not."""

    def kdtool_balance(
        self, terms: Mapping[str, kdtool.TermReport], step: int, state: dict[str, Any]
    ) -> Mapping[str, float]:
        return {**super().kdtool_balance(terms, step, state), "losses.other": 1.0}


class Digits(Early):
    """Labels digits, and counts them twice."""

    columns = frozenset({"digit"})

    def weighed(self, weights: Tensor, chunk: kdtool.TokenChunk) -> Tensor:
        return 1.0 + chunk.columns["digit"]

    def kdtool_annotate(self, example: kdtool.Example) -> Mapping[str, Sequence[int]]:
        return {"digit": [self.number(letter) for part in kdtool.parts_of(example.body) for letter in part]}

    def number(self, letter: str) -> int:
        return int(letter.isdigit())


class BytesOfText(Digits):
    """Returns a number for each byte."""

    def kdtool_annotate(self, example: kdtool.Example) -> Mapping[str, Sequence[int]]:
        return {"digit": bytes(len("".join(kdtool.parts_of(example.body)).encode()))}


class Below(Digits):
    """Returns numbers below 0."""

    def number(self, letter: str) -> int:
        return super().number(letter) - 1


class Tired(Digits):
    """Labels nothing after some hundred characters."""

    seen = 0

    def number(self, letter: str) -> int:
        self.seen += 1
        return super().number(letter) if self.seen < 300 else 0


class _ReadsDigits(WeightingConformance):
    columns: ClassVar = {"digit": 2}


class TestDigits(_ReadsDigits):
    component = Digits
    fails: ClassVar[set[str]] = set()


class TestBytesOfText(_ReadsDigits):
    component = BytesOfText
    fails: ClassVar = {"test_every_character_has_one_number_in_every_column"}


class TestBelow(_ReadsDigits):
    component = Below
    fails: ClassVar = {"test_labels_are_whole_numbers_and_not_negative"}


class TestTired(_ReadsDigits):
    component = Tired
    fails: ClassVar = {"test_labels_depend_on_their_example_alone"}


class TestEarly(WeightingConformance):
    component = Early
    fails: ClassVar[set[str]] = set()


class TestNothing(WeightingConformance):
    component = Nothing
    fails: ClassVar = {"test_they_do_not_all_vanish"}


class TestRelative(WeightingConformance):
    component = Relative
    fails: ClassVar = {"test_a_weight_is_its_position_s_own"}


class TestLearning(WeightingConformance):
    component = Learning
    fails: ClassVar = {"test_weights_have_the_right_form"}


class TestBranching(WeightingConformance):
    component = Branching
    fails: ClassVar = {"test_weights_can_be_compiled_as_one_graph"}


class TestRunning(WeightingConformance):
    component = Running
    fails: ClassVar[set[str]] = set()


class TestAmnesic(WeightingConformance):
    component = Amnesic
    fails: ClassVar = {"test_it_goes_on_from_its_state_as_if_nothing_had_happened"}


class TestForeign(WeightingConformance):
    component = Foreign
    fails: ClassVar = {"test_balances_are_factors_of_the_terms_there_are"}
