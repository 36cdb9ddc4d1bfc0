"""The models of a run, opened so that they yield their answers while they are generated."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack

import kdtool
from kdtool_transformers import TransformersRuntime

from kdtool_streaming._runtime import StreamingRuntime
from kdtool_streaming._speculative import SpeculativeRuntime

__all__ = ["StreamedModels"]


class StreamedModels(kdtool.Models):
    """The models of a run; those of transformers stream their answers, as others do if their plugins can.

    Those `drafted`, except the `draft` itself, are each opened together with the draft. `say` gets a line for each of these
    that computes in 16 bits, since its drafted answers may differ from its own.

    Raises:
        UsageError: no model has the draft's name.
    """

    def __init__(
        self,
        models: kdtool.Models,
        draft: str | None = None,
        drafted: Collection[str] = (),
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.subjects, self.results = models.subjects, models.results
        self._models, self._draft, self._drafted = models, draft, {*drafted} - {draft}
        self._say = say
        if draft is not None and draft not in self.subjects:
            models.open(draft)  # its error lists the names

    def open(self, name: str) -> kdtool.Runtime:
        """Open a model; see `kdtool.Models.open`.

        Raises:
            UsageError: as there; or the draft cannot draft for this model.
        """
        if self._draft is not None and name in self._drafted:
            return self._open_drafted(name, self._draft)
        opened = self._models.open(name)
        return StreamingRuntime.of(opened) if isinstance(opened, TransformersRuntime) else opened

    def _open_drafted(self, name: str, draft: str) -> kdtool.Runtime:
        with ExitStack() as opened:
            target, drafting = (opened.enter_context(self._models.open(each)) for each in (name, draft))
            runtime = SpeculativeRuntime(target, drafting)
            opened.pop_all()
        if runtime.dtype != "float32":
            self._say(
                f"{name} computes in {runtime.dtype}: with --draft, a greedy answer can differ from its own if two "
                "tokens are almost equally likely"
            )
        return runtime
