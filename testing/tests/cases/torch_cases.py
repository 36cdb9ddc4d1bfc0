"""Components that compute, sound and broken, under the suites of their kinds."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import torch
from case import Located, prepare, variant
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
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

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
            outputs = self.changed(model.backbone(self.seen(batch), want))
            return self.signal(batch, want, outputs, model.head)

    def seen(self, batch: kdtool.Batch) -> kdtool.Batch:
        return batch

    def changed(self, outputs: kdtool.ModelOutputs) -> kdtool.ModelOutputs:
        return outputs

    def signal(
        self, batch: kdtool.Batch, want: kdtool.SignalRequest, outputs: kdtool.ModelOutputs, head: kdtool.Head
    ) -> kdtool.Signal:
        kinds = want.kinds
        weights, ids = (outputs.last @ head.weight[: head.vocabulary].T).softmax(-1).topk(4)
        lazy = kdtool.LazyLogits(outputs.last, replace(head, weight=head.weight.detach()))
        sparse = kdtool.SparseTokens(ids.int(), weights, "top-k", want.temperature)
        return kdtool.Signal(
            "toy",
            lazy=lazy if "logits" in kinds else None,
            sparse=sparse if "top-k" in kinds else None,
            hidden=outputs.hidden if "hidden" in kinds else {},
            attentions=dict.fromkeys(want.layers, attention(batch)) if "attentions" in kinds else {},
            projections=dict.fromkeys(want.layers, self.projected(batch)) if "projections" in kinds else {},
        )

    def projected(self, batch: kdtool.Batch) -> kdtool.Projections:
        return kdtool.Projections(*[attention(batch)[:, 0]] * 3)

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        return ToyRuntime(7).answer(requests)

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        return ToyRuntime(7) if subject.role == "teacher" else None


def attention(batch: kdtool.Batch) -> Tensor:
    same = batch.document[:, :, None] == batch.document[:, None, :]
    seen = (same & torch.ones_like(same).tril()).float()
    return (seen / seen.sum(-1, keepdim=True))[:, None]


class Texts(kdtool.Teacher):
    """A teacher that answers by text, as behind a service, and leaves `kdtool_tokenizer` out."""

    offers: frozenset[kdtool.SignalKind] = frozenset({"text"})

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        for request in requests:
            yield kdtool.TextAnswer(request.id, "", "stop", 1, 0)


class TestToy(TeacherConformance):
    component = Toy


class TestTexts(TeacherConformance):
    component = Texts


def infer(self: Any, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
    with torch.inference_mode():
        return Toy.kdtool_signal(self, batch, want)


FORMS, SAME, BATCHES, DOCUMENTS, LEARNED, CLOSED = ALL_SIGNALS = (
    "test_signals_have_the_right_forms",
    "test_signals_are_the_same_each_time",
    "test_a_row_s_signal_does_not_depend_on_its_batch",
    "test_documents_of_a_row_do_not_see_each_other",
    "test_signals_can_be_learned_from",
    "test_it_can_be_closed_after_work_and_twice",
)
TOKENIZER = "test_its_tokenizer_needs_no_weights_and_keeps_text"

variant(TestTexts, "says that it has no tokenizer", kdtool_tokenizer=lambda self, run: None)
variant(
    TestTexts,
    "offers signals of tokens and has no tokenizer",
    TOKENIZER,
    *ALL_SIGNALS,
    offers=frozenset({"text", "logits"}),
    kdtool_tokenizer=lambda self, run: None,
)
variant(
    TestToy,
    "can be trained, and cannot load what was trained",
    "test_it_switches_to_trained_weights_and_back",
    kdtool_trainable=lambda self, run: None,
)
variant(
    TestToy, "builds its model for its tokenizer", TOKENIZER, kdtool_tokenizer=lambda self, run: toy_model(7).tokenizer
)
variant(TestToy, "has a file that only prepare knows", Config=Located, also={"prepare": prepare})
variant(
    TestToy,
    "describes more layers than it has",
    "test_its_description_is_the_model_and_needs_no_weights",
    kdtool_describe=lambda self, run: replace(toy_model(0).facts, layers=3),
)
variant(
    TestToy,
    "returns hidden states that were not requested",
    FORMS,
    signal=lambda self, batch, want, outputs, head: replace(
        Toy.signal(self, batch, want, outputs, head), hidden=outputs.hidden
    ),
)
variant(
    TestToy,
    "returns queries, keys and values head by head",
    FORMS,
    projected=lambda self, batch: kdtool.Projections(*(heads[:, None] for heads in Toy.projected(self, batch))),
)
variant(
    TestToy,
    "returns a state for every position, whether it has a label or not",
    *ALL_SIGNALS,
    seen=lambda self, batch: replace(batch, labels=batch.labels.clamp(min=0)),
)
variant(
    TestToy,
    "subtracts the batch's mean",
    BATCHES,
    DOCUMENTS,
    changed=lambda self, outputs: replace(
        outputs, last=outputs.last - outputs.last.mean(0) if len(outputs.last) else outputs.last
    ),
)
variant(
    TestToy,
    "lets a row's documents see each other",
    DOCUMENTS,
    seen=lambda self, batch: replace(batch, document=torch.zeros_like(batch.document)),
)
variant(
    TestToy,
    "is never the same",
    SAME,
    changed=lambda self, outputs: replace(
        outputs, hidden={layer: states + 1e-4 * torch.randn_like(states) for layer, states in outputs.hidden.items()}
    ),
)
variant(TestToy, "returns tensors that autograd refuses", LEARNED, kdtool_signal=infer)
variant(
    TestToy,
    "continues after the stop",
    "test_prompts_are_answered",
    kdtool_answer=lambda self, requests: (
        kdtool.TextAnswer(request.id, "hello\n", "length", 3, min(6, request.max_tokens)) for request in requests
    ),
)
variant(
    TestToy,
    "opens students as itself",
    "test_it_opens_itself_and_nothing_else",
    kdtool_open=lambda self, run, subject: ToyRuntime(7),
)


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
        runtime.model = self.loaded(subject.path)
        return runtime

    def loaded(self, folder: Path) -> Any:
        model = toy_model(0)
        model.model.load_state_dict(load_file(folder / "model.safetensors"))
        return model


class TestFresh(StudentConformance):
    component = Fresh


def build_pickled(self: Any, run: kdtool.RunInfo) -> kdtool.LanguageModel:
    model = toy_model(run.seed)
    save = model.save

    def both(folder: Path) -> None:
        save(folder)
        (folder / "config.pkl").write_bytes(pickle.dumps({}))

    model.save = both  # type: ignore[method-assign]
    return model


SEED, FACTS, OPENED = (
    "test_it_starts_from_the_seed_alone",
    "test_its_facts_are_so",
    "test_it_opens_again_as_it_was_saved",
)
variant(
    TestFresh, "does not use the seed, and says that it does", SEED, kdtool_build_student=lambda self, run: toy_model(3)
)
variant(
    TestFresh,
    "draws from the generator of the process",
    SEED,
    kdtool_build_student=lambda self, run: toy_model(int(torch.randint(1000, ()))),
)
variant(
    TestFresh,
    "describes a smaller model",
    FACTS,
    kdtool_describe=lambda self, run: replace(toy_model(0).facts, parameters=5),
)
variant(TestFresh, "opens without reading the weights", OPENED, loaded=lambda self, folder: toy_model(9))
variant(TestFresh, "starts from a file that only prepare knows", Config=Located, also={"prepare": prepare})
variant(TestFresh, "saves a pickle with its weights", OPENED, kdtool_build_student=build_pickled)


# --- transforms ---


class Adapter(kdtool.Transform):
    """A small addition to the first block's matrix that learns in its place, added to it at the end."""

    on_meta_device = True

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Iterator[kdtool.LanguageModel]:
        layer = student.model.layers[0]
        shape = layer.weight.shape
        start = torch.randn(shape[0], 2, generator=self.generator(run)).to(layer.weight)
        student.model.requires_grad_(requires_grad=False)
        register_parametrization(layer, "weight", LowRank(start, shape[1]))
        yield student
        self.finish(layer)
        student.model.requires_grad_(requires_grad=True)

    def generator(self, run: kdtool.RunInfo) -> torch.Generator | None:
        return torch.Generator().manual_seed(run.seed)

    def finish(self, layer: torch.nn.Module) -> Any:
        remove_parametrizations(layer, "weight")


class LowRank(torch.nn.Module):
    def __init__(self, start: Tensor, width: int) -> None:
        super().__init__()
        self.down = torch.nn.Parameter(start)
        self.up = torch.nn.Parameter(start.new_zeros(2, width))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.down @ self.up


class TestAdapter(TransformConformance):
    component = Adapter


AGAIN = "test_a_finished_student_can_be_trained_again"
variant(
    TestAdapter,
    "leaves the adapter where it is",
    "test_a_finished_student_can_be_saved",
    AGAIN,
    finish=lambda self, layer: None,
)
variant(
    TestAdapter,
    "throws away what was learned",
    "test_a_finished_student_keeps_what_it_learnt",
    finish=lambda self, layer: remove_parametrizations(layer, "weight", leave_parametrized=False),
)
variant(
    TestAdapter,
    "draws its start from the generator of the process",
    "test_it_depends_on_the_seed_alone",
    generator=lambda self, run: None,
)
variant(
    TestAdapter,
    "does not say beforehand that it freezes",
    "test_an_outline_learns_as_much_as_the_student",
    on_meta_device=False,
)


# --- weightings ---


class Early(kdtool.Weighting):
    """Weighs early positions a little more."""

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        return self.changed(1 + 0.1 * (chunk.positions % 3 - 1).float(), chunk)

    def changed(self, weights: Tensor, chunk: kdtool.TokenChunk) -> Tensor:
        return weights


class TestEarly(WeightingConformance):
    component = Early


variant(TestEarly, "weighs nothing", "test_they_do_not_all_vanish", changed=lambda self, weights, chunk: 0 * weights)
variant(
    TestEarly,
    "depends on the rest of the chunk",
    "test_a_weight_is_its_position_s_own",
    changed=lambda self, weights, chunk: weights / weights[0],
)
variant(
    TestEarly,
    "lets gradients through",
    "test_weights_have_the_right_form",
    changed=lambda self, weights, chunk: weights + 0 * chunk.student_logits.float().sum(-1),
)
variant(
    TestEarly,
    "cannot be compiled as one graph",
    "test_weights_can_be_compiled_as_one_graph",
    changed=lambda self, weights, chunk: weights if chunk.student_logits.max().item() < 1e9 else 0 * weights,
)


class Running(kdtool.Weighting):
    """Balances terms by running means."""

    def kdtool_balance(
        self, terms: Mapping[str, kdtool.TermReport], step: int, state: dict[str, Any]
    ) -> Mapping[str, float]:
        for name, term in terms.items():
            state[name] = 0.9 * state.get(name, term.value) + 0.1 * term.value
        return {name: 1 / (1 + mean) for name, mean in state.items()}


class TestRunning(WeightingConformance):
    component = Running


variant(
    TestRunning,
    "forgets its means when a phase is killed",
    "test_it_goes_on_from_its_state_as_if_nothing_had_happened",
    kdtool_balance=lambda self, terms, step, state: Running.kdtool_balance(
        self, terms, step, self.__dict__.setdefault("means", {})
    ),
)
variant(
    TestRunning,
    "returns a factor for an unknown term",
    "test_balances_are_factors_of_the_terms_there_are",
    kdtool_balance=lambda self, terms, step, state: {
        **Running.kdtool_balance(self, terms, step, state),
        "losses.other": 1.0,
    },
)


class Digits(kdtool.Weighting):
    """Labels digits, and weighs them twice."""

    columns = frozenset({"digit"})
    letters = 0

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        return 1.0 + chunk.columns["digit"]

    def kdtool_annotate(self, example: kdtool.Example) -> Mapping[str, Sequence[int]]:
        return {"digit": [self.number(letter) for part in kdtool.parts_of(example.body) for letter in part]}

    def number(self, letter: str) -> int:
        self.letters += 1
        return int(letter.isdigit())


class TestDigits(WeightingConformance):
    component = Digits
    columns: ClassVar = {"digit": 2}


variant(
    TestDigits,
    "returns a number for each byte",
    "test_every_character_has_one_number_in_every_column",
    kdtool_annotate=lambda self, example: {"digit": bytes(len("".join(kdtool.parts_of(example.body)).encode()))},
)
variant(
    TestDigits,
    "returns numbers below 0",
    "test_labels_are_whole_numbers_and_not_negative",
    number=lambda self, letter: int(letter.isdigit()) - 1,
)
variant(
    TestDigits,
    "labels nothing after some hundred characters",
    "test_labels_depend_on_their_example_alone",
    number=lambda self, letter: Digits.number(self, letter) if self.letters < 300 else 0,
)
