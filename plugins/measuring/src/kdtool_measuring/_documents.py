"""The base of evaluators that measure on held-out documents, and scores of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import kdtool
from kdtool_asking import cannot, open_for_measuring

from kdtool_measuring._items import Document, held_out, without_text

__all__ = ["DocumentEvaluator", "score_texts", "unfit_to_score"]


class DocumentEvaluator(kdtool.Evaluator):
    """Base of evaluators of held-out documents: subclasses give `name`, `measurements` and `kdtool_evaluate`."""

    name: ClassVar[str] = ""
    """The evaluator's name, for messages."""

    class Config(kdtool.Config):
        """Documents to score."""

        split: Literal["validation", "test"] = "test"
        """The split whose documents are scored: `validation` to choose settings, `test` once at the end."""
        documents: int = kdtool.Field(default=64, ge=1, le=1_000_000)
        """Documents at most, chosen by the hashes of their ids."""
        characters: int = kdtool.Field(default=4000, ge=1, le=10_000_000)
        """Maximum number of characters of a document; the rest is cut."""

    config: Config

    def documents(self, run: kdtool.RunInfo) -> list[Document]:
        """Return the documents, the same on every machine.

        Raises:
            kdtool.UsageError: the split has no text.
        """
        chosen = held_out(run, self.config.split, most=self.config.documents, characters=self.config.characters)
        if not chosen:
            raise without_text(run, self.name, self.config.split)
        return chosen

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> None:
        """Refuse a split without text.

        Raises:
            kdtool.UsageError: there is no text to measure on.
        """
        if when == "text":
            self.documents(run)


def score_texts(
    run: kdtool.RunInfo, subject: kdtool.Subject, texts: Sequence[str], *, evaluator: str
) -> list[kdtool.LogLikelihood] | None:
    """Return the log-likelihoods of texts, in order; None, and a line for the user, if the subject cannot score them."""
    with open_for_measuring(run, subject, evaluator, unfit_to_score) as runtime:
        return None if runtime is None else list(runtime.score(texts))


def unfit_to_score(runtime: kdtool.Runtime) -> str:
    """Return why a subject cannot score texts, for messages; "" if it can."""
    return "" if "score" in runtime.abilities else cannot("score")
