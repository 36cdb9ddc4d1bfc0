"""Licence texts next to the models whose weights the student has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import kdtool

__all__ = ["find_texts", "missing_texts", "place_texts"]

_TEXT = re.compile(r"(LICEN[SC]E|NOTICE|USE_POLICY)\b", re.IGNORECASE)
_WITHOUT = {"CC0-1.0", "Unlicense"}
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
        licensed.component: list(_find_next_to(configs.get(licensed.component, {}))) for licensed in _weights(results)
    }
    return {"": list(given), **texts}


def place_texts(texts: Mapping[str, Sequence[Path]], taken: set[str]) -> Iterator[tuple[str, Path]]:
    """Yield files with their place in the repository: their own name, below their component's if that is `taken`."""
    placed: dict[str, Path] = {}
    for component, files in texts.items():
        for file in files:
            path = f"{component or 'licences'}/{file.name}" if file.name in {*taken, *placed} else file.name
            if all(file.read_bytes() != other.read_bytes() for other in placed.values()):
                placed[path] = file
    yield from placed.items()


def missing_texts(results: kdtool.Results, texts: Mapping[str, Sequence[Path]]) -> list[kdtool.Licensed]:
    """Return the licences of weights that are passed on with their text, if their text was neither found nor given."""
    return [
        licensed
        for licensed in _weights(results)
        if licensed.terms.licence not in _WITHOUT
        and not texts[""]
        and not any(file.name.upper().startswith("LICEN") for file in texts[licensed.component])
    ]


def _weights(results: kdtool.Results) -> list[kdtool.Licensed]:
    return [licensed for licensed in results.licences if "weights" in licensed.transfers]


def _find_next_to(config: Mapping[str, object]) -> Iterator[Path]:
    model = config.get("model") or config.get("weights")
    folder = _folder(str(model), config.get("revision")) if model else None
    for file in sorted(folder.iterdir()) if folder else ():
        if _TEXT.match(file.name) and file.is_file():
            yield file


def _folder(model: str, revision: object) -> Path | None:
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
