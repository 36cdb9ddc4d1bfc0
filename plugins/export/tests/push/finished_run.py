"""A finished run on disk, with an exported folder and an exported file, without training anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import kdtool
import pytest
from kdtool._cli import call
from kdtool._results.files import write_results
from kdtool_testing import make_results

CARD = "---\nlicense: apache-2.0\nlibrary_name: {}\ntags: [code]\n---\n# small\n\nA student.\n"


class Outcome(NamedTuple):
    """An exit code, and what was printed."""

    code: int
    out: str
    err: str


class Push:
    """`kdtool push small` with further arguments."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Outcome:
        """Run the command."""
        code = call(["push", "small", *arguments])
        return Outcome(code, *self._capsys.readouterr())

    def refuses(self, *arguments: str, said: str, code: int = 2) -> Outcome:
        """Run the command, which must fail with this code and these words."""
        found = self(*arguments)
        assert found.code == code, found.err
        assert said in found.err
        return found


def write_run(folder: Path, **changes: object) -> kdtool.Results:
    """Write a finished run with an exported folder and an exported file."""
    model, file = folder / "exports" / "safetensors-1" / "model", folder / "exports" / "gguf-2" / "small-q8_0.gguf"
    model.mkdir(parents=True)
    file.parent.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (model / "kdtool.json").write_text('{"copied_layers": [0, 3]}', encoding="utf-8")
    for shard in (1, 2, 3):
        (model / f"model-0000{shard}-of-00003.safetensors").write_bytes(bytes([shard]) * 300_000)
    file.write_bytes(b"GGUF" + bytes(100_000))
    (file.parent / "artifact.json").write_text("{}", encoding="utf-8")
    size = sum(path.stat().st_size for path in model.iterdir())
    artifacts = (
        kdtool.Artifact(
            model, "safetensors", size, how_to_use=f"import x\nx({str(model)!r})", card=CARD.format("transformers")
        ),
        kdtool.Artifact(file, "gguf", file.stat().st_size, "q8_0", f"llama-server -m {file}", CARD.format("llama.cpp")),
    )
    made = make_results(folder)
    student = replace(made.arms[0], artifacts=artifacts)
    results = replace(
        made,
        arms=(student, *made.arms[1:]),
        components=(*made.components, exporter("safetensors"), exporter("gguf")),
        **changes,  # type: ignore[arg-type]
    )
    write_results(results)
    return results


def exporter(name: str) -> kdtool.ComponentRecord:
    """Return the record of an exporter."""
    return kdtool.ComponentRecord(f"exporters.{name}", "exporter", name, f"kdtool-exporter-{name}", "0.1", {})
