"""Rows of preferences: a chosen and a rejected answer to the same prompt, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import kdtool

from kdtool_packer_packed._documents import Document, document_of
from kdtool_packer_packed._row import padded_row

__all__ = ["Pairs"]

_TOO_LONG = "left out: their answers leave no room for a prompt"
_SAME = "left out: both answers are the same"
_EMPTY = "left out: they have no prompt"
_CUT = "without the beginning of their prompt"


class Pairs(kdtool.Packer):
    """One preference per row: prompt and chosen answer, then prompt and rejected answer, as two documents.

    Answers are labelled, each with its end-of-text token; the column `rejected` is 1 on the second document. A long prompt
    loses its beginning, in both documents alike. Pairs are dropped if the answers leave no room for the prompt, if the
    prompt is empty, or if both answers are the same; messages count them.
    """

    columns = frozenset({"rejected"})
    config: Config

    class Config(kdtool.Config):
        """Settings of `pairs`."""

        length: int = kdtool.Field(default=1024, ge=4, le=1_048_576)
        """Tokens per row: both documents and padding."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.row_length = config.length

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        yield kdtool.Estimate("text and rows", note="their disk is known when the text is read")

    def kdtool_rows(
        self, run: kdtool.RunInfo, examples: Iterable[kdtool.Example], tokenizer: kdtool.Tokenizer
    ) -> Iterator[kdtool.Row]:
        """Yield rows as examples come in.

        Raises:
            UsageError: an example is not a preference.
        """
        key, pairs, said = "", 0, Counter[str]()
        for example in examples:
            pairs += 1
            chosen, rejected = self._documents(example, tokenizer, said)
            if not rejected.ids:
                continue
            first, second = len(chosen.ids), len(rejected.ids)
            row = padded_row(
                key,
                chosen.ids + rejected.ids,
                chosen.labelled + rejected.labelled,
                [0] * first + [1] * second,
                self.config.length,
                tokenizer.end_of_text,
                {"rejected": [0] * first + [1] * second},
            )
            key = row.key
            yield row
        for what, count in said.items():
            if count:
                run.say(f"pairs: {count:,} of {pairs:,} are {what} (`length` is {self.config.length:,} tokens)")

    def _documents(
        self, example: kdtool.Example, tokenizer: kdtool.Tokenizer, said: Counter[str]
    ) -> tuple[Document, Document]:
        """Return both documents, empty if the pair is dropped; count dropped and cut pairs in `said`."""
        body = example.body
        if not isinstance(body, kdtool.Preference):
            raise kdtool.UsageError(
                f"rows: pairs needs preferences, with a chosen and a rejected answer to a prompt, but {example.id!r} of "
                f"{example.source or 'the corpus'} is not one; use a corpus of preferences (jsonl reads the fields prompt, "
                "chosen and rejected), or set `rows: {use: packed}`"
            )
        answers = (kdtool.Completion(body.prompt, text) for text in (body.completion, body.rejected))
        both = [document_of(kdtool.Example(example.id, answer), tokenizer, "plain") for answer in answers]
        start = both[0].start
        prompt = both[0].labelled.index(True) - start
        room = (self.config.length - sum(sum(document.labelled) for document in both)) // 2 - start
        unfit = _SAME if body.completion == body.rejected else _EMPTY if not prompt else _TOO_LONG if room < 1 else None
        if unfit is not None:
            said[unfit] += 1
            return Document(), Document()
        surplus = max(0, prompt - room)
        said[_CUT] += surplus > 0
        for document in both:
            del document.ids[start : start + surplus], document.labelled[start : start + surplus]
        chosen, rejected = both
        return chosen, rejected
