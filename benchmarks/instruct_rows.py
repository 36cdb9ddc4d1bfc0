"""Time and peak memory of a generation: rows from a teacher, through the filters, to Parquet.

    python benchmarks/instruct_rows.py --rows 50000 --claude    # the teacher `claude`, from a server on this machine
    python benchmarks/instruct_rows.py --rows 50000             # a teacher in this process, which answers at once

One of five answers fails (refused, cut off, a part missing, code that does not parse). All are stored as in a run. Six
languages × three difficulties × eight tasks.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path

import kdtool
from kdtool._run.answers import cache_answers
from kdtool._run.stages.text import write_texts
from kdtool_data.command.formats import export
from kdtool_data.command.lookup import FoundText
from kdtool_data.command.progress import status_lines
from kdtool_data.duplicates import DuplicatesFilter
from kdtool_data.instruct import Instruct
from kdtool_data.syntax import SyntaxFilter
from kdtool_essentials.length import LengthFilter
from kdtool_essentials.secrets import SecretsFilter
from kdtool_teacher_claude import Claude
from kdtool_testing import make_run
from kdtool_testing.servers.claude import serve
from kdtool_testing.servers.claude_api import KEY, Faults
from kdtool_testing.servers.claude_replies import MODEL

CODE = {
    "python": "def {0}({1}):\n    return {1} + {2}\n",
    "javascript": "function {0}({1}) {{\n  return {1} + {2};\n}}\n",
    "java": "class A {{\n  static int {0}(int {1}) {{\n    return {1} + {2};\n  }}\n}}\n",
    "cpp": "int {0}(int {1}) {{\n  return {1} + {2};\n}}\n",
    "go": "package a\n\nfunc {0}({1} int) int {{\n\treturn {1} + {2}\n}}\n",
    "rust": "fn {0}({1}: i64) -> i64 {{\n    {1} + {2}\n}}\n",
}


def write_text(prompt: str) -> str:
    """Return an answer to a prompt; of twenty, one has code that does not parse, and one lacks a part."""
    drawn = random.Random(prompt)
    language = prompt.partition("begin with ```")[2].partition(".")[0]
    words = [f"w{drawn.randrange(10**6)}" for _ in range(60)]
    code = CODE[language].format(*words[:2], drawn.randrange(10**6))
    failing = drawn.randrange(20)
    code = code.replace(")", "", 1) if failing == 0 else code
    response = "</response>\n" if failing != 1 else ""
    return (
        f"<instruction>{' '.join(words[:40])}</instruction>\n<response>\n```{language}\n{code}```\n"
        f"{' '.join(words[40:])}\n{response}"
    )


class Writer(kdtool.Teacher):
    """Answers at once; of twenty answers, one is refused and one is cut off."""

    offers = frozenset({"text"})

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Yield an answer to each request."""
        for request in requests:
            text = write_text(repr(request.turns))
            failing = random.Random(text).randrange(20)
            finish = "refused" if failing == 0 else "length" if failing == 1 else "stop"
            yield kdtool.TextAnswer(request.id, text if failing else "", finish, 600, 200, 10**9)


def serve_here() -> None:
    """Serve the Messages API until standard input is closed, with answers that fail like those of `Writer`."""
    with serve(Faults(refusal=0.05, truncated=0.05)) as server:
        server.write = lambda body: write_text(f"{body.get('system')}{body['messages']}")
        print(server.url, flush=True)
        sys.stdin.read()


@contextmanager
def open_claude(folder: Path) -> Iterator[Claude]:
    """A teacher that asks a server in a process of its own."""
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url, file = process.stdout.readline().strip(), folder / "answers.sqlite"
        os.environ["ANTHROPIC_API_KEY"] = KEY
        teacher = Claude(Claude.Config(model=MODEL, budget_usd=Decimal(10_000), url=url, ledger=file, concurrency=64))
        try:
            yield teacher
        finally:
            teacher.kdtool_close()
            process.communicate()


def main() -> None:
    """Generate, export, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--claude", action="store_true", help="ask the teacher claude, over HTTP")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_here()
        return
    filters: dict[str, kdtool.Filter] = {
        "filters.length": LengthFilter(LengthFilter.Config()),
        "filters.syntax": SyntaxFilter(SyntaxFilter.Config()),
        "filters.secrets": SecretsFilter(SecretsFilter.Config()),
        "filters.duplicates": DuplicatesFilter(DuplicatesFilter.Config()),
    }
    corpus = Instruct(Instruct.Config(rows=options.rows))
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place) / "text"
        folder.mkdir()
        teacher = stack.enter_context(open_claude(Path(place))) if options.claude else Writer(Writer.Config())
        run = make_run(folder, {"teacher": teacher, "corpora.instruct": corpus, **filters})
        began = time.perf_counter()
        cached = {} if options.claude else {"teacher": "key"}
        with cache_answers(run, Path(place) / "answers.sqlite", cached) as asking:
            write_texts(asking, folder, ["corpora.instruct"], list(filters), {})
        generated = time.perf_counter() - began
        text = FoundText("text", folder, is_complete=True)
        count = export(text, Path(place) / "rows.parquet", "parquet", force=False)
        exported = time.perf_counter() - began - generated
        print("\n".join(status_lines(text.generations()[0], cells=False)))
        size = (Path(place) / "rows.parquet").stat().st_size / 1e6
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(
            f"{count:,} rows in {generated:.1f} s and {exported:.1f} s to Parquet ({size:.1f} MB); peak {peak:,.0f} MB"
        )
    for filter_ in filters.values():
        filter_.kdtool_close()


if __name__ == "__main__":
    main()
