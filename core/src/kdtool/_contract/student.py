"""Students, and transforms of a student during a phase."""

from __future__ import annotations

from collections.abc import Iterator

from kdtool._contract.component import Component
from kdtool._contract.estimates import Saving
from kdtool._contract.evaluation import Subject
from kdtool._contract.hooks import hook
from kdtool._contract.language_model import LanguageModel, Runtime
from kdtool._contract.run_info import RunInfo
from kdtool._contract.tokenizer import Tokenizer


class Student(Component):
    """The model that learns, before training."""

    kind = "student"
    uses_seed: bool = True
    """True if `kdtool_build_student` depends on `run.seed`; otherwise all seeds share one build."""
    pretrained: bool = False
    """True if it starts from weights that work already: they are measured, too, as the subject "base"."""

    @hook(needed=True)
    def kdtool_tokenizer(self, run: RunInfo) -> Tokenizer:
        """Return the tokenizer, without loading weights. Since 0.1."""
        raise NotImplementedError

    @hook(needed=True)
    def kdtool_build_student(self, run: RunInfo) -> LanguageModel:
        """Build the untrained student, with the facts of `kdtool_describe`.

        Called once per seed (or once, see `uses_seed`), on rank 0, and saved: it opens again with the same logits.
        Since 0.1.
        """
        raise NotImplementedError

    @hook(first=True)
    def kdtool_open(self, run: RunInfo, subject: Subject) -> Runtime | None:
        """Open a saved student or control, trained or not ("base"), from its folder `subject.path`; None for other subjects.

        On every rank; the caller closes the runtime. Since 0.1.
        """


class Transform(Component):
    """Changes a student at a phase's start and finishes at its end: adapters, quantisation-aware training, compile."""

    kind = "transform"
    saves_memory: Saving | None = None
    """Settings and their costs, if `kdtool check` may propose it for a run that does not fit."""
    on_meta_device: bool = False
    """True if `kdtool_transform` also works on weights without values, on torch's device "meta": `kdtool check` calls it to
    count what learns and what is kept for backward. Otherwise the check assumes that it changes neither."""

    def kdtool_transform(
        self, student: LanguageModel, run: RunInfo
    ) -> Iterator[LanguageModel | None] | LanguageModel | None:
        """Change the student before a phase; in the order of the recipe, each on the result of the previous one.

        Return the changed student; None stands for the argument. A transform that finishes after the phase yields it
        instead, once: the code after the `yield` merges adapters or converts weights, in reverse order. Then `student`, the
        argument, can be saved, keeps the training, and has its original parameters trainable again for the next phase.

        A resumed phase repeats this and then reads its checkpoint: the parameters' names and shapes must be the same each
        time. Frozen parameters have `requires_grad` off. On every rank; if `on_meta_device`, also for `kdtool check`, once
        per phase and only up to the `yield`. After an exception in the phase, the code after the `yield` does not run.
        Since 0.1.
        """
