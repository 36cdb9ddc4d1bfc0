"""Recall of the screen `decontamination` on planted, renamed and bare copies of benchmarks, and false rejections.

    python benchmarks/contamination_recall.py --data ../shared/data

A copy stands in the middle of a file of the standard library. `renamed` has other names for all functions, parameters and
variables of the code, also where its documentation has them as words; `bare` has only the code, without documentation and
comments; `bare, renamed` both. HumanEval-X is one benchmark per language. The standard library must not be rejected.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sysconfig
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import kdtool
from kdtool_overlap._benchmarks import Benchmark
from kdtool_overlap._words import words_of

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
COMMENTS = {
    "python": r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'|#[^\n]*',
    "": r"/\*[\s\S]*?\*/|//[^\n]*",
}


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
    for language, short in {"javascript": "js", "java": "java", "cpp": "cpp", "go": "go", "rust": "rust"}.items():
        file = data / "humaneval-x" / f"humaneval_{short}.jsonl.gz"
        if file.exists():
            yield (
                f"humaneval-x {language}",
                language,
                [(p["task_id"], p["prompt"], p["canonical_solution"]) for p in lines(file)],
            )


def lines(file: Path) -> list[dict[str, str]]:
    """Return the records of a JSON Lines file, plain or gzip."""
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return [json.loads(line) for line in content.splitlines() if line.strip()]


def renamed(text: str, language: str) -> str:
    """Give other names to the code's identifiers, wherever they occur as words."""
    import tree_sitter

    module = import_module(f"tree_sitter_{language}") if language != "python" else None
    if module is None:
        import ast

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
    return re.sub(COMMENTS.get(language, COMMENTS[""]), "", text)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--n", type=int, default=10)
    options = parser.parse_args()
    folder = Path(sysconfig.get_path("stdlib"))
    files = [path for path in sorted(folder.rglob("*.py")) if "site-packages" not in path.parts]
    library = [words_of(path.read_text("utf-8", errors="replace")) for path in files]
    around = library[0][:400]
    ways: dict[str, Callable[[str, str], str]] = {
        "planted": lambda text, _: text,
        "renamed": renamed,
        "bare": bare,
        "bare, renamed": lambda text, language: bare(renamed(text, language), language),
    }
    print(f"n {options.n}; {len(library):,} files of the standard library")
    every: set[int] = set()
    for name, language, found in problems(options.data):
        examples = [kdtool.Example(key, kdtool.Completion(prompt, solution)) for key, prompt, solution in found]
        benchmark = Benchmark(name, examples, options.n)
        recalls = []
        for what, way in ways.items():
            copies = [(key, words_of(way(prompt + solution, language))) for key, prompt, solution in found]
            hits = sum(bool(benchmark.found_in([*around, *words, *around])) for _, words in copies)
            recalls.append(f"{what} {hits / len(copies):.3f}")
        wrong = {number for number, words in enumerate(library) if benchmark.found_in(words)}
        every |= wrong
        print(
            f"{name:<24} {len(found)} problems: {'; '.join(recalls)}; false {len(wrong)} ({len(wrong) / len(library):.2%})"
        )
    print(f"false rejections by any: {len(every)} ({len(every) / len(library):.2%})")


if __name__ == "__main__":
    main()
