"""Sources of a phase: corpora, filters and packers, which yield rows of tokens, and teachers and caches of their signals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kdtool._contract.component import Component, hook
from kdtool._contract.data import Batch, Example, Row, RowSource
from kdtool._contract.evaluation import Subject
from kdtool._contract.language_model import ModelFacts, Request, Runtime, TextAnswer, Tokenizer
from kdtool._contract.run_info import RunInfo
from kdtool._contract.signals import Signal, SignalKind, SignalRequest, checking_signals

if TYPE_CHECKING:
    from torch import Tensor


class Corpus(Component):
    """Examples: text, prompt with completion, or messages, each with its split, language, licence and source."""

    kind = "corpus"

    @hook(needed=True)
    def kdtool_examples(self, run: RunInfo) -> Iterator[Example]:
        """Yield the corpus's examples, the same ones in the same order for the same config and identity.

        Called once when the text artefact is made, on rank 0. `kdtool check` reads the first examples, unless `derives_from`
        names something. Ids are unique, and no example is empty; the split of an example never depends on other examples.
        Several iterators may be read in turns. Name components that it calls through `run.hook` in `derives_from`. Files
        committed below `run.folder` (`kdtool.commit`) survive a kill. Since 0.1.
        """
        raise NotImplementedError


class Filter(Component):
    """Keeps or rejects examples."""

    kind = "filter"
    undecided: frozenset[str] = frozenset()
    """Reasons that say nothing about the example, such as that a judge gave no verdict: such rows are not repaired."""

    @hook(needed=True)
    def kdtool_filter(self, run: RunInfo, examples: Sequence[Example]) -> Sequence[str | None]:
        """Judge a batch of examples: one entry each, None to keep it, or a short reason to reject it.

        Called batch by batch (some hundred) in the order of the recipe, on rank 0; kept examples pass to the next filter. A
        judgement may depend on the examples before (near-duplicates), never on where batches begin. The report counts
        rejections by reason. Since 0.1.
        """
        raise NotImplementedError


class Packer(Component):
    """Turns examples into rows of tokens for one tokenizer."""

    kind = "packer"
    row_length: int = 0
    """Tokens in a row, 0 if unknown beforehand; may depend on the config."""
    carries_annotations: bool = False
    """True if it transfers `Example.annotations` to its tokens, as columns of the rows; otherwise weightings that label text
    are refused."""

    @hook(needed=True)
    def kdtool_rows(self, run: RunInfo, examples: Iterable[Example], tokenizer: Tokenizer) -> Iterator[Row]:
        """Yield rows of equal length.

        Called once for each tokenizer when the rows artefact is made, on rank 0. `examples` are of one split and may be
        endless: yield rows as soon as they are full. Row keys are unique and depend on the content, not on the machine.
        Also called without examples before a run makes anything, to refuse an unsuitable tokenizer, and again for only
        the first row, to refuse text that does not yield one. Since 0.1.
        """
        raise NotImplementedError


class SignalSource(Protocol):
    """The source of one teacher's signals in a phase: the teacher itself or a cache.

    A cache's source has the attribute `recorded`, which is true: a trainer may ask it in a background thread, for one batch
    after the other.
    """

    @property
    def want(self) -> SignalRequest:
        """The contents of every signal."""

    def signal(self, batch: Batch, chosen: Tensor | None = None) -> Signal:
        """Return the signal for a batch, on the batch's device; `chosen` as in `SignalRequest`, if `want` has that kind."""


class Teacher(Component):
    """A model to learn from."""

    kind = "teacher"
    offers: frozenset[SignalKind] = frozenset()
    """Signals that `kdtool_signal` and `kdtool_answer` can return; may depend on the config."""
    offers_with: Mapping[SignalKind, Mapping[str, Any]] = {}
    """Settings with which it would also offer a signal, for the remedy of a loss that lacks it. Since 0.1."""
    answer_cache_key: Mapping[str, str] | None = None
    """Everything besides the request that determines its answers, such as the name of a server's model.

    Answers are cached under this key: with the same `answer_cache_key`, other settings or code repeat no request. None: all
    settings, the code and `kdtool_identity` determine the answers. May depend on the config. Since 0.1.
    """
    stores_answers = False
    """True if the teacher stores each answer itself before it yields it; no one else does then. Since 0.1."""
    converses = False
    """True if `kdtool_answer` replies to a bare prompt as to a message, False if it continues it. May depend on the config.
    Since 0.1."""
    initial_student: str | None = None
    """For a teacher that is the student itself: the phase before which, "" for the phase that learns from it. That student's
    folder comes by `kdtool_load_weights`. It runs with the student, and is not measured. None, the default: another
    model. May depend on the config. Since 0.1."""

    label_key: str | None = None
    """Identifies the settings that `kdtool_annotate` depends on, as in `Weighting`."""

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        own = vars(cls).get("kdtool_signal")
        if callable(own) and not hasattr(own, "kdtool_impl"):  # a wrapper of other teachers' signals
            cls.kdtool_signal = checking_signals(own)  # type: ignore[method-assign]

    def answer_key(self, request: Request, weights: str = "") -> str:
        """Return the key of the answer to a request in the store, as 64 hexadecimal digits.

        It stands for the class, `answer_cache_key`, the request but its id (nor the seed if it is greedy), and `weights`: a
        fingerprint of all else that determines the answer. Keyword-only fields of requests, which are younger than the first
        stores, count unless they have their default. Since 0.1.
        """
        left_out = {"id"} if request.temperature else {"id", "seed"}
        left_out |= {
            each.name for each in fields(request) if each.kw_only and getattr(request, each.name) == each.default
        }
        asked = {name: value for name, value in vars(request).items() if name not in left_out}
        content = [type(self).__qualname__, self.answer_cache_key, weights, asked]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def kdtool_describe(self, run: RunInfo) -> ModelFacts | None:
        """Return the model's shapes: see `kdtool.Component`. A teacher returns no outline. Since 0.1."""

    def kdtool_tokenizer(self, run: RunInfo) -> Tokenizer | None:
        """Return the tokenizer, without loading weights. Called often, and before any other hook of a model: cache it.

        None, the default, suits a teacher that offers only text: no loss compares its tokens. Since 0.1.
        """

    def kdtool_annotate(self, example: Example) -> Mapping[str, Sequence[int]]:
        """Return numbers for the characters of a text, for each of `columns`, as `Weighting.kdtool_annotate` does.

        For a teacher whose signal depends on more than tokens, such as a document's language. Called for the rows of phases
        in which a loss learns from it; it reads `Batch.columns`. Since 0.1.
        """
        raise NotImplementedError

    def kdtool_signal(self, batch: Batch, want: SignalRequest) -> Signal:
        """Return exactly the requested signals for a batch, without gradient, on the batch's device.

        Called for every micro-batch while signals are recorded or, without a cache, during training; every rank calls its
        own. Weights load at the first call and stay until `kdtool_close`. The signal of a row depends only on that row, up
        to rounding, and is the same each time; documents of a row do not see each other. Tensors are ordinary ones, not of
        inference mode: losses keep them for backward. Since 0.1.
        """
        raise NotImplementedError

    def kdtool_answer(self, requests: Iterable[Request]) -> Iterator[TextAnswer]:
        """Answer prompts in any order; answers carry the request's id. On rank 0.

        An answer ends before the first of the request's stops. At temperature 0 the same prompt gets the same answer,
        regardless of the other requests. Since 0.1.
        """
        raise NotImplementedError

    @hook(first=True)
    def kdtool_open(self, run: RunInfo, subject: Subject) -> Runtime | None:
        """Open the teacher itself (role "teacher") for measurement or as the source of a student; None for others.

        Callers use `kdtool.open_subject`, which finds the teacher by its name. On rank 0; the caller closes the runtime.
        Since 0.1.
        """

    def kdtool_trainable(self, run: RunInfo) -> Runtime:
        """Open a copy of the teacher's current model for training; the teacher itself does not change.

        Its parameters learn (a trainer holds those of half precision in float32), and its facts are those described. Called
        when a phase `trains` this teacher, on every rank; the caller closes the runtime. Implement `kdtool_load_weights`,
        too. Since 0.1.
        """
        raise NotImplementedError

    def kdtool_load_weights(self, run: RunInfo, folder: Path | None) -> None:
        """Switch to the weights in `folder`, from `LanguageModel.save`; None restores the original.

        Signals, answers, `kdtool_open`, `kdtool_trainable` and `kdtool_identity` then use that model; tokenizer, settings
        such as precision, and shapes stay. Called between stages, perhaps several times, on every rank. Loading may wait
        until the weights are needed. Since 0.1.
        """


class Cache(Component):
    """Records a teacher's signals and recalls them row by row."""

    kind = "cache"
    offers: frozenset[SignalKind] = frozenset()
    """Signals that `kdtool_recall` returns; may depend on the config."""
    every_rank_records: bool = False
    """True if `kdtool_record` is called on every rank, each with a copy of the teacher; otherwise only on rank 0."""

    def records(self, want: SignalRequest, offers: frozenset[SignalKind]) -> SignalRequest:
        """Return the signals to record so that `want`, the union of the losses' needs, can be served: by default `want`.

        `offers` are the signals that the teacher can return. A teacher that does not offer the returned signals is refused.
        Called by `kdtool check` and before `kdtool_record`; may depend on the config. Since 0.1.
        """
        return want

    @hook(needed=True)
    def kdtool_record(self, run: RunInfo, rows: RowSource, source: SignalSource, folder: Path) -> int:
        """Record the teacher's signals of all rows below `folder`, and return the number of rows.

        Called once when the signals artefact is made, on rank 0. A teacher computes on the batch's device, so put batches
        on the training device. After a kill, `folder` contains the committed files (`kdtool.commit`), from which to resume.
        Report progress by `run.hook.kdtool_progress`. With `every_rank_records` each rank of `run.world` writes a part, and
        rank 0 returns when all parts are complete; no rank writes after that. Since 0.1.
        """
        raise NotImplementedError

    @hook(needed=True)
    def kdtool_recall(self, batch: Batch, want: SignalRequest, folder: Path) -> Signal:
        """Return the signal of a batch from `folder`, found by row key, on the batch's device.

        Called for every micro-batch, on every rank, read-only, and by several threads: a trainer may recall signals ahead. A
        missing row is an error. Since 0.1.
        """
        raise NotImplementedError
