"""The filter `length`: rejects texts that are too short or too long, or have lines too long to be hand-written."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import kdtool
import pydantic


class LengthFilter(kdtool.Filter):
    """Rejects examples by the length of their text, of its longest line, and of the part that a student learns."""

    class Config(kdtool.Config):
        """Settings of `length`."""

        minimum: int = kdtool.Field(default=1, ge=0, le=1_000_000_000)
        """Minimum characters of all parts together, without white space at both ends of each."""
        maximum: int = kdtool.Field(default=100_000, ge=1, le=1_000_000_000)
        """Maximum characters of all parts together."""
        learned: int = kdtool.Field(default=1, ge=0, le=1_000_000_000)
        """Minimum characters that are learned: in a text, a completion, or the assistant's messages. 0 keeps
        prompts without an answer."""
        line: int = kdtool.Field(default=1_000, ge=1, le=1_000_000_000)
        """Maximum characters of a line; files with longer ones are mostly data or minified (Codex, arXiv 2107.03374)."""

        @pydantic.model_validator(mode="after")
        def _leaves_room(self) -> LengthFilter.Config:
            if self.minimum > self.maximum:
                raise ValueError(
                    f"minimum {self.minimum} is above maximum {self.maximum}, so every text is rejected; lower it"
                )
            return self

    config: Config

    def kdtool_filter(self, run: kdtool.RunInfo, examples: Sequence[kdtool.Example]) -> Sequence[str | None]:
        """Return the first limit that an example breaks, or None."""
        return [self._filter(example.body) for example in examples]

    def _filter(self, body: kdtool.Text | kdtool.Completion | kdtool.Messages) -> str | None:
        parts = kdtool.parts_of(body)
        if sum(map(len, parts)) > self.config.maximum:
            return f"longer than {self.config.maximum} characters"
        if sum(len(part.strip()) for part in parts) < self.config.minimum:
            return f"shorter than {self.config.minimum} characters"
        if len(_text_to_learn(body).strip()) < self.config.learned:
            return f"fewer than {self.config.learned} characters to learn"
        if any(len(line) > self.config.line for part in parts for line in part.splitlines()):
            return f"a line longer than {self.config.line} characters"
        return None


def _text_to_learn(body: kdtool.Text | kdtool.Completion | kdtool.Messages) -> str:
    if isinstance(body, kdtool.Text):
        return body.text
    if isinstance(body, kdtool.Completion):
        return body.completion
    details = body.details if isinstance(body, kdtool.DetailedMessages) else repeat({})
    turns = zip(body.turns, details, body.targets, strict=False)
    return "".join(f"{content}{detail or ''}" for (_, content), detail, learned in turns if learned)
