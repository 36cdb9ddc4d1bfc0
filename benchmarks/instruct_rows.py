"""Time and peak memory of a generation: rows from a teacher in this process, through the screens, to Parquet.

    python benchmarks/instruct_rows.py --rows 50000

The teacher answers at once, fails in one of five answers (refused, cut off, a part missing, code that does not parse), and
its answers go through the store's cache as in a run. Six languages × three difficulties × eight tasks.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import kdtool
from kdtool._run.answer_cache import cache_answers
from kdtool._run.stages.text import write_texts
from kdtool_command_data._export import export
from kdtool_command_data._status import status_lines
from kdtool_command_data._texts import FoundText
from kdtool_corpus_instruct import Instruct
from kdtool_screen_duplicates import DuplicatesScreen
from kdtool_screen_length import LengthScreen
from kdtool_screen_secrets import SecretsScreen
from kdtool_screen_syntax import SyntaxScreen
from kdtool_testing import make_run

CODE = {
    "python": "def {0}({1}):\n    return {1} + {2}\n",
    "javascript": "function {0}({1}) {{\n  return {1} + {2};\n}}\n",
    "java": "class A {{\n  static int {0}(int {1}) {{\n    return {1} + {2};\n  }}\n}}\n",
    "cpp": "int {0}(int {1}) {{\n  return {1} + {2};\n}}\n",
    "go": "package a\n\nfunc {0}({1} int) int {{\n\treturn {1} + {2}\n}}\n",
    "rust": "fn {0}({1}: i64) -> i64 {{\n    {1} + {2}\n}}\n",
}


class Writer(kdtool.Teacher):
    """Answers at once, four times of five in the right form."""

    offers = frozenset({"text"})

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Yield an answer to each request."""
        for request in requests:
            drawn = random.Random(repr(request.turns))
            language = request.turns[0][1].partition("begin with ```")[2].partition(".")[0]
            words = [f"w{drawn.randrange(10**6)}" for _ in range(60)]
            code = CODE[language].format(*words[:2], drawn.randrange(10**6))
            failing = drawn.randrange(20)
            code = code.replace(")", "", 1) if failing == 0 else code
            response = "</response>\n" if failing != 1 else ""
            text = f"<instruction>{' '.join(words[:40])}</instruction>\n<response>\n```{language}\n{code}```\n"
            text += f"{' '.join(words[40:])}\n{response}"
            finish = "refused" if failing == 2 else "length" if failing == 3 else "stop"
            yield kdtool.TextAnswer(request.id, text if failing != 2 else "", finish, 600, 200, 10**9)


def main() -> None:
    """Generate, export, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    options = parser.parse_args()
    screens: dict[str, kdtool.Screen] = {
        "screens.length": LengthScreen(LengthScreen.Config()),
        "screens.syntax": SyntaxScreen(SyntaxScreen.Config()),
        "screens.secrets": SecretsScreen(SecretsScreen.Config()),
        "screens.duplicates": DuplicatesScreen(DuplicatesScreen.Config()),
    }
    corpus = Instruct(Instruct.Config(rows=options.rows))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "text"
        folder.mkdir()
        run = make_run(folder, {"teacher": Writer(Writer.Config()), "corpora.instruct": corpus, **screens})
        began = time.perf_counter()
        with cache_answers(run, Path(place) / "answers.sqlite", {"teacher": "key"}) as asking:
            write_texts(asking, folder, ["corpora.instruct"], list(screens), {})
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
    for screen in screens.values():
        screen.kdtool_close()


if __name__ == "__main__":
    main()
