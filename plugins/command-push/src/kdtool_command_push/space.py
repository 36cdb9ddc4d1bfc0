"""The card of a static Space: a model card whose front matter has the Hub show the page of the exporter `web`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import kdtool

__all__ = ["choose_page", "space_card"]

_HEADERS = {
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "cross-origin",
}
"""Headers without which browsers give the page one thread of WebAssembly."""
_KEPT = ("license", "license_name", "license_link", "tags")
"""Keys of a model card that a Space has, too."""


def choose_page(chosen: Mapping[str, kdtool.Artifact]) -> dict[str, kdtool.Artifact]:
    """Return the only artefact with a page, by its exporter's name.

    Raises:
        UsageError: there is none, or there are several.
    """
    pages = {name: artifact for name, artifact in chosen.items() if artifact.format == "web"}
    if len(pages) != 1:
        exported = f"exported {len(pages)} pages ({', '.join(pages)})" if pages else "exported no page"
        raise kdtool.UsageError(
            f"--space: the run {exported}; expected one, of the exporter web: "
            + ("choose it with --file NAME" if pages else "add `web: {}` to the recipe's exporters and run it again")
        )
    return pages


def space_card(card: str, title: str) -> str:
    """Return a model card as that of a static Space with the title."""
    from huggingface_hub import SpaceCard

    made = SpaceCard(card, ignore_metadata_errors=True)
    data: dict[str, Any] = made.data.to_dict()  # type: ignore[no-untyped-call]
    made.data = type(made.data)(
        title=title,
        sdk="static",
        app_file="index.html",
        custom_headers=_HEADERS,
        **{key: data[key] for key in _KEPT if key in data},
    )
    return str(made)
