"""The transform `freeze`: some of a student's parameters stay unchanged for a phase.

Applied before training starts and undone when the phase ends. It changes which parameters learn, nothing else.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import kdtool
from kdtool import Field

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Freeze"]

EMBEDDINGS = "embeddings"


class Freeze(kdtool.Transform):
    """Freezes parameters that match these patterns, so that only the others learn."""

    on_meta_device = True

    class Config(kdtool.Config):
        """Parameters that are frozen."""

        names: list[str] = Field([EMBEDDINGS], min_length=1)
        """Shell patterns of parameter names, such as `*layers.0.*`; the word `embeddings` stands for input and output
        embeddings, regardless of their names in the model."""

    config: Config

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Iterator[kdtool.LanguageModel]:
        frozen: list[Any] = []
        for pattern in self.config.names:
            matching = list(self._matching(student.model, pattern))
            if not matching:
                some = ", ".join(name for name, _ in list(student.model.named_parameters())[:4])
                raise kdtool.UsageError(f"freeze: no parameter is called {pattern!r}; there are for example {some}")
            frozen.extend(parameter for parameter in matching if parameter.requires_grad)
        for parameter in frozen:
            parameter.requires_grad_(requires_grad=False)
        if not any(parameter.requires_grad for parameter in student.model.parameters()):
            raise kdtool.UsageError(f"freeze: {self.config.names} leaves nothing that learns")
        yield student
        for parameter in frozen:
            parameter.requires_grad_(requires_grad=True)

    def _matching(self, model: Any, pattern: str) -> Iterator[Any]:
        if pattern == EMBEDDINGS:
            for module in (model.get_input_embeddings(), model.get_output_embeddings()):
                yield from module.parameters() if module is not None else ()
            return
        for name, parameter in model.named_parameters():
            if fnmatchcase(name, pattern):
                yield parameter
