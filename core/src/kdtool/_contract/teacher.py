"""Teachers, and caches of their signals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from kdtool._contract.component import Component
from kdtool._contract.data import Batch, RowSource
from kdtool._contract.evaluation import Subject
from kdtool._contract.hooks import hook
from kdtool._contract.language_model import Request, Runtime, TextAnswer
from kdtool._contract.run_info import RunInfo
from kdtool._contract.signals import Offer, Signal, Want
from kdtool._contract.tokenizer import Tokenizer


class SignalSource(Protocol):
    """Where a phase's signals of one teacher come from: the teacher itself or a cache."""

    @property
    def want(self) -> Want:
        """What every signal will hold."""

    def signal(self, batch: Batch) -> Signal:
        """Return the signal for a batch, on the batch's device."""


class Teacher(Component):
    """A model to learn from."""

    kind = "teacher"
    offers: frozenset[Offer] = frozenset()
    """What `kdtool_signal` and `kdtool_answer` can give; may depend on the config."""
    speaks_as: Mapping[str, str] | None = None
    """What its answers follow from besides the request, such as the name of a server's model; may depend on the config.

    Answers are kept by it: with other settings or code, but the same `speaks_as`, nothing is asked again. None: they follow
    from all its settings, its code and `kdtool_identity`. Since 0.1.
    """

    def kdtool_tokenizer(self, run: RunInfo) -> Tokenizer:
        """Return the tokenizer, without loading weights. Called often, and before any other hook of a model: keep it.

        Since 0.1.
        """
        raise NotImplementedError

    def kdtool_signal(self, batch: Batch, want: Want) -> Signal:
        """Tell what is wanted about a batch, and nothing else, without gradient, on the batch's device.

        Called for every micro-batch while signals are taken or, without a cache, while training; every rank calls its
        own. Weights load at the first call and stay until `kdtool_close`. What a row is told depends on that row alone, up
        to rounding, and the same batch is told the same again; documents of a row do not see each other. Tensors are
        ordinary ones, not of inference mode: losses keep them for backward. Since 0.1.
        """
        raise NotImplementedError

    def kdtool_answer(self, requests: Iterable[Request]) -> Iterator[TextAnswer]:
        """Answer prompts in any order; answers carry the request's id. On rank 0.

        An answer ends before the first of the request's stops. At temperature 0 the same prompt gets the same answer,
        whatever is asked beside it. Since 0.1.
        """
        raise NotImplementedError

    @hook(first=True)
    def kdtool_open(self, run: RunInfo, subject: Subject) -> Runtime | None:
        """Open the teacher itself (role "teacher") for measurement or as the source of a student; None for others.

        Callers go through `kdtool.open_subject`, which asks a teacher by its name. On rank 0; the caller closes the
        runtime. Since 0.1.
        """

    def kdtool_trainable(self, run: RunInfo) -> Runtime:
        """Open a copy of the model that it speaks with, to be trained: the teacher itself stays as it is.

        Its parameters learn (a trainer holds those of half precision in float32), and its facts are those described. Called
        when a phase `trains` this teacher, on every rank; the caller closes the runtime. Together with `kdtool_adapted`, or
        neither. Since 0.1.
        """
        raise NotImplementedError

    def kdtool_adapted(self, run: RunInfo, folder: Path | None) -> None:
        """Speak from now on with the model in `folder`, as `LanguageModel.save` left it; None: with the teacher's own.

        Signals, answers, `kdtool_open`, `kdtool_trainable` and `kdtool_identity` are then that model's; tokenizer, settings
        such as precision, and shapes stay. Called between stages, also several times, on every rank. Nothing needs to load
        before it is asked for. Since 0.1.
        """


class Cache(Component):
    """Records a teacher's signals and recalls them row by row."""

    kind = "cache"
    offers: frozenset[Offer] = frozenset()
    """What `kdtool_recall` gives; may depend on the config."""
    every_rank_records: bool = False
    """Whether `kdtool_record` is called on every rank, each with a copy of the teacher, or on rank 0 alone."""

    @hook(needed=True)
    def kdtool_wanted(self, want: Want, offers: frozenset[Offer]) -> Want:
        """Return what to record, so that `want`, the need of all the losses, can be met by a teacher that `offers` this.

        A teacher that does not offer what is returned is refused. Since 0.1.
        """
        raise NotImplementedError

    @hook(needed=True)
    def kdtool_record(self, run: RunInfo, rows: RowSource, source: SignalSource, folder: Path) -> int:
        """Take the teacher's signals of all rows, write them below `folder`, and return the number of rows.

        Called once when the signals artefact is made, on rank 0. A teacher computes where the batch is that it is asked
        about, so batches belong where students train. A killed process finds in `folder` the files that it committed
        (`kdtool.commit`) and goes on from them. Report progress by `run.hook.kdtool_progress`. With `every_rank_records`
        each rank of `run.world` writes a part, rank 0 returns when all is there, and nobody writes after that. Since 0.1.
        """
        raise NotImplementedError

    @hook(needed=True)
    def kdtool_recall(self, batch: Batch, want: Want, folder: Path) -> Signal:
        """Return the signal of a batch from `folder`, found by row key, on the batch's device.

        Called for every micro-batch, on every rank, read-only. A row that is not there is an error. Since 0.1.
        """
        raise NotImplementedError
