"""Settings of `hub`."""

from __future__ import annotations

from collections.abc import Mapping

import kdtool
import pydantic

__all__ = ["HubConfig"]


class HubConfig(kdtool.Config):
    """Settings of `hub`."""

    dataset: str = ""
    """Name on the Hub, as `owner/name`; or give `files`."""
    files: tuple[kdtool.RecipePath, ...] = ()
    """Local data files of one format instead: .parquet, .jsonl, .json, .arrow, .csv. Their names must differ."""
    config: str | None = None
    """Configuration of the dataset; null selects its only or default one."""
    revision: str | None = None
    """Branch, tag or commit of the dataset; null selects the newest. The run records the commit."""
    splits: Mapping[kdtool.Split, str] = kdtool.Field(default={"train": "train"}, min_length=1)
    """The dataset's split to use for each of `train`, `validation` and `test`. Local files have only one: `train`."""
    text_column: str | None = None
    """Column with plain text, every token of which is learned."""
    prompt_column: str | None = None
    """Column with prompts; goes with `completion_column`, or with `chosen_column` and `rejected_column`. Alone, it gives
    prompts without answers, for on-policy training."""
    completion_column: str | None = None
    """Column with completions; only these are learned, not the prompts."""
    chosen_column: str | None = None
    """Column with the better of two completions of a prompt, as text."""
    rejected_column: str | None = None
    """Column with the worse of two completions of a prompt, as text."""
    messages_column: str | None = None
    """Column with conversations: lists of `role` and `content`, or of `from` and `value` as ShareGPT has them."""
    id_column: str | None = None
    """Column with an id, unique in all splits; null uses a hash of the content as the id."""
    split_column: str | None = None
    """Column with train, validation or test; null uses the split that the record is read from."""
    language_column: str | None = None
    """Column with the programming language; null uses `language`."""
    licence_column: str | None = None
    """Column with an SPDX expression, or a list of licences that all apply; null uses `licence`."""
    licences: tuple[str, ...] = ()
    """Use only records with one of these licences in `licence_column`, such as [mit, my-licence]; `permissive` stands for
    the usual licences without copyleft (MIT, Apache-2.0, BSD, ISC and a few more). Empty: records with any licence."""
    language: str = ""
    """Language of all examples if there is no column for it."""
    licence: str = ""
    """SPDX expression for all examples if there is no column for it."""
    validation_share: float = kdtool.Field(default=0.0, ge=0, le=0.5)
    """Share of the examples of `train`, selected by a hash of their content, for choosing settings."""
    test_share: float = kdtool.Field(default=0.0, ge=0, le=0.49)
    """Share of the examples of `train`, selected by a hash of their content, for scoring at the end."""
    maximum_examples: int | None = kdtool.Field(default=10_000, ge=1)
    """Maximum number of examples from the start of each split; null reads all."""
    shuffle_buffer: int | None = kdtool.Field(default=None, ge=2)
    """Number of records to buffer and sample from at random; null keeps the order. `maximum_examples` counts afterwards."""
    seed: int = kdtool.Field(default=0, ge=0, le=2**32 - 1)
    """Seed of the shuffle. It never changes an example's split."""

    @pydantic.model_validator(mode="after")
    def _has_one_source_and_one_form(self) -> HubConfig:
        if bool(self.dataset) == bool(self.files):
            raise ValueError("needs `dataset`, a name on the Hub, or `files`, and not both")
        if self.files and (self.config or self.revision or set(self.splits.items()) != {("train", "train")}):
            raise ValueError(
                "`config`, `revision` and `splits` apply to datasets on the Hub, not to `files`; remove them"
            )
        if len({path.name for path in self.files}) < len(self.files):
            raise ValueError("two files have the same name, and the run records files by name; rename one")
        if (self.chosen_column is None) != (self.rejected_column is None):
            raise ValueError("`chosen_column` and `rejected_column` go together")
        if self.licences and self.licence_column is None:
            raise ValueError("`licences` selects records by their licence: name its column in `licence_column`")
        answers = [self.completion_column, self.chosen_column].count(None)
        if not answers or (answers == 1 and self.prompt_column is None):
            raise ValueError(
                "`completion_column`, or `chosen_column` and `rejected_column`, goes together with `prompt_column`"
            )
        if [self.text_column, self.prompt_column, self.messages_column].count(None) != 2:
            raise ValueError(
                "name the columns of one format: text_column, or prompt_column and completion_column, or prompt_column, "
                "chosen_column and rejected_column, or only prompt_column, or messages_column"
            )
        return self
