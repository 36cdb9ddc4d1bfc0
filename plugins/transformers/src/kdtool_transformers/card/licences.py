"""Licences of published models: which one a model names, and its requirements for models distilled from it.

`licences.yaml` contains the terms, and patterns that recognise licences in Hub names and files.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import kdtool

_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "USE_POLICY.md")
_METADATA, _CARD_BYTES, _CARD_DEPTH = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---", re.DOTALL), 4_000_000, 20
"""A model card's metadata; the largest published cards have a megabyte, and eight levels."""
_AND = " AND "
_NO_NAME = re.compile(r"[^\w.,+()/ -]")
_GGUF_KEY = struct.pack("<Q15sI", 15, b"general.license", 8)
"""The key of a licence in the header of a GGUF file, and the type of its value, a string."""
_GGUF_HEADER = 1_000_000
"""Bytes at the beginning of a GGUF file to search for its licence: it precedes the vocabulary."""


def known_terms(name: str, url: str = "") -> kdtool.LicenceTerms:
    """Return the terms of a licence by its name on the Hub (`llama3.2`); of an unknown one, only the name.

    Args:
        name: as model cards write it after `license:`, or licences joined by AND, as exported students name theirs.
        url: where to read an unknown one.

    Characters that names of licences do not have become "?": cards and notices quote the name as it is.
    """
    name = _NO_NAME.sub("?", name)[:200]
    known = {**_terms(), **{terms.licence: terms for terms in _terms().values()}}
    parts = [known.get(part, known.get(part.lower())) for part in name.split(_AND)]
    recognised = [terms for terms in parts if terms is not None]
    if not recognised:
        return kdtool.LicenceTerms(_data()["plain"].get(name.lower(), name), url)
    if len(parts) == 1:
        return recognised[0]
    return kdtool.LicenceTerms(
        name,
        restrictions=tuple(text for terms in recognised for text in terms.restrictions),
        forbids=tuple(sorted({transfer for terms in recognised for transfer in terms.forbids})),
        notices=tuple(text for terms in recognised for text in terms.notices),
        name_prefix=next((terms.name_prefix for terms in recognised if terms.name_prefix), ""),
    )


def card_name(licences: Collection[str]) -> str:
    """Return the value of `license:` in the front matter of a model card for a model under all of these."""
    names = {terms.licence: name for name, terms in _terms().items()}
    names |= {spdx: name for name, spdx in _data()["plain"].items()}
    (only,) = licences if len(licences) == 1 else ("",)
    return names.get(only, "other")


def licence_of(model: str) -> str | None:
    """Return the licence that a model names itself, None if it names none.

    Sources are a folder's model card and licence file, the header of a .gguf file, and for a hub name its publisher's
    licence, or its card if that is on this machine already. Nothing is fetched.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.suffix.lower() == ".gguf":
        return _of_gguf(path) if path.is_file() else None
    return None if path.exists() else _match("published", model) or _of_cache(model)


def terms_of(model: str) -> kdtool.LicenceTerms | None:
    """Return the terms of the model that a recipe names, None if it names none; for a hub name at least where to read."""
    licence, path = licence_of(model), Path(model).expanduser()
    hub = "" if path.exists() or path.suffix.lower() == ".gguf" else f"https://huggingface.co/{model}"
    if licence is None:
        return kdtool.LicenceTerms("as named on its model card", hub) if hub else None
    return known_terms(licence, hub)


def _of_folder(folder: Path) -> str | None:
    card = _front_matter(folder / "README.md")
    named, expression = card.get("license"), card.get("license_expression")
    if isinstance(named, str) and named != "other":
        return named
    if isinstance(expression, str):  # the licences of an exported student
        return expression
    for file in (folder / name for name in _FILES):
        if not file.is_file():
            continue
        with kdtool.open_regular(file, None) as opened:
            begin = opened.read(2000).decode(errors="replace")
        if known := _match("texts", begin.upper()):
            return known
    return "other" if named == "other" else None


def _front_matter(card: Path) -> Mapping[str, Any]:
    """Return the metadata of a model card; empty if it is missing, damaged, nested deeply, or has aliases."""
    import yaml

    loader, depth = getattr(yaml, "CSafeLoader", yaml.SafeLoader), 0
    with suppress(OSError, ValueError, yaml.YAMLError, kdtool.KdtoolError):
        with kdtool.open_regular(card, _CARD_BYTES) as opened:
            begins = _METADATA.match(opened.read().decode())
        text = begins[1] if begins else ""
        for event in yaml.parse(text, loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _CARD_DEPTH or getattr(event, "anchor", None):
                return {}
        metadata = yaml.load(text, loader)  # noqa: S506 - a safe one
        return metadata if isinstance(metadata, dict) else {}
    return {}


def _of_gguf(file: Path) -> str | None:
    with file.open("rb") as opened:
        header = opened.read(_GGUF_HEADER)
    offset = header.find(_GGUF_KEY) + len(_GGUF_KEY)
    if offset < len(_GGUF_KEY) or len(header) < offset + 8:
        return None
    (length,) = struct.unpack_from("<Q", header, offset)
    return header[offset + 8 : offset + 8 + length].decode("utf-8", errors="replace") or None


def _of_cache(hub_name: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        card = try_to_load_from_cache(hub_name, "README.md")
    except ValueError:  # not a hub name: opening it says so
        return None
    return _of_folder(Path(card).parent) if isinstance(card, str) else None


def _match(table: str, text: str) -> str | None:
    """Return the licence of the first pattern in a table of `licences.yaml` that a text matches."""
    return next((licence for pattern, licence in _data()[table].items() if re.search(pattern, text)), None)


@cache
def _terms() -> Mapping[str, kdtool.LicenceTerms]:
    """Return the terms of licences by their names on the hub."""
    known: Mapping[str, Mapping[str, Any]] = _data()["terms"]
    return {
        name: kdtool.LicenceTerms(
            terms["licence"],
            terms["url"],
            restrictions=tuple(terms["restrictions"]),
            forbids=tuple(terms.get("forbids", ())),
            notices=tuple(terms.get("notices", ())),
            name_prefix=terms.get("name_prefix", ""),
        )
        for name, terms in known.items()
    }


@cache
def _data() -> dict[str, Any]:
    import yaml

    content: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("licences.yaml").read_text(encoding="utf-8"))
    return content
