"""Sources of weights: a recipe's folder, Hub name or .gguf file is located, identified and described. Light.

Published models are known before anything is downloaded: `published.json` contains their configurations, by which `kdtool
check` describes them without a network. Weights are fetched when a run needs them. `CausalTeacher` inherits
`LocatedWeights`, and so does a student that reads weights. Nothing here reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import kdtool
from kdtool_torch import content_hash

if TYPE_CHECKING:
    from kdtool_transformers.model import TransformersModel
    from kdtool_transformers.tokenizer import TransformersTokenizer


class Source(NamedTuple):
    """Source of weights: a folder, or a Hub name with a revision (None: the newest)."""

    place: Path | str
    revision: str | None = None


def find_source(text: str, revision: str | None = None, say: Callable[[str], None] = print) -> Source:
    """Return where the weights are that `text` names; a .gguf file is converted, once.

    Raises:
        UsageError: there is no such file or folder, and it is not a Hub name; or a revision of a folder was given.
    """
    path = Path(text).expanduser()
    if path.suffix.lower() == ".gguf":
        from kdtool_transformers.gguf import convert_gguf

        if not path.is_file():
            raise kdtool.UsageError(f"no such file: {path}; give a folder, a Hub name or a .gguf file")
        return Source(convert_gguf(path, say))
    from kdtool_transformers.opening import resolve

    location = resolve(text)
    if isinstance(location, Path) and revision is not None:
        raise kdtool.UsageError(f"revision {revision!r} belongs to Hub names; {location} is a folder")
    return Source(location, revision)


def source_identity(source: Source, *, offline: bool = False) -> str:
    """Return a name of the weights' content: the SHA-256 of a folder's files, or the commit of a Hub name."""
    from kdtool_transformers.opening import open_config

    if isinstance(source.place, Path):
        return weights_identity(source.place)
    commit = getattr(open_config(source.place, revision=source.revision, offline=offline), "_commit_hash", None)
    if not commit:
        raise kdtool.ServiceError(f"the Hub returned no commit for {source.place}; give a revision or a local folder")
    return str(commit)


def weights_identity(folder: Path) -> str:
    """Return a SHA-256 over a model folder's configuration and weight files, by content.

    Hashes of files are kept in the user's cache by path, size and time of change, so that a second call is free.

    Raises:
        UsageError: the folder holds no safetensors.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise kdtool.UsageError(f"{folder} holds no *.safetensors: the weights are missing")
    total = sha256()
    for file in [folder / "config.json", *files]:
        total.update(f"{file.name} {content_hash(file)}\n".encode())
    return total.hexdigest()


def is_cached(hub_name: str, revision: str | None = None) -> bool:
    """Return whether the files of a Hub name are on this machine: configuration, tokenizer, and weights or their index."""
    from huggingface_hub import try_to_load_from_cache

    def is_held(name: str) -> bool:
        asked = (hub_name, name) if revision is None else (hub_name, name, None, revision)
        return isinstance(try_to_load_from_cache(*asked), str)

    weights = is_held("model.safetensors") or is_held("model.safetensors.index.json")
    return weights and is_held("config.json") and (is_held("tokenizer.json") or is_held("tokenizer_config.json"))


def published_config(hub_name: str) -> Mapping[str, Any]:
    """Return the content of the published config.json of a Hub name, without a network; empty if it is unknown.

    `published.json` holds what models of a family have in common, model type included, and what each adds to it.
    """
    content = _published_models()
    model = content["models"].get(hub_name)
    return {} if model is None else {**content["families"][model["family"]], **model["config"]}


def published_bytes(hub_name: str) -> int | None:
    """Return the bytes of the published safetensors of a Hub name, without a network; None if they are unknown."""
    model = _published_models()["models"].get(hub_name)
    return None if model is None else int(model["bytes"])


def absent_config(source: str, revision: str | None = None) -> Mapping[str, Any] | None:
    """Return the content of the published config.json of a Hub name that is not on this machine.

    None if it is on this machine, is not a Hub name, or is unknown, such as a branch or commit.
    """
    known = published_config(source) if revision is None else {}
    return known if known and not Path(source).expanduser().exists() and not is_cached(source) else None


@cache
def _published_models() -> dict[str, Any]:
    text = files("kdtool_transformers").joinpath("published.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def with_fim_tokens(tokenizer: TransformersTokenizer, unused: Sequence[str]) -> TransformersTokenizer:
    """Return the tokenizer with the special tokens `unused` renamed to `<spm_prefix>`, `<spm_suffix>` and `<spm_middle>`.

    Prompts with these put the suffix first.

    Raises:
        UsageError: it has FIM tokens already, or one of `unused` is not a special token of it or is named twice.
    """
    from kdtool_transformers.opening import open_tokenizer
    from kdtool_transformers.prompts import SUFFIX_FIRST

    name = tokenizer.inner.name_or_path
    if tokenizer.infilling is not None:
        raise kdtool.UsageError(
            f"fim_tokens: the tokenizer of {name} has {', '.join(tokenizer.infilling.tokens)} already; remove fim_tokens"
        )
    content = json.loads(tokenizer.inner.backend_tokenizer.to_str())
    special = {token["content"]: token for token in content["added_tokens"] if token["special"]}
    kept = {token for token in tokenizer.inner.special_tokens_map.values() if isinstance(token, str)}
    if len(set(unused)) < len(unused) or not special.keys() - kept >= set(unused):
        free = ", ".join(sorted(special.keys() - kept)) or "none"
        raise kdtool.UsageError(
            f"fim_tokens: {', '.join(unused)} must be three special tokens of {name} without another purpose; it has {free}"
        )
    renamed = dict(zip(unused, SUFFIX_FIRST.tokens, strict=True))
    for old, new in renamed.items():
        special[old]["content"] = new
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, dict):
        content["model"]["vocab"] = {renamed.get(token, token): index for token, index in vocabulary.items()}
    with TemporaryDirectory() as scratch:
        tokenizer.save(Path(scratch))
        for file in Path(scratch).glob("*.json"):  # they may list special tokens by name, which would be added again
            text = file.read_text(encoding="utf-8")
            for old, new in renamed.items():
                text = text.replace(json.dumps(old), json.dumps(new))
            file.write_text(text, encoding="utf-8")
        (Path(scratch) / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        opened = open_tokenizer(scratch)
    opened.inner.name_or_path, opened.stored_ends = name, tokenizer.stored_ends
    return opened


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
        from kdtool_transformers.opening import open_tokenizer

        location, revision = self.find_weights(run)
        if self._tokenizer is None:
            opened = open_tokenizer(location, revision=revision, offline=self._offline)
            self._tokenizer = with_fim_tokens(opened, self.fim_tokens) if self.fim_tokens else opened
            self._tokenizer.answer_ends = self.answer_ends
        return self._tokenizer

    def outline(self, run: kdtool.RunInfo) -> TransformersModel:
        """Return a model without memory for its weights, in the dtype that they are stored in."""
        from kdtool_transformers.model import outline_of
        from kdtool_transformers.opening import open_config, read_origin

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
