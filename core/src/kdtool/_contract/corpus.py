"""Corpora, filters and packers: from text to rows of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kdtool._contract.component import Component
from kdtool._contract.data import Example, Row
from kdtool._contract.hooks import hook
from kdtool._contract.run_info import RunInfo
from kdtool._contract.tokenizer import Tokenizer


class Corpus(Component):
    """Examples: text, prompt with completion, or messages, each with its split, language, licence and source."""

    kind = "corpus"

    @hook(needed=True)
    def kdtool_examples(self, run: RunInfo) -> Iterator[Example]:
        """Yield the corpus's examples, the same ones in the same order for the same config and identity.

        Called once when the text artefact is made, on rank 0. `kdtool check` reads the first examples, unless `derives_from`
        names something. Ids are unique, and no example is empty; the split of an example never depends on other examples.
        Several iterators may be read in turns. Name components that it calls through `run.hook` in `derives_from`. Files
        committed below `run.folder` (`kdtool.commit`) survive a kill. Since 0.1.
        """
        raise NotImplementedError


class Filter(Component):
    """Keeps or rejects examples."""

    kind = "filter"
    undecided: frozenset[str] = frozenset()
    """Reasons that say nothing about the example, such as that a judge gave no verdict: such rows are not repaired."""

    @hook(needed=True)
    def kdtool_filter(self, run: RunInfo, examples: Sequence[Example]) -> Sequence[str | None]:
        """Judge a batch of examples: one entry each, None to keep it, or a short reason to reject it.

        Called batch by batch (some hundred) in the order of the recipe, on rank 0; kept examples pass to the next filter. A
        judgement may depend on the examples before (near-duplicates), never on where batches begin. The report counts
        rejections by reason. Since 0.1.
        """
        raise NotImplementedError


class Packer(Component):
    """Turns examples into rows of tokens for one tokenizer."""

    kind = "packer"
    row_length: int = 0
    """Tokens in a row, 0 if unknown beforehand; may depend on the config."""
    carries_annotations: bool = False
    """True if it transfers `Example.annotations` to its tokens, as columns of the rows; otherwise weightings that label text
    are refused."""

    @hook(needed=True)
    def kdtool_rows(self, run: RunInfo, examples: Iterable[Example], tokenizer: Tokenizer) -> Iterator[Row]:
        """Yield rows of equal length.

        Called once for each tokenizer when the rows artefact is made, on rank 0. `examples` are of one split and may be
        endless: yield rows as soon as they are full. Row keys are unique and depend on the content, not on the machine.
        Also called without examples before a run makes anything, to refuse an unsuitable tokenizer, and again for only
        the first row, to refuse text that does not yield one. Since 0.1.
        """
        raise NotImplementedError
