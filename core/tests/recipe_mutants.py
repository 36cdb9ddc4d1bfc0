"""Mutated recipes: real ones, changed in their tree of keys, in their text, by `--set`, and by what they extend."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, MutableMapping, MutableSequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st
from kdtool._recipe.layers import COLLECTIONS, SINGLE, SOURCE_KEYS, TOP_KEYS

WORDS = (
    *TOP_KEYS, *COLLECTIONS.values(), *SINGLE.values(), "use", "weight", "teacher", "steps", "losses", "match",
    "required", "extends", "transforms", "weightings", "share", "start", "end", "begin", "until", "shape", "tokens",
    "time", "documents", "length", "factor", "seed", "model", "student", "<<", "$ref", "__class__", "0", "-", "a.b",
    "nats", "count",
)  # fmt: skip
USES = (
    "Corpus", "Packer", "Teacher", "Cache", "Student", "Trainer", "Count", "Imitate", "Nats", "Export", "Events",
    "Report", "Lines", "Filter", "Transform", "Nothing", "Bytes", "Unigram", "json", "__name__", "",
)  # fmt: skip
SCALARS: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, 3, -1, 2**31, 2**31 - 1, 2**63, 10**19, 10**400, -(10**30), 0.5, 1.0, 1e308, 1e-320,
    -0.0, float("inf"), float("-inf"), float("nan"), "", " ", "x" * 10_000, "\0", "\x1b[2J", "é\u202e𝔘", "\ud800",
    "null", "true", "no", "1e-4", "1e400", "0x1f", "1_000", "12:30", "../..", "/", ".", "./toy.py:Nothing",
    "./nothing.py:X", ".py:", "x.py:", "./recipe.yaml.py:X", "os:system", "sys:exit", ":", "a:b:c", "kdtool:Teacher",
    "kdtool:Loss", "1:2", "recipe.yaml", "nothing.yaml", ".", "\n", "tokens", "time", "linear", "cosine", "step", "*",
    "&a", "{}", "[]", "${HOME}", "~",
)  # fmt: skip
TEXTS = (
    "\0", "\t", "\ufeff", "\u2028", "\x85", "\r", "\n", " ", "  ", "&a ", "*a", "!!python/object:os.system ", "!x ",
    "<<: *a\n", "---\n", "...\n", "%YAML 1.1\n", "'", '"', "{", "}", "[", "]", ",", ": ", "? ", "- ", "#", "|\n",
    ">\n", "@", "`", "é", "\U0001f600", "[" * 25, "{a: " * 25, "use: x\n", "name: y\n", "extends: recipe.yaml\n",
    "\x7f",
)  # fmt: skip


@dataclass
class Mutant:
    """A recipe's files (`recipe.yaml` and what it may extend), or its mapping, with `--set` values."""

    files: dict[str, str] = field(default_factory=dict)
    data: Any = None
    settings: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8", errors="surrogatepass")


def _spots(data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (container, key) of a tree."""
    if isinstance(data, MutableMapping):
        entries: Any = list(data.items())
    else:
        entries = list(enumerate(data)) if isinstance(data, MutableSequence) else []
    for key, value in entries:
        yield data, key
        yield from _spots(value)


def _pick(draw: st.DrawFn, *choices: Any) -> Any:
    return draw(st.sampled_from(choices))


@st.composite
def junk(draw: st.DrawFn, depth: int = 2) -> Any:
    """Something that may stand in a recipe by mistake."""
    choice = draw(st.integers(0, 9))
    if choice == 5:
        return draw(st.integers() | st.floats() | st.text(max_size=20) | st.text(alphabet="abc:./-_", max_size=12))
    if choice == 6:
        return draw(st.dictionaries(st.sampled_from(WORDS), st.sampled_from(SCALARS), max_size=3))
    if choice == 7 and depth:
        return [draw(junk(depth - 1)) for _ in range(draw(st.integers(0, 3)))]
    if choice == 8 and depth:
        return {_pick(draw, *WORDS): draw(junk(depth - 1))}
    if choice == 9:
        numbers = st.sampled_from([0, 0.5, 1, -1, 2, "x", None, float("nan"), float("inf")])
        shape = st.sampled_from(["linear", "cosine", "step", "square", None])
        optional = {"begin": numbers, "until": numbers, "shape": shape}
        return draw(st.fixed_dictionaries({"start": numbers, "end": numbers}, optional=optional))
    return _pick(draw, *SCALARS)


def _misspelt(draw: st.DrawFn, key: str) -> Any:
    place = draw(st.integers(0, max(0, len(key) - 1)))
    return _pick(
        draw, key[:place] + key[place + 1 :], f"{key[:place]}x{key[place:]}", key.upper(), f"{key} ", f"{key}s"
    )


def _new_key(draw: st.DrawFn, key: Any) -> Any:
    return _pick(draw, *WORDS) if draw(st.booleans()) else _misspelt(draw, str(key))


def _change(draw: st.DrawFn, data: Any, bases: tuple[Any, ...]) -> None:
    """Change a tree in one place."""
    spots = list(_spots(data))
    if not spots:
        return
    holder, key = _pick(draw, *spots)
    value, is_mapping = holder[key], isinstance(holder, MutableMapping)
    action = _pick(draw, "drop", "junk", "junk", "rename", "swap", "copy", "graft", "add", "wrap", "use")
    if action == "drop":
        del holder[key]
    elif action == "junk":
        holder[key] = draw(junk())
    elif action == "rename" and is_mapping:
        holder[_new_key(draw, key)] = holder.pop(key)
    elif action == "swap":
        other, its = _pick(draw, *spots)
        holder[key], other[its] = copy.deepcopy(other[its]), copy.deepcopy(value)
    elif action in {"copy", "graft"}:  # from here, or from another recipe
        other, its = _pick(draw, *(spots if action == "copy" else _spots(_pick(draw, *bases))))
        if is_mapping:
            holder[_new_key(draw, its)] = copy.deepcopy(other[its])
        else:
            holder.append(copy.deepcopy(other[its]))
    elif action == "add" and is_mapping:
        holder[_pick(draw, *WORDS)] = draw(junk())
    elif action == "wrap":
        nested = [reduce(lambda inner, _: {"a": inner}, range(depth), value) for depth in (1, 5, 30)]
        holder[key] = _pick(draw, [value], {"use": value}, {str(key): value}, *nested)
    elif action == "use" and isinstance(value, MutableMapping) and isinstance(value.get("use"), str):
        path, sign, _ = value["use"].rpartition(":")
        value["use"] = path + sign + _pick(draw, *USES)


def _vary(draw: st.DrawFn, data: Any) -> None:
    """Change a recipe in one place to something that may well be right."""
    phase: Any = data.get("train")
    phase = phase if isinstance(phase, dict) else {}
    phases = [value for value in phase.values() if isinstance(value, dict) and "steps" in value]
    phase = _pick(draw, *phases) if phases else phase
    losses = phase.get("losses") if isinstance(phase.get("losses"), dict) else {}
    action = _pick(draw, "number", "number", "off", "control", "weights", "sources", "label", "phases", "name")
    if action == "number":
        numbers = [(holder, key) for holder, key in _spots(data) if type(holder[key]) in {int, float}]
        for holder, key in [_pick(draw, *numbers)] if numbers else ():
            holder[key] = _pick(draw, 1, 2, 3, 4, 9, 0.5, 1.0, 2.0)
    elif action == "off":
        sections = ("signals", "control", "evaluators", "exporters", "trackers", "reporter", "filters", "seeds")
        data[_pick(draw, *sections)] = _pick(draw, False, False, None, {})
    elif action == "control":
        plain = {"ce": copy.deepcopy(losses.get("count", {}))}
        matches: list[Any] = [True, False, "tokens", ["tokens"], ["time", "tokens"]]
        settings: list[Any] = [{"match": "tokens", "losses": plain}, {"losses": plain}, {"trainer": {"factor": 3.0}}]
        data["control"] = _pick(draw, *matches, *settings)
    elif action == "weights":
        for loss in (loss for loss in losses.values() if isinstance(loss, dict)):
            start, end = _pick(draw, (0, 1), (1, 0.0), (0.5, 0.5), (0, 0))
            loss["weight"] = {"start": start, "end": end, "shape": _pick(draw, "linear", "cosine", "step")}
    elif action == "sources":  # a phase may have other sources and another trainer
        sources = {*SOURCE_KEYS, "trainer", *(COLLECTIONS[key] for key in SOURCE_KEYS if key in COLLECTIONS)}
        keys = [key for key in data if key in sources]
        for key in draw(st.lists(st.sampled_from(keys), max_size=3, unique=True)) if keys else ():
            phase[key] = copy.deepcopy(data[key]) if draw(st.booleans()) else data.pop(key)
    elif action == "label":
        found = [holder[key] for holder, key in _spots(data) if key in COLLECTIONS and isinstance(holder[key], dict)]
        for holder in filter(None, found):
            name = _pick(draw, *sorted(holder, key=str))
            holder[_pick(draw, "a", "b-1", "nats", "train", "student", "0")] = copy.deepcopy(holder[name])
    elif action == "phases":
        names = _pick(draw, ["one", "two"], ["train"], ["steps", "b"], ["a", "a-b", "c"], [])
        data["train"] = {name: copy.deepcopy(phase) for name in names}
    else:
        data["name"] = _pick(draw, "a", "A-1_b", "x" * 64, "con", "0", "-", "store", "control", "student")
        data["seeds"] = _pick(draw, [0], [5], [1, 2], [2**31 - 1], [0, 1, 2])


def _written(draw: st.DrawFn, data: Any) -> str:
    if draw(st.booleans()):
        return str(yaml.safe_dump(data, allow_unicode=True, sort_keys=False))
    return json.dumps(data, indent=_pick(draw, None, 1))


def _garbled(draw: st.DrawFn, text: str) -> str:
    """Change a text in one place."""
    place = draw(st.integers(0, len(text)))
    lines = text.splitlines(keepends=True) or [""]
    number = draw(st.integers(0, len(lines) - 1))
    action = _pick(draw, "insert", "insert", "cut", "twice", "indent", "move", "random")
    if action == "cut":
        return text[:place] + text[place + _pick(draw, 1, 2, 10, 10_000) :]
    if action in {"insert", "random"}:
        inserted = _pick(draw, *TEXTS) if action == "insert" else draw(st.text(max_size=20))
        return f"{text[:place]}{inserted}{text[place:]}"
    if action == "twice":
        lines.insert(number, lines[number])
    elif action == "indent":
        lines[number] = _pick(draw, " ", "  ", "\t", "    ") + lines[number].lstrip(" ")
    else:
        lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(number))
    return "".join(lines)


def _settings(draw: st.DrawFn, data: Any, *, text: bool) -> dict[str, Any]:
    """`--set` values, for keys that there are and for others."""
    found: dict[str, Any] = {}
    for _ in range(_pick(draw, 0, 0, 1, 2, 3)):
        parts = [_pick(draw, *WORDS) for _ in range(draw(st.integers(1, 3)))]
        here = data
        if draw(st.booleans()):
            parts = []
            while isinstance(here, MutableMapping) and here and (not parts or draw(st.booleans())):
                parts.append(str(_pick(draw, *sorted(here, key=str))))
                here = here.get(parts[-1])
        value = draw(junk())
        key = ".".join(parts) if draw(st.integers(0, 20)) else draw(st.text(max_size=8))
        found[key] = _pick(draw, str(value), json.dumps(value), "[", "{a: 1}", "'", " 3 ") if text else value
    return found


@st.composite
def mutants(draw: st.DrawFn, bases: tuple[Any, ...]) -> Mutant:
    """A mutant of one of the recipes in `bases`, which are plain data."""
    data = copy.deepcopy(_pick(draw, *bases))
    mild = draw(st.booleans())
    for _ in range(_pick(draw, 0, 1, 2, 3) if mild else 0):
        _vary(draw, data)
    for _ in range(_pick(draw, 0, 0, 0, 1) if mild else _pick(draw, 0, 1, 1, 2, 3, 6)):
        _change(draw, data, bases)
    settings = _settings(draw, data, text=True) if not mild or draw(st.integers(0, 3)) == 0 else {}
    if draw(st.integers(0, 3)) == 0:
        return Mutant(data=data, settings=_settings(draw, data, text=False) if settings else {})
    files = {}
    if isinstance(data, dict) and draw(st.integers(0, 3)) == 0:
        above = {key: data.pop(key) for key in list(data) if draw(st.booleans())}
        for _ in range(draw(st.integers(0, 2))):
            _change(draw, above, bases)
        target = _pick(draw, "base.yaml", "base.yaml", "base.yaml", "recipe.yaml", "nothing.yaml", ".", "", "\0")
        files["base.yaml"] = _written(draw, {**data, **_pick(draw, {}, {}, {"extends": "recipe.yaml"})})
        data = {"extends": target, **above}
    files["recipe.yaml"] = _written(draw, data)
    for _ in range(0 if mild else _pick(draw, 0, 1, 1, 2)):
        files["recipe.yaml"] = _garbled(draw, files["recipe.yaml"])
    return Mutant(files=files, settings=settings)
