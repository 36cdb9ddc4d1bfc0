"""Mutated recipes: real ones, changed in their tree of keys, in their text, by `--set`, and by what they extend."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, MutableMapping, MutableSequence
from dataclasses import dataclass, field
from functools import partial
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


@st.composite
def junk(draw: st.DrawFn, depth: int = 2) -> Any:
    """Something that may stand in a recipe by mistake."""
    choice = draw(st.integers(0, 9))
    if choice < 5:
        return draw(st.sampled_from(SCALARS))
    if choice == 5:
        return draw(
            st.one_of(st.integers(), st.floats(), st.text(max_size=20), st.text(alphabet="abc:./-_", max_size=12))
        )
    if choice == 6:
        return draw(st.dictionaries(st.sampled_from(WORDS), st.sampled_from(SCALARS), max_size=3))
    if choice == 7 and depth:
        return [draw(junk(depth - 1)) for _ in range(draw(st.integers(0, 3)))]
    if choice == 8 and depth:
        return {draw(st.sampled_from(WORDS)): draw(junk(depth - 1))}
    numbers = st.sampled_from([0, 0.5, 1, -1, 2, "x", None, float("nan"), float("inf")])
    shape = st.sampled_from(["linear", "cosine", "step", "square", None])
    return draw(
        st.fixed_dictionaries(
            {"start": numbers, "end": numbers}, optional={"begin": numbers, "until": numbers, "shape": shape}
        )
    )


def _misspelt(draw: st.DrawFn, key: str) -> str:
    place = draw(st.integers(0, max(0, len(key) - 1)))
    return draw(
        st.sampled_from(
            [key[:place] + key[place + 1 :], key[:place] + "x" + key[place:], key.upper(), key + " ", key + "s"]
        )
    )


def _change(draw: st.DrawFn, data: Any, bases: tuple[Any, ...]) -> None:
    """Change a tree in one place."""
    spots = list(_spots(data))
    if not spots:
        return
    holder, key = draw(st.sampled_from(spots))
    action: Any = draw(st.sampled_from([_drop, _junk, _junk, _rename, _swap, _copy, _graft, _add, _wrap, _use, _nest]))
    if action is _graft:
        spots = list(_spots(draw(st.sampled_from(bases))))
    action(draw, holder, key, spots)


def _drop(draw: st.DrawFn, holder: Any, key: Any, spots: list[Any]) -> None:
    del holder[key]


def _junk(draw: st.DrawFn, holder: Any, key: Any, spots: list[Any]) -> None:
    holder[key] = draw(junk())


def _rename(draw: st.DrawFn, holder: Any, key: Any, spots: list[Any]) -> None:
    if isinstance(holder, MutableMapping):
        name = draw(st.sampled_from(WORDS)) if draw(st.booleans()) else _misspelt(draw, str(key))
        holder[name] = holder.pop(key)


def _swap(draw: st.DrawFn, holder: Any, key: Any, spots: list[Any]) -> None:
    other, its = draw(st.sampled_from(spots))
    holder[key], other[its] = copy.deepcopy(other[its]), copy.deepcopy(holder[key])


def _copy(draw: st.DrawFn, holder: Any, key: Any, spots: list[Any]) -> None:
    other, its = draw(st.sampled_from(spots))
    value = copy.deepcopy(other[its])
    if isinstance(holder, MutableMapping):
        holder[draw(st.sampled_from(WORDS)) if draw(st.booleans()) else str(its)] = value
    else:
        holder.append(value)


_graft = partial(_copy)  # the same from another recipe


def _add(draw: st.DrawFn, holder: Any, key: Any, spots: list[Any]) -> None:
    if isinstance(holder, MutableMapping):
        holder[draw(st.sampled_from(WORDS))] = draw(junk())


def _wrap(draw: st.DrawFn, holder: Any, key: Any, spots: list[Any]) -> None:
    value = holder[key]
    holder[key] = draw(st.sampled_from([[value], {"use": value}, {str(key): value}, {"a": value}]))


def _use(draw: st.DrawFn, holder: Any, key: Any, spots: list[Any]) -> None:
    value = holder[key]
    if isinstance(value, MutableMapping) and isinstance(value.get("use"), str):
        path, sign, _ = value["use"].rpartition(":")
        value["use"] = path + sign + draw(st.sampled_from(USES))


def _nest(draw: st.DrawFn, holder: Any, key: Any, spots: list[Any]) -> None:
    for _ in range(draw(st.sampled_from([1, 5, 30]))):
        holder[key] = {"a": holder[key]}


def _vary(draw: st.DrawFn, data: Any) -> None:
    """Change a recipe in one place to something that may well be right."""
    phase: Any = data.get("train")
    phase = phase if isinstance(phase, dict) else {}
    phases = [value for value in phase.values() if isinstance(value, dict) and "steps" in value]
    phase = draw(st.sampled_from(phases)) if phases else phase
    every = [
        _vary_number,
        _vary_number,
        _vary_off,
        _vary_control,
        _vary_weights,
        _vary_sources,
        _vary_label,
        _vary_phases,
        _vary_name,
    ]
    draw(st.sampled_from(every))(draw, data, phase)


def _vary_number(draw: st.DrawFn, data: Any, phase: Any) -> None:
    numbers = [(holder, key) for holder, key in _spots(data) if type(holder[key]) in {int, float}]
    if numbers:
        holder, key = draw(st.sampled_from(numbers))
        holder[key] = draw(st.sampled_from([1, 2, 3, 4, 9, 0.5, 1.0, 2.0]))


def _vary_off(draw: st.DrawFn, data: Any, phase: Any) -> None:
    optional = [
        "signals",
        "control",
        "evaluators",
        "exporters",
        "trackers",
        "reporter",
        "filters",
        "seeds",
    ]
    data[draw(st.sampled_from(optional))] = draw(st.sampled_from([False, False, None, {}]))


def _vary_control(draw: st.DrawFn, data: Any, phase: Any) -> None:
    losses = phase.get("losses")
    plain = {"ce": copy.deepcopy(losses.get("count", {})) if isinstance(losses, dict) else {}}
    matches: list[Any] = [True, False, "tokens", ["tokens"], ["time", "tokens"]]
    settings: list[Any] = [{"match": "tokens", "losses": plain}, {"losses": plain}, {"trainer": {"factor": 3.0}}]
    data["control"] = draw(st.sampled_from([*matches, *settings]))


def _vary_weights(draw: st.DrawFn, data: Any, phase: Any) -> None:
    losses = phase.get("losses")
    for loss in losses.values() if isinstance(losses, dict) else ():
        if isinstance(loss, dict):
            start, end = draw(st.sampled_from([(0, 1), (1, 0.0), (0.5, 0.5), (0, 0)]))
            loss["weight"] = {"start": start, "end": end, "shape": draw(st.sampled_from(["linear", "cosine", "step"]))}


def _vary_sources(draw: st.DrawFn, data: Any, phase: Any) -> None:
    """A phase may have sources and a trainer of its own."""
    sources = {*SOURCE_KEYS, "trainer", *(COLLECTIONS[key] for key in SOURCE_KEYS if key in COLLECTIONS)}
    keys = [key for key in data if key in sources]
    for key in draw(st.lists(st.sampled_from(keys), max_size=3, unique=True)) if keys else ():
        phase[key] = copy.deepcopy(data[key]) if draw(st.booleans()) else data.pop(key)


def _vary_label(draw: st.DrawFn, data: Any, phase: Any) -> None:
    for holder in [holder[key] for holder, key in _spots(data) if key in COLLECTIONS and isinstance(holder[key], dict)]:
        if holder:
            name = draw(st.sampled_from(sorted(holder, key=str)))
            holder[draw(st.sampled_from(["a", "b-1", "nats", "train", "student", "0"]))] = copy.deepcopy(holder[name])


def _vary_phases(draw: st.DrawFn, data: Any, phase: Any) -> None:
    names = draw(st.sampled_from([["one", "two"], ["train"], ["steps", "b"], ["a", "a-b", "c"], []]))
    data["train"] = {name: copy.deepcopy(phase) for name in names}


def _vary_name(draw: st.DrawFn, data: Any, phase: Any) -> None:
    data["name"] = draw(st.sampled_from(["a", "A-1_b", "x" * 64, "con", "0", "-", "store", "control", "student"]))
    data["seeds"] = draw(st.sampled_from([[0], [5], [1, 2], [2**31 - 1], [0, 1, 2]]))


def _written(draw: st.DrawFn, data: Any) -> str:
    if draw(st.booleans()):
        return str(yaml.safe_dump(data, allow_unicode=True, sort_keys=False))
    return json.dumps(data, indent=draw(st.sampled_from([None, 1])))


def _garbled(draw: st.DrawFn, text: str) -> str:
    """Change a text in one place."""
    place = draw(st.integers(0, len(text)))
    lines = text.splitlines(keepends=True) or [""]
    number = draw(st.integers(0, len(lines) - 1))
    action = draw(st.sampled_from(["insert", "insert", "cut", "twice", "indent", "move", "random"]))
    if action == "insert":
        return text[:place] + draw(st.sampled_from(TEXTS)) + text[place:]
    if action == "cut":
        return text[:place] + text[place + draw(st.sampled_from([1, 2, 10, 10_000])) :]
    if action == "twice":
        lines.insert(number, lines[number])
    elif action == "indent":
        lines[number] = draw(st.sampled_from([" ", "  ", "\t", "    "])) + lines[number].lstrip(" ")
    elif action == "move":
        lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(number))
    else:
        return text[:place] + draw(st.text(max_size=20)) + text[place:]
    return "".join(lines)


@st.composite
def _settings(draw: st.DrawFn, data: Any, *, text: bool) -> dict[str, Any]:
    """`--set` values, for keys that there are and for others."""
    found: dict[str, Any] = {}
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 3]))):
        parts = [draw(st.sampled_from(WORDS)) for _ in range(draw(st.integers(1, 3)))]
        here = data
        if draw(st.booleans()):
            parts = []
            while isinstance(here, MutableMapping) and here and (not parts or draw(st.booleans())):
                parts.append(str(draw(st.sampled_from(sorted(here, key=str)))))
                here = here.get(parts[-1])
        value = draw(junk())
        key = ".".join(parts) if draw(st.integers(0, 20)) else draw(st.text(max_size=8))
        found[key] = (
            value if not text else draw(st.sampled_from([str(value), json.dumps(value), "[", "{a: 1}", "'", " 3 "]))
        )
    return found


@st.composite
def mutants(draw: st.DrawFn, bases: tuple[Any, ...]) -> Mutant:
    """A mutant of one of the recipes in `bases`, which are plain data."""
    data = copy.deepcopy(draw(st.sampled_from(bases)))
    mild = draw(st.booleans())
    for _ in range(draw(st.sampled_from([0, 1, 2, 3])) if mild else 0):
        _vary(draw, data)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1])) if mild else draw(st.sampled_from([0, 1, 1, 2, 3, 6]))):
        _change(draw, data, bases)
    settings = draw(_settings(data, text=True)) if not mild or draw(st.integers(0, 3)) == 0 else {}
    if draw(st.integers(0, 3)) == 0:
        return Mutant(data=data, settings=draw(_settings(data, text=False)) if settings else {})
    files = {}
    if isinstance(data, dict) and draw(st.integers(0, 3)) == 0:
        above = {key: data.pop(key) for key in list(data) if draw(st.booleans())}
        for _ in range(draw(st.integers(0, 2))):
            _change(draw, above, bases)
        target = draw(
            st.sampled_from(["base.yaml", "base.yaml", "base.yaml", "recipe.yaml", "nothing.yaml", ".", "", "\0"])
        )
        files["base.yaml"] = _written(draw, {**data, **draw(st.sampled_from([{}, {}, {"extends": "recipe.yaml"}]))})
        data = {"extends": target, **above}
    files["recipe.yaml"] = _written(draw, data)
    for _ in range(0 if mild else draw(st.sampled_from([0, 1, 1, 2]))):
        files["recipe.yaml"] = _garbled(draw, files["recipe.yaml"])
    return Mutant(files=files, settings=settings)
