"""Compare ONNX exports of SmolLM2-135M with the model: size, greedy text, most likely tokens, and speed.

    python benchmarks/onnx_parity.py [--prompts 20] [--tokens 256]

Prompts are the beginnings of files of Python's standard library, and agreement is measured on later parts of them. Both run
on the processor, in batches of the same prompts.
"""

from __future__ import annotations

import argparse
import sysconfig
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import kdtool
import torch
from kdtool_export.onnx import ONNX
from kdtool_export.onnx.runtime import OnnxModel
from kdtool_teacher_smollm2 import SmolLM2
from kdtool_testing import make_run
from kdtool_transformers import TransformersModel, TransformersRuntime, open_model


def main() -> None:
    """Export in both types, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=256)
    options = parser.parse_args()
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"), key=lambda file: file.stat().st_size)
    texts = [file.read_text(encoding="utf-8", errors="ignore") for file in files[-2 * options.prompts :: 2]]
    with TemporaryDirectory() as scratch:
        student = save_model(Path(scratch, "student"))
        requests = [kdtool.Request(str(n), text[:400], options.tokens) for n, text in enumerate(texts)]
        started = time.monotonic()
        expected = {found.id: found for found in TransformersRuntime(student).answer(requests)}
        speed = sum(found.tokens_out for found in expected.values()) / (time.monotonic() - started)
        print(f"transformers, float32: {speed:.0f} tokens/s", flush=True)
        for dtype in ("float32", "int8"):
            report(dtype, Path(scratch), student, requests, expected, texts)


def save_model(folder: Path) -> TransformersModel:
    """Write SmolLM2 in float32 into a folder, and open it."""
    with TemporaryDirectory() as scratch:
        run = make_run(Path(scratch))
        runtime = SmolLM2(SmolLM2.Config(dtype="float32")).kdtool_open(run, kdtool.Subject("teacher", "teacher"))
        if runtime is None or runtime.model is None:
            raise SystemExit("the teacher smollm2 cannot be opened here")
        runtime.model.save(folder)
    return open_model(folder, dtype=torch.float32, offline=True)


def report(
    dtype: str,
    folder: Path,
    student: TransformersModel,
    requests: list[kdtool.Request],
    expected: dict[str, kdtool.TextAnswer],
    texts: list[str],
) -> None:
    """Export the student in one type, and print how it compares."""
    (folder / dtype).mkdir()
    exporter, started = ONNX(ONNX.Config.model_validate({"dtype": dtype})), time.monotonic()
    artifact = exporter.kdtool_export(make_run(folder / dtype), folder / "student")
    seconds = time.monotonic() - started
    runtime = exporter.kdtool_open(make_run(folder / dtype), kdtool.Subject("onnx", "artifact", artifact.path))
    assert runtime is not None
    with runtime:
        started = time.monotonic()
        found = {answer.id: answer for answer in runtime.answer(requests)}
        speed = sum(answer.tokens_out for answer in found.values()) / (time.monotonic() - started)
    same = sum(found[name].text == answer.text for name, answer in expected.items())
    weights = (artifact.path / "model.onnx.data").stat().st_size
    agreement, tokens = agree(student, OnnxModel(artifact.path), texts)
    print(
        f"{dtype}: {weights / student.facts.parameters / 4:.3f} of the bytes, {same} of {len(expected)} greedy texts equal, "
        f"most likely token equal at {agreement:.1%} of {tokens:,}, {speed:.0f} tokens/s, exported in {seconds:.0f} s",
        flush=True,
    )


def agree(student: TransformersModel, graph: OnnxModel, texts: list[str]) -> tuple[float, int]:
    """Return at how many of the positions both find the same token most likely, and their number."""
    same, total = 0, 0
    for text in texts:
        ids = torch.tensor([student.tokenizer.encode(text[2000:5000])[:512]])
        with torch.no_grad():
            own, theirs = student.model(input_ids=ids).logits, graph(input_ids=ids).logits
        same += int((own.argmax(-1) == theirs.argmax(-1)).sum())
        total += ids.numel()
    return same / total, total


if __name__ == "__main__":
    main()
