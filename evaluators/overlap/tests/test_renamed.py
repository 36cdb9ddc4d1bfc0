"""Copies of code under other names, in another format and without comments are found; other code is not."""

from __future__ import annotations

import ast
import os
import re
import runpy
import sysconfig
from hashlib import sha256
from pathlib import Path

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_evaluator_overlap._benchmarks import Benchmarks

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "benchmarks" / "contamination_recall.py"
DATA = Path(os.environ.get("KDTOOL_SHARED_DATA") or ROOT.parent / "shared" / "data")
COMMENT = re.compile(r'""".*?"""|/\*.*?\*/|//[^\n]*|# [^\n]*', re.DOTALL)

SAMPLES = {
    "prices": (
        'def total_of(prices, tax):\n    """Return the total of all prices that are above zero, with tax."""\n',
        "    total = 0  # in cents\n    for price in prices:\n        if price > 0:\n"
        "            total += price * (1 + tax)\n    return round(total, 2)\n",
    ),
    "pairs": ("# Swap both.\ndef swap(pair):\n", "    return (pair[1], pair[0])\n"),
    "longest": (
        "// The longest of the words.\nconst longest = (words) => {\n",
        "  let best = '';\n  for (const word of words) {\n    if (word.length > best.length) best = word; // first of all\n"
        "  }\n  return best;\n}\n",
    ),
    "evens": (
        "/* Even numbers alone. */\nfn evens(numbers: Vec<i32>) -> Vec<i32> {\n",
        "    let mut kept = vec![];\n    for number in numbers {\n        if number % 2 == 0 { kept.push(number); }\n    }\n"
        "    kept\n}\n",
    ),
}
NAMES = {
    "prices": ("total_of", "prices", "tax", "total", "price"),
    "pairs": ("swap", "pair"),
    "longest": ("longest", "words", "best", "word"),
    "evens": ("evens", "numbers", "kept", "number"),
}
TAKEN = {word for parts in SAMPLES.values() for word in re.findall(r"\w+", "".join(parts))}
OTHER = (
    "import os\n\n\ndef listed(folder):\n    for name in sorted(os.listdir(folder)):\n        print(name, len(name))\n"
)
BENCHMARKS = Benchmarks(
    {"own": [kdtool.Example(name, kdtool.Completion(*parts)) for name, parts in SAMPLES.items()]}, 100
)  # so long are no n-grams of words


def found(*texts: str) -> list[list[str]]:
    return [[match.problem for match in matches] for matches in BENCHMARKS.found_in(texts)]


def planted(code: str) -> str:
    return f"{OTHER}\n\n{code}\n\n{OTHER}"


@st.composite
def copies(draw: st.DrawFn) -> tuple[str, str]:
    """Draw a sample and a copy of it, with other names, perhaps without comments, perhaps in another format."""
    name = draw(st.sampled_from([*SAMPLES]))
    fresh = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}[0-9]", fullmatch=True).filter(lambda word: word not in TAKEN)
    new = draw(st.lists(fresh, min_size=len(NAMES[name]), max_size=len(NAMES[name]), unique=True))
    names = dict(zip(NAMES[name], new, strict=True))
    code = re.sub(r"\b[A-Za-z_]\w*\b", lambda word: names.get(word[0], word[0]), "".join(SAMPLES[name]))
    if draw(st.booleans()):
        code = COMMENT.sub("", code)
    if draw(st.booleans()):
        is_python = "def " in code
        code = ast.unparse(ast.parse(code)) if is_python else re.sub(r"(?<=[;{}])\s+", " ", code)
    return name, code


@given(copies())
def test_any_names_leave_a_copy_found(copy: tuple[str, str]) -> None:
    name, code = copy
    assert found(code, planted(code)) == [[name], [name]]


@given(st.lists(st.sampled_from([OTHER, *map("".join, SAMPLES.values())]), max_size=6))
def test_texts_are_judged_by_themselves(texts: list[str]) -> None:
    assert found(*texts) == [found(text)[0] for text in texts]


@pytest.mark.parametrize(
    "text",
    [
        OTHER,
        "def swap(pair):\n    return (pair[0], pair[1])\n",  # the same tokens in another order
        "def swap(pair):\n    return (pair[1], pair[0]) + rest\n",  # goes on
        f"def swap(pair):\n    return (pair[1], pair[0])\n{OTHER * 200}",  # so little code in so long a text is chance
        "def total_of(prices, tax):\n    return sum(prices) * (1 + tax)\n",
        "The total of all prices that are above zero, with tax, is what this returns, and nothing else is done here.",
    ],
)
def test_other_code_and_prose_are_no_copies(text: str) -> None:
    assert found(text) == [[]]


def test_prose_is_not_looked_for_by_its_shape() -> None:
    question = kdtool.Completion(
        "What is the name of the river that flows through the city of Cologne?", "It is the Rhine."
    )
    benchmarks = Benchmarks({"asked": [kdtool.Example("river", question)]}, 100)
    other = "Who was the king in the land that lies behind the hills of Silver? He was the last."
    assert benchmarks.found_in([other]) == [[]]


def script() -> dict[str, object]:
    if not SCRIPT.is_file():
        pytest.skip("the benchmark's script is not here")
    if not (DATA / "mbpp").is_dir():
        pytest.skip(f"{DATA / 'mbpp'} is not here; KDTOOL_SHARED_DATA says where shared data are")
    return runpy.run_path(str(SCRIPT))


@pytest.mark.slow
def test_copies_of_published_benchmarks_are_found() -> None:
    own = script()
    ways = {"renamed": 1.0, "code, renamed, reformatted": 0.99}
    for name, language, problems in own["problems"](DATA):  # type: ignore[operator]
        examples = [kdtool.Example(key, kdtool.Completion(prompt, solution)) for key, prompt, solution in problems]
        benchmarks = Benchmarks({name: examples}, 10)
        for way, least in ways.items():
            write = own["WAYS"][way]  # type: ignore[index]
            texts = [planted(write(prompt, solution, language)) for _, prompt, solution in problems]
            each = zip(examples, benchmarks.found_in(texts), strict=True)
            hits = sum(example.id in {match.problem for match in matches} for example, matches in each)
            assert hits >= least * len(problems), f"{name}, {way}: {hits} of {len(problems)}"


@pytest.mark.slow
def test_the_standard_library_is_no_copy_of_published_benchmarks() -> None:
    own = script()
    every = {
        name: [kdtool.Example(key, kdtool.Completion(prompt, solution)) for key, prompt, solution in problems]
        for name, _, problems in own["problems"](DATA)  # type: ignore[operator]
    }
    benchmarks = Benchmarks(every, 10)
    folder = Path(sysconfig.get_path("stdlib"))
    files = [path for path in sorted(folder.rglob("*.py")) if "site-packages" not in path.parts]
    some = [path for path in files if sha256(path.name.encode()).digest()[0] % 4 == 1]
    texts = [path.read_text("utf-8", errors="replace") for path in some]
    wrong = [path.name for path, matches in zip(some, benchmarks.found_in(texts), strict=True) if matches]
    assert len(wrong) <= max(1, 0.001 * len(some)), wrong
