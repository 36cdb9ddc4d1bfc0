"""Figures of the README: of 500 valid programs in each language none is rejected, of 500 broken ones at least 99 % are."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import runpy
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdtool_data.syntax import LANGUAGES, parses

DATA = Path(os.environ.get("KDTOOL_SHARED_DATA") or Path(__file__).resolve().parents[5] / "shared" / "data")
OTHERS = [language for language in LANGUAGES if language != "python"]
COUNT = 500


programs: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("programs.py"))))


@pytest.mark.parametrize("language", OTHERS)
def test_programs_of_a_grammar(language: str) -> None:
    broken, missed = 0, []
    for seed in range(COUNT):
        tokens = programs.program(language, seed)
        assert parses(programs.write(tokens), language), programs.write(tokens)
        for how, program in programs.broken(tokens, seed):
            broken += 1
            missed += [(how, program)] if parses(program, language) else []
    assert broken >= 4 * COUNT
    assert len(missed) <= 0.01 * broken, missed[0]


def library() -> Iterator[str]:
    folder = Path(sysconfig.get_path("stdlib"))
    for path in sorted(folder.rglob("*.py")):
        if not {"site-packages", "test", "tests", "lib2to3"} & set(path.parts) and path.stat().st_size < 40_000:
            yield path.read_text(encoding="utf-8", errors="strict")


def test_files_of_the_standard_library() -> None:
    found = [text for text, _ in zip(library(), range(COUNT), strict=False)]
    assert len(found) > 300
    assert all(parses(text, "python") for text in found)
    broken = [without_a_bracket(text, seed) for seed, text in enumerate(found) if "(" in text]
    missed = sum(parses(text, "python") for text in broken if text)
    assert missed <= 0.01 * len(broken)


def without_a_bracket(text: str, seed: int) -> str:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    places = [token.start for token in tokens if token.type == tokenize.OP and token.string in "()[]{}"]
    if not places:
        return ""
    row, column = random.Random(seed).choice(places)
    lines = text.splitlines(keepends=True)
    lines[row - 1] = lines[row - 1][:column] + lines[row - 1][column + 1 :]
    return "".join(lines)


@pytest.mark.skipif(not (DATA / "humaneval-x").is_dir(), reason="HumanEval-X is not here")
@pytest.mark.parametrize("language", LANGUAGES)
def test_published_solutions(language: str) -> None:
    file = DATA / "humaneval-x" / f"humaneval_{ {'javascript': 'js'}.get(language, language) }.jsonl.gz"
    problems = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    assert len(problems) == 164
    for problem in problems:
        before = problem["declaration" if language == "rust" else "prompt"]  # Rust's prompt has the declaration twice
        assert parses(before + problem["canonical_solution"], language), problem["task_id"]
        last = (before + problem["canonical_solution"]).rstrip()
        if language != "python":
            assert not parses(last[:-1], language), problem["task_id"]
