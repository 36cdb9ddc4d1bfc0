"""Settings of `hub`."""

from __future__ import annotations

from collections.abc import Mapping

import kdtool
import pydantic

__all__ = ["HubConfig"]


class HubConfig(kdtool.Config):
    """Settings of `hub`."""

    dataset: str = ""
    """Name on the hub, as `owner/name`; or give `files`."""
    files: tuple[kdtool.RecipePath, ...] = ()
    """Local data files of one format instead: .parquet, .jsonl, .json, .arrow, .csv. Their names must differ."""
    config: str | None = None
    """Configuration of the data set; null selects its only or default one."""
    revision: str | None = None
    """Branch, tag or commit of the data set; null selects the newest. The run records the commit."""
    splits: Mapping[kdtool.Split, str] = kdtool.Field(default={"train": "train"}, min_length=1)
    """The data set's own split to take for each of `train`, `validation` and `test`. Files are all of one: `train`."""
    text_column: str | None = None
    """Column with plain text, every token of which is learned."""
    prompt_column: str | None = None
    """Column with prompts; goes with `completion_column`, or with `chosen_column` and `rejected_column`."""
    completion_column: str | None = None
    """Column with completions, which alone are learned."""
    chosen_column: str | None = None
    """Column with the better of two completions of a prompt, as text."""
    rejected_column: str | None = None
    """Column with the worse of two completions of a prompt, as text."""
    messages_column: str | None = None
    """Column with conversations: lists of `role` and `content`, or of `from` and `value` as ShareGPT has them."""
    id_column: str | None = None
    """Column with an id, unique in all splits; null calls an example by a hash of its content."""
    split_column: str | None = None
    """Column with train, validation or test; null takes the split that is read."""
    language_column: str | None = None
    """Column with the programming language; null takes `language`."""
    licence_column: str | None = None
    """Column with an SPDX expression, or a list of licences that all hold; null takes `licence`."""
    language: str = ""
    """Language of all examples without a column for it."""
    licence: str = ""
    """SPDX expression for all examples without a column for it."""
    validation_share: float = kdtool.Field(default=0.0, ge=0, le=0.5)
    """Share of the examples of `train`, by a hash of their content, that settings are chosen on."""
    test_share: float = kdtool.Field(default=0.0, ge=0, le=0.49)
    """Share of the examples of `train`, by a hash of their content, that are scored at the end."""
    maximum_examples: int | None = kdtool.Field(default=10_000, ge=1)
    """At most so many examples of each split that is read, from the start; null reads all there is."""
    shuffle_buffer: int | None = kdtool.Field(default=None, ge=2)
    """So many records are held and drawn from at random; null keeps the order. `maximum_examples` counts afterwards."""
    seed: int = kdtool.Field(default=0, ge=0, le=2**32 - 1)
    """Of the shuffling. It never changes an example's split."""

    @pydantic.model_validator(mode="after")
    def _has_one_source_and_one_form(self) -> HubConfig:
        if bool(self.dataset) == bool(self.files):
            raise ValueError("needs `dataset`, a name on the hub, or `files`, and not both")
        if self.files and (self.config or self.revision or set(self.splits.items()) != {("train", "train")}):
            raise ValueError("`config`, `revision` and `splits` belong to data sets of the hub, not to files")
        if len({path.name for path in self.files}) < len(self.files):
            raise ValueError("two files have the same name, and the run records files by name; rename one")
        if (self.chosen_column is None) != (self.rejected_column is None):
            raise ValueError("`chosen_column` and `rejected_column` go together")
        answers = [self.completion_column, self.chosen_column].count(None)
        if answers != (2 if self.prompt_column is None else 1):
            raise ValueError(
                "`prompt_column` goes together with `completion_column`, or with `chosen_column` and `rejected_column`"
            )
        if [self.text_column, self.prompt_column, self.messages_column].count(None) != 2:
            raise ValueError(
                "name the columns of one form: text_column, or prompt_column and completion_column, or prompt_column, "
                "chosen_column and rejected_column, or messages_column"
            )
        return self
