"""Count turns of phrase that read as if translated: in documents, docstrings, messages and names of functions.

Prints the places, and exits with 1 if there are any.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("*.md", "changelog.d/*.md", "docs/**/*.md", "*/README.md", "*/*/README.md")
SOURCES = ("*/src/**/*.py", "*/*/src/**/*.py")
GENERATED = ROOT / "docs" / "packages"  # from the packages' READMEs

COMPARATIVES = "longer|shorter|more|less|fewer|better|worse|larger|smaller|faster|slower|higher|lower|wider|narrower"
PATTERNS = {
    "opens with a free relative": r"^(What|Who|Whoever|Which|Whether|How(?!.to\b| it works))\b(?!.*\?$)",
    "'is no' for 'is not'": r"(?<![Tt]here )\b(is|are|was|were) (none\b|nothing (that|to)\b"
    rf"|no\b(?! ({COMPARATIVES})\b))|\bha(s|ve) no [\w`-]+( [\w`-]+)? that\b",
    "a component that speaks": r"\b(is|are|was|were|be|been|not) told\b|\b(says|tells|speaks|hears)\b"
    r"|\b\w+s (say|tell|speak|hear)\b",
    "stacked relatives": r"\bfor who\b|(?i:\bwhoever\b)|\bwhose\b.*\bwhose\b",
    "chain of semicolons": r"^[^{}]*;[^{}]*;[^{}]*;[^{}]*$",
    "roundabout term": r"\btakes? the place of\b|\bof one's own\b|\bown text\b|\btext of the student's own\b",
    "roundabout verb": r"\b(is|are) to be\b|\bmust not be\b.*\bbut\b",
    "a number named by its size": r"\bso (many|long|few)\b(?!.* (as|that)\b)",
    "stands or lies": r"\b(stands?|lies?|stood) (in|beside|behind|before|there)\b",
    "'of its own'": r"\bof (its|their|your|one's|\w+'s) own\b",
    "old adverb or verb": r"\b(anew|(go|goes|going) on|be had|(is|are) said|at work|whatever|learnt)\b",
    "'behind' for 'after'": r"\bbehind\b(?! (a|the) (\w+ )?(proxy|cursor|flag|queue|name))",
    "'beside' for 'with'": r"\bbeside\b",
    "'what' behind a preposition": r"\b(of|with|from|by) what\b",
    "opens with 'of'": r"^Of (the|an?|text|these|those|all)\b",
    "'but' for 'except'": r"\b(but for|all but|nothing but|none but)\b",
    "'alone' for 'only'": r"(?<!let )(?<!stand-)\balone\b",
    "'a' for 'per'": r"\b(bytes?|tokens?|bits?|ms|[GMk]i?B|times|samples|rows|steps|dollars|requests|calls|once|one|\d) an? "
    r"(token|step|row|second|day|line|document|minute|hour|position|word|file|item|task|call|request|process|rank)\b",
    "two words for 'dataset'": r"\b[Dd]ata sets?\b",
    "a verb that is wrong after 1": r"№ (?!of )([\w'-]+ ){1,5}(are|were|have|need|lack|differ|share)\b",
    "merge marker": r"<{7} \w",
}
# Sent to models as they are: other words would change answers.
PROMPTS = {"Write Python code that does what this says."}
PARTICIPLE = "participle as a function name"
VAGUE = "vague name in a function of more than ten lines"
VAGUE_NAMES = {"one", "own", "found", "theirs", "place", "turn", "more"}
IRREGULAR = "begun|built|chosen|drawn|found|given|held|kept|known|left|lost|made|met|said|seen|shown|taken|told|written"
# A participle, alone or behind one word, unless that word makes it a predicate or an imperative.
NAME = re.compile(rf"_*(kdtool_)?([a-z]+_)?({IRREGULAR}|(?!need|feed|seed|speed|embed|proceed|exceed)[a-z]+ed)")
NOT_A_NOUN = re.compile(
    r"_*(is|has|was|are|if|not|as|on|add|discard|find|get|load|make|open|read|refuse|save|skip|test|write)_"
)
OF_ASYNCIO = {"connection_made", "connection_lost", "data_received", "eof_received"}


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines and texts of paragraphs and table cells of a Markdown page; code becomes a word."""
    for pattern in (r"(?ms)^( *)(`{3,}).*?^\1\2$", r"(?s)<!--.*?-->", r"(?s)(`+).+?\1"):
        text = re.sub(pattern, lambda found: "code" + "\n" * found[0].count("\n"), text)
    block: list[str] = []
    start = 1
    for number, line in enumerate([*text.splitlines(), ""], 1):
        begins = re.match(r"\s*([-*#>]|\d+\.)\s", line) or line.startswith("|") or not line.strip()
        if begins and block:
            yield start, " ".join(block)
            block = []
        if line.startswith("|"):
            yield from ((number, cell.strip()) for cell in line.strip("|").split("|"))
        elif line.strip() and not line.startswith("    "):
            start = start if block else number
            block.append(re.sub(r"^\s*([-*#>]+|\d+\.)\s+", "", line).strip("* "))


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield lines and texts of docstrings and string literals of three words or more."""
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    expressions = [node for node in ast.walk(tree) if isinstance(node, ast.expr)]
    for node in expressions:
        if isinstance(node, ast.JoinedStr):
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else placeholder(part) for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            text = node.value
        else:
            continue
        if len(text.split()) >= 3:
            for paragraph in filter(str.strip, re.split(r"\n\s*\n|\n\s*- ", text)):
                yield node.lineno + text.partition(paragraph)[0].count("\n"), " ".join(paragraph.split())


def placeholder(part: ast.expr) -> str:
    """Return № for a number in an f-string, which is counted or has a comma, and X for anything else."""
    counted = re.match(r"f'\{(?:(?:len|sum|(?:kdtool\.)?(count_of))\(.*|.*:,)\}'", ast.unparse(ast.JoinedStr([part])))
    return "X" if not counted else "№ thing" if counted[1] else "№"


def find(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield pattern, place and excerpt for every hit in a file."""
    place = path.relative_to(ROOT).as_posix()
    tree = None if path.suffix == ".md" else ast.parse(path.read_text(encoding="utf-8"))
    for line, text in paragraphs(path.read_text(encoding="utf-8")) if tree is None else strings(tree):
        for sentence in re.split(r"(?<=[.!?:])\s+(?=[A-Z`\"*\[(])", text):
            if sentence in PROMPTS:
                continue
            for name, pattern in PATTERNS.items():
                for found in re.finditer(pattern, sentence):
                    yield name, f"{place}:{line}", sentence[max(0, found.start() - 40) : found.end() + 40]
    for node in ast.walk(tree) if tree else ():
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if NAME.fullmatch(node.name) and not NOT_A_NOUN.match(node.name) and node.name not in OF_ASYNCIO:
            yield PARTICIPLE, f"{place}:{node.lineno}", node.name
        yield from ((VAGUE, f"{place}:{node.lineno}", f"{name} in {node.name}") for name in vague_names(node))


def vague_names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return arguments and variables of a long function whose names do not say what they are."""
    if (function.end_lineno or 0) - function.lineno < 10:
        return []
    stored = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return sorted(
        (stored | {argument.arg for argument in [*function.args.args, *function.args.kwonlyargs]}) & VAGUE_NAMES
    )


def main() -> int:
    """Print places and counts, in the folders given as arguments or all, and return the exit code."""
    paths = sorted(
        {path for glob in (*DOCUMENTS, *SOURCES) for path in ROOT.glob(glob) if GENERATED not in path.parents}
    )
    folders = [Path(name).resolve() for name in sys.argv[1:]]
    paths = [path for path in paths if not folders or any(path.is_relative_to(folder) for folder in folders)]
    hits = [hit for path in paths for hit in find(path)]
    for name, place, excerpt in hits:
        print(f"{place}: {name}: {excerpt}")
    counts = Counter(name for name, _, _ in hits)
    print(f"{len(paths)} files: " + ", ".join(f"{name}: {counts[name]}" for name in (*PATTERNS, PARTICIPLE, VAGUE)))
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main())
