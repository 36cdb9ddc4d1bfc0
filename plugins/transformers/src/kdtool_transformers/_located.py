"""Weights that the settings of a teacher or student name: located and described, without reading them. Light.

`CausalTeacher` inherits it, and so does a student that reads weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_transformers._published import absent_config, published_bytes
from kdtool_transformers._sources import Source, find_source, is_cached

if TYPE_CHECKING:
    from kdtool_transformers._model import TransformersModel
    from kdtool_transformers._tokenizer import TransformersTokenizer

__all__ = ["LocatedWeights"]


class LocatedWeights:
    """A component whose weights are in a folder, a GGUF file, or on the Hub.

    Subclasses implement `hub_source`; or `locate`, if they find the weights in another way.
    """

    answer_ends: tuple[str, ...] = ()
    """Tokens that end an answer, besides the end of text and of a turn; those that the tokenizer lacks are left out."""

    fim_tokens: tuple[str, ...] | None = None
    """Special tokens to rename to FIM tokens for prefix, suffix and middle; None: the tokenizer stays as it is."""

    _tokenizer: TransformersTokenizer | None = None
    _source: Source | None = None
    _offline = False

    def hub_source(self) -> tuple[str, str | None] | None:
        """Return the source (folder, file or Hub name) and revision of the settings; None if the Hub is not used."""
        return None

    def locate(self, run: kdtool.RunInfo | None) -> Source:
        """Return where the weights are, fetched or converted if needed. Called once; `run` is None in bare calls."""
        source = self.hub_source()
        if source is None:
            raise NotImplementedError
        return find_source(*source, print if run is None else run.say)

    def absent(self) -> Mapping[str, Any] | None:
        """Return the published configuration of weights that are not on this machine; None if they are, or it is unknown.

        `kdtool check` describes the model by it, so that nothing is fetched.
        """
        source = self.hub_source()
        return None if source is None else absent_config(*source)

    def find_weights(self, run: kdtool.RunInfo | None = None) -> Source:
        """Return where the weights are."""
        if run is not None:
            self._offline = run.offline
        if self._source is None:
            self._source = self.locate(run)
        return self._source

    def open_tokenizer(self, run: kdtool.RunInfo | None = None) -> TransformersTokenizer:
        """Return the tokenizer next to the weights; opened once."""
        from kdtool_transformers._fim_tokens import with_fim_tokens
        from kdtool_transformers._open import open_tokenizer

        location, revision = self.find_weights(run)
        if self._tokenizer is None:
            opened = open_tokenizer(location, revision=revision, offline=self._offline)
            self._tokenizer = with_fim_tokens(opened, self.fim_tokens) if self.fim_tokens else opened
            self._tokenizer.answer_ends = self.answer_ends
        return self._tokenizer

    def outline(self, run: kdtool.RunInfo) -> TransformersModel:
        """Return a model without memory for its weights, in the dtype that they are stored in."""
        from kdtool_transformers._open import open_config, read_origin
        from kdtool_transformers._outline import outline_of

        published = self.absent()
        if published is not None:
            return outline_of(published)
        location, revision = self.find_weights(run)
        config = open_config(location, revision=revision, offline=self._offline)
        return outline_of(config, self.open_tokenizer(run), read_origin(location).get("copied_layers", ()))

    def download_estimates(self, parameters: int) -> Iterator[kdtool.Estimate]:
        """Yield the download of weights that are not on this machine, and the space it takes in the Hub's cache.

        `parameters` counts those of the model, for its size if the published one is unknown; 0 if it is not described yet.
        """
        name, revision = self.hub_source() or ("", None)
        is_here = name.lower().endswith(".gguf") or Path(name).expanduser().exists()
        if not name or is_here or is_cached(name, revision):
            return
        known = published_bytes(name)
        size = 2 * parameters if known is None else known
        guess = "about, from its shape in 16 bits" if size else "size unknown before the download"
        note = guess if known is None else ""
        yield kdtool.Estimate(f"weights of {name} from the Hub", disk_bytes=size, download_bytes=size, note=note)
