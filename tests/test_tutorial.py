"""The tutorial docs/your-own-loss.md, command by command, with a tiny teacher: figures and verdicts are others."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from document_blocks import Block, blocks, compare
from test_documented_plugins import declare_installed

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "your-own-loss.md"
BLOCKS = list(blocks(PAGE, PAGE.read_text(encoding="utf-8")))
VERDICT = re.compile(r"^[▲▼○] .*$", re.MULTILINE)


def smaller(teacher: Path) -> str:
    """Return the recipe that the tutorial extends, with a tiny teacher and little text."""
    changes = {
        "extends": str(ROOT / "plugins/essentials/src/kdtool_essentials/recipes/quickstart-seeds.yaml"),
        "corpus": {"train_files": 8, "validation_files": 2, "test_files": 16},
        "rows": {"length": 64, "maximum_tokens": 2048},
        "teacher": {"use": "causal-lm", "model": str(teacher), "dtype": "float32"},
        "student": {"layers": 3},
        "trainer": {"dtype": "float32"},
        "evaluators": {"perplexity": {"limit": 16, "characters": 400}},
    }
    return str(yaml.safe_dump(changes))


class Reader:
    """Does what the tutorial asks for, in a folder with the recipe that it extends."""

    def __init__(self, folder: Path, teacher: Path) -> None:
        self.folder = folder
        (folder / "quickstart-seeds").write_text(smaller(teacher), encoding="utf-8")
        source = folder / "kdtool-loss-trusting" / "src"
        paths = os.pathsep.join([str(source), str(folder / "site")])
        self.environment = {**os.environ, "PYTHONPATH": paths, "PYTHONUTF8": "1", "COLUMNS": "100"}

    def follow(self, block: Block) -> None:
        """Write a file, or run commands and compare their outputs."""
        if block.file:
            (self.folder / block.file).write_text(block.text, encoding="utf-8")
            return
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:] if block.language == "console" else ():
            command, *output = part.splitlines()
            if command.startswith("pip install"):
                declare_installed(self.folder / "kdtool-loss-trusting", self.folder / "site")
            else:
                self.run(command, output)

    def run(self, command: str, output: list[str]) -> None:
        """Run a command and compare its output."""
        program, *words = shlex.split(command)
        done = subprocess.run(
            [sys.executable, "-P", "-m", program, *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            encoding="utf-8",
        )
        assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
        compare([without_figures(line) for line in output], without_figures(done.stdout))


def without_figures(text: str) -> str:
    """Replace what differs with another teacher and machine: numbers, verdicts, and the widths of columns."""
    text = re.sub(r"\b(better|worse|no evidence of a difference)\b", "shown", VERDICT.sub("the verdict", text))
    return re.sub(r" {2,}", "  ", re.sub(r"[+−-]?\d[\d.,]*(?: (?:min|s|GB|MB|kB)\b)?", "0", text))


@pytest.mark.slow
def test_the_tutorial_ends_with_a_verdict(teacher_folder: Path, tmp_path: Path) -> None:
    reader = Reader(tmp_path, teacher_folder)
    for block in BLOCKS:
        reader.follow(block)
    assert any("$ kdtool compare" in block.text for block in BLOCKS)
