"""Recall of the filter `decontamination` on copies of benchmarks, and its false rejections, with 95 % intervals.

    python benchmarks/contamination_recall.py --data ../shared/data --code /usr/include/c++ src.zip

Each copy stands in the middle of another file. `renamed` has other names for functions, parameters, variables, and in
languages other than Python for most other identifiers, also where the documentation has them as words. `code` has no
documentation and no comments, `reformatted` other white space and in Python what `ast.unparse` writes; `solution` is the
reference solution without the prompt. HumanEval-X is one benchmark per language. Nothing of the standard library may be
rejected. The half of its files whose paths' hashes are even was looked at to choose the rules.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import re
import sysconfig
import zipfile
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import kdtool
from kdtool_evaluator_overlap._benchmarks import Benchmarks

KEPT = {
    "std",
    "cout",
    "endl",
    "string",
    "vector",
    "map",
    "set",
    "System",
    "Math",
    "console",
    "len",
    "range",
    "print",
    "fmt",
}
PYTHON = re.compile(r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|#[^\n]*')
OTHER = re.compile(r"/\*[\s\S]*?\*/|//[^\n]*")
LANGUAGES = {"python": "python", "javascript": "js", "java": "java", "cpp": "cpp", "go": "go", "rust": "rust"}


def problems(data: Path) -> Iterator[tuple[str, str, list[tuple[str, str, str]]]]:
    """Yield name, language and (id, prompt, solution) of each benchmark that is there."""
    human = data / "humaneval" / "HumanEval.jsonl.gz"
    if human.exists():
        yield "humaneval", "python", [(p["task_id"], p["prompt"], p["canonical_solution"]) for p in lines(human)]
    mbpp = data / "mbpp" / "mbpp.jsonl"
    if mbpp.exists():
        tests = [p for p in lines(mbpp) if 11 <= p["task_id"] <= 510]
        prompts = [f'"""\n{p["text"]}\n{p["test_list"][0]}\n"""\n' for p in tests]
        yield (
            "mbpp",
            "python",
            [(f"mbpp/{p['task_id']}", prompt, p["code"]) for p, prompt in zip(tests, prompts, strict=True)],
        )
    for language, short in {
        "python": "python",
        "javascript": "js",
        "java": "java",
        "cpp": "cpp",
        "go": "go",
        "rust": "rust",
    }.items():
        file = data / "humaneval-x" / f"humaneval_{short}.jsonl.gz"
        if file.exists():
            yield f"humaneval-x {language}", language, [_of_x(problem, language) for problem in lines(file)]


def _of_x(problem: dict[str, Any], language: str) -> tuple[str, str, str]:
    """Return id, prompt and solution; Rust's signature is in the declaration, with crates that no solution needs."""
    crates = r"(?m)^use (?:rand|regex|md5)\b.*\n"
    signature = re.sub(crates, "", problem["declaration"]).lstrip() if language == "rust" else ""
    return problem["task_id"], signature + problem["prompt"], problem["canonical_solution"]


def lines(file: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON Lines file, plain or gzip."""
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return [json.loads(line) for line in content.splitlines() if line.strip()]


def renamed(text: str, language: str) -> str:
    """Give other names to the code's identifiers, wherever they occur as words."""
    import tree_sitter

    module = import_module(f"tree_sitter_{language}") if language != "python" else None
    if module is None:
        tree = ast.parse(text)
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    else:
        parser = tree_sitter.Parser(tree_sitter.Language(module.language()))
        waiting, names = [parser.parse(text.encode()).root_node], set()
        while waiting:
            node = waiting.pop()
            if node.type == "identifier" and node.text:
                names.add(node.text.decode())
            waiting += node.children
    new = {name: f"renamed{number}" for number, name in enumerate(sorted(names - KEPT))}
    return re.sub(r"\b[A-Za-z_]\w*\b", lambda found: new.get(found[0], found[0]), text)


def bare(text: str, language: str) -> str:
    """Leave out documentation and comments."""
    return PYTHON.sub(_keep_strings, text) if language == "python" else OTHER.sub("", text)


def _keep_strings(found: re.Match[str]) -> str:
    """Keep strings that are no documentation."""
    begins = not found.string[: found.start()].rpartition("\n")[2].strip()
    return "" if found[0][0] == "#" or (begins and found[0][:3] in ('"""', "'''")) else found[0]


def reformatted(text: str, language: str) -> str:
    """Write code in another format."""
    return ast.unparse(ast.parse(text)) if language == "python" else re.sub(r"\s+", " ", text).strip()


WAYS: dict[str, Callable[[str, str, str], str]] = {
    "planted": lambda prompt, solution, _: prompt + solution,
    "renamed": lambda prompt, solution, language: renamed(prompt + solution, language),
    "code": lambda prompt, solution, language: bare(prompt + solution, language),
    "code, renamed": lambda prompt, solution, language: bare(renamed(prompt + solution, language), language),
    "code, renamed, reformatted": lambda prompt, solution, language: reformatted(
        bare(renamed(prompt + solution, language), language), language
    ),
    "solution, renamed": lambda prompt, solution, language: _end_of(renamed(prompt + solution, language), solution),
}


def _end_of(text: str, solution: str) -> str:
    """Return as many lines from the end as the solution has."""
    return "\n".join(text.split("\n")[-len(solution.split("\n")) :])


def interval(hits: int, n: int) -> str:
    """Return a share and its 95 % interval (Wilson)."""
    share, z = hits / n, 1.96
    middle, width = share + z * z / (2 * n), z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    low, high = ((middle + sign * width) / (1 + z * z / n) for sign in (-1, 1))
    return f"{share:.4f} [{max(low, 0):.4f}, {min(high, 1):.4f}]"


def code_in(place: Path) -> Iterator[tuple[str, str]]:
    """Yield path and text of the code in a folder or an archive."""
    if place.is_dir():
        for path in sorted(place.rglob("*")):
            if path.is_file() and path.suffix in ("", ".py", ".java", ".js", ".go", ".rs", ".h", ".cpp", ".hpp"):
                yield str(path.relative_to(place)), path.read_text("utf-8", errors="replace")
    else:
        with zipfile.ZipFile(place) as archive:
            for name in archive.namelist():
                yield name, archive.read(name).decode("utf-8", errors="replace")


def report_rejected(what: str, benchmarks: Benchmarks, files: Iterable[tuple[str, str]]) -> None:
    """Print how many files are rejected, which, and for which problem."""
    number, by = 0, dict[str, list[str]]()
    for name, text in files:
        number += 1
        (found,) = benchmarks.found_in([text])
        if found:
            by[name] = [f"{one.problem} {'renamed' if one.is_renamed else 'words'}: {one.words}" for one in found]
    print(f"false in {what}: {len(by)} of {number:,} files, {interval(len(by), max(number, 1))}", flush=True)
    for name, shared in by.items():
        print(f"    {name}: {shared}")


def main() -> None:
    """Measure, and print a line for each benchmark and way of copying, and each set of other code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--code", type=Path, nargs="*", default=[], help="folders or archives of other code")
    options = parser.parse_args()
    folder = Path(sysconfig.get_path("stdlib"))
    library = [(name, text) for name, text in code_in(folder) if name.endswith(".py") and "site-packages" not in name]
    around = dict(library)["abc.py"][:4000]
    every: dict[str, list[kdtool.Example]] = {}
    for name, language, found in problems(options.data):
        every[name] = [kdtool.Example(key, kdtool.Completion(prompt, solution)) for key, prompt, solution in found]
        benchmarks = Benchmarks({name: every[name]}, options.n)
        for what, way in WAYS.items():
            copies = [f"{around}\n\n{way(prompt, solution, language)}\n\n{around}" for _, prompt, solution in found]
            matches = zip(found, benchmarks.found_in(copies), strict=True)
            missed = [one[0] for one, those in matches if one[0] not in {match.problem for match in those}]
            share = interval(len(found) - len(missed), len(found))
            print(
                f"{name:<24} {what:<28} {len(found) - len(missed)} of {len(found)}, {share} missed: {missed[:9]}",
                flush=True,
            )
    benchmarks = Benchmarks(every, options.n)
    for half, what in enumerate(("the standard library, looked at", "the standard library, held out")):
        own = [(name, text) for name, text in library if sha256(name.encode()).digest()[0] % 2 == half]
        report_rejected(what, benchmarks, own)
    for place in options.code:
        report_rejected(str(place), benchmarks, code_in(place))


if __name__ == "__main__":
    main()
