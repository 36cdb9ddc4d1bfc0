"""Licences of published models, by their name in model cards: obligations of those who distil from a model.

`known_terms` looks one up; `terms_of` finds a model's own, in its card, its licence file, or by the name of its publisher.
The words in quotation marks are the licences' own. Light: no torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import kdtool

__all__ = ["card_name", "known_terms", "licence_of", "terms_of"]

_PLAIN: Mapping[str, str] = {
    "apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause",
    "cc0-1.0": "CC0-1.0", "unlicense": "Unlicense",
}  # fmt: skip
"""Licences that ask nothing of a model's outputs: by the hub's name, with their SPDX name."""

_PUBLISHED: tuple[tuple[str, str], ...] = (
    (r"(codellama/|meta-llama/CodeLlama-|meta-llama/Llama-2-)", "llama2"),
    (r"meta-llama/Meta-Llama-3-", "llama3"),
    (r"meta-llama/(Meta-)?Llama-3\.1-", "llama3.1"),
    (r"meta-llama/Llama-3\.2-", "llama3.2"),
    (r"meta-llama/Llama-3\.3-", "llama3.3"),
    (r"bigcode/starcoder", "bigcode-openrail-m"),
    (r"HuggingFaceTB/SmolLM", "apache-2.0"),
    (r"mistralai/Mistral-7B-", "apache-2.0"),
)
"""Licences of hub names, so that they are known before anything is fetched."""

_TEXTS: tuple[tuple[str, str], ...] = (
    (r"LLAMA 2 COMMUNITY LICENSE", "llama2"),
    (r"META LLAMA 3 COMMUNITY LICENSE", "llama3"),
    (r"LLAMA 3\.1 COMMUNITY LICENSE", "llama3.1"),
    (r"LLAMA 3\.2 COMMUNITY LICENSE", "llama3.2"),
    (r"LLAMA 3\.3 COMMUNITY LICENSE", "llama3.3"),
    (r"BIGCODE OPEN ?RAIL-M", "bigcode-openrail-m"),
    (r"APACHE LICENSE\s+VERSION 2\.0", "apache-2.0"),
    (r"(\A|\n)\s*(THE )?MIT LICENSE", "mit"),
)
"""Beginnings of licence files."""
_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "USE_POLICY.md")

_AND = " AND "
_MANY_USERS = (
    "who had more than 700 million monthly users in the month before the release needs a licence of their own (§2)"
)


def known_terms(name: str, url: str = "") -> kdtool.LicenceTerms:
    """Return the terms of a licence by its name on the hub (`llama3.2`); one that is not known is named and no more.

    Args:
        name: as model cards write it after `license:`, or licences joined by AND, as exported students name theirs.
        url: where to read it, where it is not known.
    """
    known = _terms() | {terms.licence: terms for terms in _terms().values()}
    parts = [known.get(part, known.get(part.lower())) for part in name.split(_AND)]
    found = [terms for terms in parts if terms is not None]
    if not found:
        return kdtool.LicenceTerms(_PLAIN.get(name.lower(), name), url)
    if len(parts) == 1:
        return found[0]
    return kdtool.LicenceTerms(
        name,
        restrictions=tuple(text for terms in found for text in terms.restrictions),
        forbids=tuple(sorted({transfer for terms in found for transfer in terms.forbids})),
        notices=tuple(text for terms in found for text in terms.notices),
        name_prefix=next((terms.name_prefix for terms in found if terms.name_prefix), ""),
    )


def card_name(licences: Collection[str]) -> str:
    """Return the value of `license:` in the front matter of a model card for a model under all of these."""
    names = {terms.licence: name for name, terms in _terms().items()} | {spdx: name for name, spdx in _PLAIN.items()}
    (only,) = licences if len(licences) == 1 else ("",)
    return names.get(only, "other")


def licence_of(text: str) -> str | None:
    """Return the licence that a model names itself, None where it names none.

    Read are a folder's model card and licence file, the header of a .gguf file, and for a hub name its publisher's licence,
    or its card where that is on this machine already. Nothing is fetched.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.suffix.lower() == ".gguf" and path.is_file():
        from kdtool_transformers._gguf_header import read_gguf

        field = read_gguf(path).get_field("general.license")
        return None if field is None else str(field.contents())
    if path.exists() or path.suffix.lower() == ".gguf":
        return None
    return _first(_PUBLISHED, text) or _cached_licence(text)


def terms_of(text: str) -> kdtool.LicenceTerms | None:
    """Return the terms of the model that a recipe names, None where it names none; for a hub name at least where to read."""
    licence, path = licence_of(text), Path(text).expanduser()
    hub = "" if path.exists() or path.suffix.lower() == ".gguf" else f"https://huggingface.co/{text}"
    if licence is None:
        return kdtool.LicenceTerms("as named on its model card", hub) if hub else None
    return known_terms(licence, hub)


def _of_folder(folder: Path) -> str | None:
    from kdtool_transformers._files import card_licence

    named = card_licence(folder)
    if named not in {None, "other"}:
        return named
    if several := _several(folder):
        return several
    for file in (folder / name for name in _FILES):
        if file.is_file() and (
            known := _first(_TEXTS, file.read_text(encoding="utf-8", errors="replace")[:2000].upper())
        ):
            return known
    return named


def _several(folder: Path) -> str | None:
    """Return the licences that an exported student's card names together."""
    from huggingface_hub.repocard import metadata_load
    from yaml import YAMLError

    card, found = folder / "README.md", None
    with suppress(ValueError, YAMLError):  # a card of others that is damaged names none
        found = metadata_load(card) if card.is_file() else None
    return str(found["license_expression"]) if found and "license_expression" in found else None


def _cached_licence(hub_name: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        card = try_to_load_from_cache(hub_name, "README.md")
    except ValueError:  # no hub name at all: opening it says so
        return None
    return _of_folder(Path(card).parent) if isinstance(card, str) else None


def _first(table: tuple[tuple[str, str], ...], text: str) -> str | None:
    return next((licence for pattern, licence in table if re.search(pattern, text)), None)


def _terms() -> dict[str, kdtool.LicenceTerms]:
    found = {
        "llama2": kdtool.LicenceTerms(
            "Llama 2 Community License",
            "https://ai.meta.com/llama/license/",
            (
                'neither the model nor "any output or results" of it may be used "to improve any other large language model '
                '(excluding Llama 2 or derivative works thereof)" (§1.b.v)',
                "recipients of the model or a derivative of it get a copy of the licence (§1.b.i)",
                "the acceptable use policy applies: https://ai.meta.com/llama/use-policy (§1.b.iv)",
                "Meta's names and marks may only be used to describe and redistribute the model (§5.a)",
                _MANY_USERS,
            ),
            ("signals", "text"),
            (
                "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. All Rights "
                "Reserved.",
            ),
        ),
        "llama3": replace(
            _llama(
                "Meta Llama 3", "https://llama.meta.com/llama3/license/", "https://llama.meta.com/llama3/use-policy"
            ),
            forbids=("signals", "text"),
            name_prefix="Llama 3",
        ),
        "bigcode-openrail-m": _openrail(),
    }
    for version in ("3.1", "3.2", "3.3"):
        place = f"https://www.llama.com/llama{version.replace('.', '_')}"
        found[f"llama{version}"] = _llama(f"Llama {version}", f"{place}/license", f"{place}/use-policy")
    meta = found["llama3"]
    rule = 'no "output or results" of it may be used "to improve any other large language model" than Llama 3 (§1.b.v)'
    found["llama3"] = replace(meta, restrictions=(rule, *meta.restrictions))
    return found


def _llama(name: str, url: str, policy: str) -> kdtool.LicenceTerms:
    built = "Built with Meta Llama 3" if name == "Meta Llama 3" else "Built with Llama"
    prefix = "Llama 3" if name == "Meta Llama 3" else "Llama"
    return kdtool.LicenceTerms(
        f"{name} Community License",
        url,
        (
            f'"{prefix}" stands "at the beginning" of the name of a published AI model that it, or outputs of it, were used '
            '"to create, train, fine tune, or otherwise improve" (§1.b.i)',
            f'recipients of the model or a derivative of it get a copy of the licence, and see "{built}" "on a related '
            'website, user interface, blogpost, about page, or product documentation" (§1.b.i)',
            f"the acceptable use policy applies: {policy} (§1.b.iv)",
            _MANY_USERS,
        ),
        notices=(
            f"{built}",
            f"{name} is licensed under the {name} Community License, Copyright © Meta Platforms, Inc. All Rights Reserved.",
        ),
        name_prefix=prefix,
    )


def _openrail() -> kdtool.LicenceTerms:
    """The letters are those of attachment A; restrictions without one are given in short."""
    return kdtool.LicenceTerms(
        "BigCode OpenRAIL-M v1",
        "https://huggingface.co/spaces/bigcode/bigcode-model-license-agreement",
        (
            "recipients of the model or a modification of it, such as one distilled from it, are bound by the "
            "agreement under which it is shared to paragraph 4 and the use restrictions of attachment A, or similar ones "
            "(§5.1)",
            'no use "in any way that violates any applicable national, federal, state, local or international law or '
            'regulation" (a), and none that harms minors',
            'not "to generate and/or disseminate malware (e.g. ransomware) or any other content to be used for the purpose '
            'of Harming electronic systems" (c)',
            'not "to generate or disseminate verifiably false information and/or content with the purpose of Harming '
            'others" (d), nor personal information that can harm, and not to defame or harass',
            'nothing that is generated is placed "in any public context (e.g. bot generating tweets) without expressly and '
            'intelligibly disclaiming that the information and/or content is machine generated" (f)',
            'not to "impersonate or attempt to impersonate human beings for purposes of deception" (h)',
            "not \"for fully automated decision making that adversely impacts an individual's legal rights or otherwise "
            'creates or modifies a binding, enforceable obligation" without saying that a machine did it (i)',
            "no use that discriminates against people or groups, or exploits what makes them vulnerable",
        ),
    )
