"""The repository of a run: its exported files in their places, licence texts, and the files that describe them.

Licence texts are looked for next to the models that gave the student its weights. The front matter of a static Space's
card makes the Hub show the page of the exporter `web`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import kdtool
from kdtool_transformers.card import CardFile, build_card, modelfile

CARD = "README.md"
LICENCES = "LICENSE.md"
"""The file with the terms of everything that the model was made from; the Hub takes this name."""
RECORD = "kdtool-run.json"
"""The file that names a repository's run and the files that it was given."""
_NOT_PUBLISHED = {"README.md", "artifact.json", "manifest.json"}
"""Files next to an artefact that describe it only to kdtool."""


@dataclass(frozen=True)
class Publication:
    """The content of a repository.

    `name` is the repository's name without its owner, `owner` "" for the user that is logged in. `files` are paths on this
    machine by path in the repository, `texts` the files that describe them. `without_text` are licences of weights in the
    student whose text was not found. `is_space`: a static Space, not a model.
    """

    results: kdtool.Results
    owner: str
    name: str
    cards: Sequence[CardFile]
    files: Mapping[str, Path]
    texts: Mapping[str, str] = field(default_factory=dict)
    without_text: Sequence[kdtool.Licensed] = ()
    is_space: bool = False

    def repository(self, owner: str) -> str:
        """Return `owner/name`, with `owner` if none was given."""
        return f"{self.owner or owner}/{self.name}"

    def content(self, owner: str) -> dict[str, Path | bytes]:
        """Return every file of the repository by its path there, with the card's links to `owner`."""
        licence = LICENCES if LICENCES in self.texts else ""
        repository = self.repository(owner)
        card = build_card(self.results, self.cards, name=self.name, repository=repository, licence_file=licence)
        card = space_card(card, self.name) if self.is_space else card
        record = {"run": self.results.name, "files": sorted([*self.files, *self.texts, CARD, RECORD])}
        texts = {**self.texts, CARD: card, RECORD: json.dumps(record, indent=1) + "\n"}
        return {**self.files, **{path: text.encode() for path, text in texts.items()}}

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file by its path in the repository, in order of the paths."""
        content = sorted(self.content(self.owner or "OWNER").items())
        return {path: len(item) if isinstance(item, bytes) else item.stat().st_size for path, item in content}


def plan_push(
    run: Path | str,
    *,
    to: str = "",
    only: Sequence[str] = (),
    licences: Sequence[Path] = (),
    out: Path | str = "runs",
    space: bool = False,
) -> Publication:
    """Return what pushing a run publishes; nothing is uploaded.

    Args:
        run: the run's folder, or its name below `out`.
        to: `owner/name` of the repository; "" for the run's name and the user that is logged in.
        only: names of exporters or files to publish; () for all.
        licences: texts of licences to publish, in addition to those next to the weights from which the student was made.
        out: the folder for runs.
        space: publish only the page of the exporter `web`, as a static Space.

    Raises:
        UsageError: the run does not exist, is not finished or exported nothing; a name in `only` or `to` is wrong; one of
            `licences` is not a file.
        StorageError: an exported file is missing or was changed, or a file is a pipe or a link that leads elsewhere.
    """
    results = kdtool.load(run, out=out)
    chosen = _choose(results, only)
    chosen = choose_page(chosen) if space else chosen
    owner, name = _names(to, results)
    cards = _place(chosen)
    for card in cards:
        _require_whole(card.artifact, results.folder)
    files, texts = dict(_files(cards, results.folder)), dict(_texts(results, cards))
    licence_texts = find_texts(results, licences)
    files |= place_texts(licence_texts, {*files, *texts})
    return Publication(results, owner, name, cards, files, texts, missing_texts(results, licence_texts), space)


def required_prefixes(results: kdtool.Results) -> dict[str, str]:
    """Return the beginnings that licences require of the model's name, by licence, as the Hub can write them."""
    return {
        licensed.terms.licence: licensed.terms.name_prefix.replace(" ", "-")
        for licensed in results.licences
        if licensed.transfers and licensed.terms.name_prefix
    }


def _names(to: str, results: kdtool.Results) -> tuple[str, str]:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    owner, sign, name = to.partition("/")
    if to and not (owner and sign and name):
        raise kdtool.UsageError(
            f"--to: {to!r} is not a repository; expected owner/name, such as --to you/{to.strip('/')}"
        )
    if not to:
        name = results.name
        for prefix in required_prefixes(results).values():
            name = name if name.startswith(prefix) else f"{prefix}-{name}"
    try:
        validate_repo_id(f"{owner}/{name}" if owner else name)
    except HFValidationError as error:
        raise kdtool.UsageError(
            f"--to: the Hub does not accept {to or name!r}: {str(error).partition(':')[0]}; choose another name with "
            "--to owner/name"
        ) from None
    return owner, name


def _choose(results: kdtool.Results, only: Sequence[str]) -> dict[str, kdtool.Artifact]:
    """Return the artefacts to publish, by the names of their exporters in the recipe."""
    artifacts = results.arms[0].artifacts if results.arms else ()
    if not artifacts:
        raise kdtool.UsageError(
            f"the run {results.name!r} exported nothing; add `exporters: {{safetensors: {{}}}}` to its recipe and run it "
            "again: what is finished is reused"
        )
    exporters = (part.name.rpartition(".")[2] for part in results.components if part.kind == "exporter")
    named = dict(zip(exporters, artifacts, strict=True))
    if not only:
        return named
    known = {name: name for name in named} | {artifact.path.name: name for name, artifact in named.items()}
    if unknown := [name for name in only if name not in known]:
        raise kdtool.UsageError(f"--file: the run exported no {unknown[0]!r}; choose from: {', '.join(known)}")
    return {name: artifact for name, artifact in named.items() if name in {known[each] for each in only}}


def _place(chosen: Mapping[str, kdtool.Artifact]) -> list[CardFile]:
    """Return the files with their places: the folder that transformers opens is the repository itself, and comes first."""
    folders = [name for name, artifact in chosen.items() if (artifact.path / "config.json").is_file()]
    root = min(folders, key=lambda name: chosen[name].format != "safetensors", default=None)
    placed: list[CardFile] = []
    for name, artifact in chosen.items():
        path = "." if name == root else name if artifact.path.is_dir() else artifact.path.name
        if path in {other.place for other in placed}:
            path = f"{name}-{path}"
        placed.append(CardFile(artifact, path))
    return sorted(placed, key=lambda file: file.place != ".")


def _require_whole(artifact: kdtool.Artifact, run: Path) -> None:
    files = [path for path in _walk(artifact.path, run) if path.name != CARD or not artifact.card]
    there = sum(path.stat().st_size for path in files)
    if there < artifact.bytes:
        raise kdtool.StorageError(
            f"{artifact.path} was changed after its export: {there:,} of {artifact.bytes:,} bytes left; delete the "
            f"folder {artifact.path.parent}, and run the recipe again to export it"
        )


def _walk(path: Path, run: Path) -> list[Path]:
    """Return the files of an artefact; refuse pipes, and links out of its folder or the run's."""
    folder, files = (path, sorted(path.rglob("*"))) if path.is_dir() else (path.parent, [path])
    found = [each for each in files if each.is_symlink() or (each.exists() and not each.is_dir())]
    for each, inside in product(found, (folder, run)):
        kdtool.open_regular(each, None, inside).close()
    return found


def _files(cards: Sequence[CardFile], run: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of all artefacts, and notices that licences require next to them."""
    for card in cards:
        path = card.artifact.path
        folder = path if path.is_dir() else path.parent
        notices = _walk(path.with_name("NOTICE"), run) if path.is_file() else []
        for each in [*_walk(path, run), *notices]:
            below = each.relative_to(folder).as_posix()
            if each == path:
                yield card.place, path
            elif each.name not in _NOT_PUBLISHED:
                yield (below if card.place == "." or path.is_file() else f"{card.place}/{below}"), each


def _texts(results: kdtool.Results, cards: Sequence[CardFile]) -> Iterator[tuple[str, str]]:
    if gguf := next((card for card in cards if card.artifact.format == "gguf" and card.artifact.path.is_file()), None):
        yield "Modelfile", modelfile(results, gguf)
    if binding := [licensed for licensed in results.licences if licensed.transfers]:
        yield LICENCES, "\n".join(["# Licences of the model's sources", "", *_terms(binding)]) + "\n"


def _terms(binding: Sequence[kdtool.Licensed]) -> Iterator[str]:
    for licensed in binding:
        yield f"## {licensed.terms.licence} (`{licensed.component}`)"
        yield from ("", licensed.terms.url, "") if licensed.terms.url else ("",)
        yield from (f"- {text}" for text in licensed.terms.restrictions)
        yield from (f"\n> {text}" for text in licensed.terms.notices)
        yield ""


_LICENCE_FILE = re.compile(r"(LICEN[SC]E|NOTICE|USE_POLICY)\b", re.IGNORECASE)
_NEED_NO_TEXT = {"CC0-1.0", "Unlicense"}
"""Licences under which weights may be passed on without their text."""


def find_texts(results: kdtool.Results, given: Sequence[Path]) -> dict[str, list[Path]]:
    """Return files with licences, notices and policies next to the weights in the student, by component; `given` by "".

    Raises:
        UsageError: a given path is not a file.
    """
    for file in given:
        if not file.is_file():
            raise kdtool.UsageError(f"--licence: {file} is not a file; expected the text of a licence or a notice")
    configs = {component.name: component.config for component in results.components}
    texts = {
        licensed.component: list(_find_next_to(configs.get(licensed.component, {})))
        for licensed in _licences_of_weights(results)
    }
    return {"": list(given), **texts}


def place_texts(texts: Mapping[str, Sequence[Path]], taken: set[str]) -> Iterator[tuple[str, Path]]:
    """Yield files with their place in the repository: their own name, below their component's if that is `taken`."""
    placed: dict[str, Path] = {}
    for component, files in texts.items():
        for file in files:
            path = f"{component or 'licences'}/{file.name}" if file.name in {*taken, *placed} else file.name
            with kdtool.open_regular(file) as opened:
                content = opened.read()
            if all(content != other.read_bytes() for other in placed.values()):
                placed[path] = file
    yield from placed.items()


def missing_texts(results: kdtool.Results, texts: Mapping[str, Sequence[Path]]) -> list[kdtool.Licensed]:
    """Return the licences of weights that are passed on with their text, if their text was neither found nor given."""
    return [
        licensed
        for licensed in _licences_of_weights(results)
        if licensed.terms.licence not in _NEED_NO_TEXT
        and not texts[""]
        and not any(file.name.upper().startswith("LICEN") for file in texts[licensed.component])
    ]


def _licences_of_weights(results: kdtool.Results) -> list[kdtool.Licensed]:
    return [licensed for licensed in results.licences if "weights" in licensed.transfers]


def _find_next_to(config: Mapping[str, object]) -> Iterator[Path]:
    model = config.get("model") or config.get("weights")
    folder = _model_folder(str(model), config.get("revision")) if model else None
    for file in sorted(folder.iterdir()) if folder else ():
        if _LICENCE_FILE.match(file.name) and not file.is_dir():
            kdtool.open_regular(file, inside=folder).close()
            yield file


def _model_folder(model: str, revision: object) -> Path | None:
    """Return the folder of a model, or of the files on this machine of a model on the Hub."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    path = Path(model).expanduser()
    if path.exists():
        return path if path.is_dir() else path.parent
    try:
        config = try_to_load_from_cache(model, "config.json", revision=str(revision) if revision else None)
    except HFValidationError:  # a path that is gone
        return None
    return Path(config).parent if isinstance(config, str) else None


_SPACE_HEADERS = {
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "cross-origin",
}
"""Headers without which browsers give the page one thread of WebAssembly."""
_CARD_KEYS = ("license", "license_name", "license_link", "tags")
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
        custom_headers=_SPACE_HEADERS,
        **{key: data[key] for key in _CARD_KEYS if key in data},
    )
    return str(made)
