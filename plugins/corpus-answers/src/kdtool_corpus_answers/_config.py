"""Settings of `answers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import kdtool
import pydantic

__all__ = ["AnswersConfig"]

_Name = Annotated[str, kdtool.Field(min_length=1)]
_Share = Annotated[float, kdtool.Field(gt=0, le=1e6)]


class AnswersConfig(kdtool.Config):
    """Settings of `answers`."""

    ask: _Name | Annotated[dict[_Name, _Share], kdtool.Field(min_length=1)] = "teacher"
    """The teacher that answers, by its name in the recipe: `teacher`, or `teachers.NAME`. Or several, with their shares
    of the prompts: {teachers.big: 0.8, teachers.small: 0.2}. A prompt's id selects its teacher."""
    fallback: _Name | None = None
    """The teacher that is asked if another one refuses; null leaves such prompts out."""
    prompts: tuple[kdtool.RecipePath, ...] = ()
    """JSON Lines files with a `prompt` in each line, and optionally an `id`, `language` and `licence`."""
    corpus: str | None = kdtool.Field(default=None, min_length=1)
    """Take the prompts from the training examples of this corpus of the recipe (`corpora.NAME`) instead; the teacher's
    answers replace their original text. Validation and test examples are used unchanged."""
    prefix_lines: int = kdtool.Field(default=16, ge=1, le=10_000)
    """Number of first lines of a plain text that form the prompt. Examples with a completion already have a prompt."""
    limit: int | None = kdtool.Field(default=None, ge=1)
    """Use only the first N prompts; null uses all."""
    form: Literal["base", "chat", "text"] | None = None
    """`base`: the teacher continues the prompt, and its answer is learned as it is. `chat`: the prompt is a request for code
    in a chat, and the code of the reply is learned; replies without code that completes the prompt are left out. `text`: the
    prompt is a message, and the whole reply is learned. null: `base` for teachers that continue a prompt; for others `chat`
    if the prompt has a programming language, else `text`."""
    template: kdtool.RecipePath | None = None
    """Jinja file of the request for `chat`, with the variables `prompt` and `language`: the system's text, a line `=== user
    ===`, and the user's. null uses the one of this package."""
    max_tokens: int = kdtool.Field(default=512, ge=1, le=1_048_576)
    """Maximum tokens per answer."""
    temperature: float = kdtool.Field(default=0.0, ge=0, le=10)
    """0 takes the likeliest token each time; above 0 answers are sampled, each with its own seed."""
    stop: tuple[str, ...] = ()
    """Texts before which an answer ends, such as a blank line before the next function."""
    keep_truncated: bool = False
    """Keep answers that `max_tokens` cut off. The student then learns to stop at the cut."""

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> AnswersConfig:
        if bool(self.prompts) == (self.corpus is not None):
            raise ValueError("give either prompts (files) or corpus (another corpus of the recipe)")
        if len({path.name for path in self.prompts}) < len(self.prompts):
            raise ValueError("two files have the same name, and the run records files by name; rename one")
        if "" in self.stop:
            raise ValueError("`stop` must not contain empty text")
        if set(self.shares) == {self.fallback}:
            raise ValueError("fallback is the only teacher in `ask`; name another one, or remove it")
        return self

    @property
    def shares(self) -> Mapping[str, float]:
        """Teachers by name, with their shares of the prompts."""
        return {self.ask: 1.0} if isinstance(self.ask, str) else self.ask
