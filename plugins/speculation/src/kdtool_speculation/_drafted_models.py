"""Models whose tokens another model of the run drafts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack

import kdtool

from kdtool_speculation._runtime import SpeculativeRuntime

__all__ = ["DraftedModels"]


class DraftedModels(kdtool.Models):
    """The models of a run; those `drafted`, but the `draft` itself, are each opened together with the draft.

    `say` gets a line for each that computes in 16 bits, whose drafted answers may differ from its own.

    Raises:
        UsageError: there is no model of the draft's name.
    """

    def __init__(
        self,
        models: kdtool.Models,
        draft: str,
        drafted: Collection[str],
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.subjects, self.results = models.subjects, models.results
        self._models, self._draft, self._drafted = models, draft, {*drafted} - {draft}
        self._say = say
        if draft not in self.subjects:
            models.open(draft)  # says which there are

    def open(self, name: str) -> kdtool.Runtime:
        """Open a model; see `kdtool.Models.open`.

        Raises:
            UsageError: as there; or the draft cannot draft for this model.
        """
        if name not in self._drafted:
            return self._models.open(name)
        with ExitStack() as opened:
            target, draft = (opened.enter_context(self._models.open(each)) for each in (name, self._draft))
            runtime = SpeculativeRuntime(target, draft)
            opened.pop_all()
        if runtime.dtype != "float32":
            self._say(
                f"{name} computes in {runtime.dtype}: with --draft, a greedy answer can differ from its own where two "
                "tokens are almost equally likely"
            )
        return runtime
