"""How far is each type of GGUF file from its model? KL divergence on held-out code, and the same of llama-quantize's files.

    python benchmarks/gguf_types.py [--types q4_k_m,q2_k] [--out FOLDER] [--llama-quantize PROGRAM]

SmolLM2-135M is written in every type, without and with an importance matrix of other code than is measured on. With
`--llama-quantize`, that program (of llama.cpp, built from the source package llama-cpp-python) makes the same files from the
f16 file and the same importance matrix. All are compared with the model in float32, by logits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

import torch
from kdtool_essentials.python_source import PythonSource
from kdtool_export.gguf import GGUF
from kdtool_export.gguf.calibration import WINDOW, Prepared, prepare
from kdtool_export.gguf.checks import Parity, compare
from kdtool_export.gguf.decoder import Decoder
from kdtool_export.gguf.quantisation import write_quantised
from kdtool_export.gguf.settings import WEIGHTED
from kdtool_teacher_smollm2._fetch import find_weights
from kdtool_testing import make_run
from kdtool_torch import widen
from kdtool_transformers import TransformersModel, open_model

TYPES = "f16,q8_0,q6_k,q5_k_m,q4_k_m,iq4_xs,q4_0,q3_k_m,q2_k"


def main() -> None:
    """Write, compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--imatrix", default="none,text")
    parser.add_argument("--out", type=Path, default=Path("gguf-types"))
    parser.add_argument("--model", type=Path, help="a folder; SmolLM2-135M if it is left out")
    parser.add_argument("--compare", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llama-quantize", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.model or find_weights(print, offline=False), options.out, options)
    found: dict[str, dict[str, float]] = {}
    for mix in options.types.split(","):
        for imatrix in options.imatrix.split(",") if mix in WEIGHTED else ("none",):
            file = bench.write(mix, imatrix)
            found[f"{mix} {imatrix}"] = bench.measure(file, imatrix)
            if options.llama_quantize:
                theirs = bench.llama_quantize(options.llama_quantize, mix, imatrix)
                found[f"{mix} {imatrix} llama-quantize"] = bench.measure(theirs, imatrix)
            (options.out / "gguf_types.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


class Bench:
    """A model with text to calibrate and to measure on."""

    def __init__(self, folder: Path, out: Path, options: argparse.Namespace) -> None:
        corpus = PythonSource(PythonSource.Config())
        self.run = make_run(out, examples=[*corpus.kdtool_examples(make_run(out))], name="smollm2-135m")
        self.folder, self.options = folder, options
        self.student: TransformersModel = open_model(folder, offline=True)
        widen(self.student.model)
        self.prepared: dict[str, Prepared] = {}

    def write(self, mix: str, imatrix: str) -> Path:
        """Write the model in a type and return the file."""
        config = GGUF.Config(type=mix, imatrix=imatrix, compare=self.options.compare)
        begun = time.monotonic()
        if imatrix not in self.prepared:
            self.prepared[imatrix] = prepare(self.run, self.student, self.folder, config)
            print(f"prepared ({imatrix}) in {time.monotonic() - begun:.1f} s", flush=True)
            begun = time.monotonic()
        written = write_quantised(self.run, self.student, self.prepared[imatrix], config)
        print(f"{mix} {imatrix}: written in {time.monotonic() - begun:.1f} s", end="; ", flush=True)
        return written.rename(written.with_stem(f"{written.stem}-{imatrix}"))

    def measure(self, file: Path, imatrix: str) -> dict[str, float]:
        """Compare a file with the model."""
        prepared = self.prepared[imatrix]
        with Decoder(file, context=WINDOW, threads=self.options.threads) as decoder:
            parity: Parity = compare(self.student, prepared.windows, prepared.states, decoder)
        rate = parity.tokens / parity.seconds
        print(f"{file.name} {file.stat().st_size / 1e6:.1f} MB: {parity}; {rate:.0f} tokens/s", flush=True)
        return {**parity._asdict(), "bytes": file.stat().st_size}

    def llama_quantize(self, program: Path, mix: str, imatrix: str) -> Path:
        """Have llama-quantize make the file of the f16 file, with the same importance matrix."""
        given = ["--imatrix", str(self.run.folder / f"{self.run.name}-imatrix.gguf")] if imatrix == "text" else []
        source = self.run.folder / f"{self.run.name}-f16-none.gguf"
        target = self.run.folder / f"{mix}-{imatrix}-theirs.gguf"
        subprocess.run([program, *given, source, target, mix.upper(), "2"], check=True, capture_output=True)
        return target


if __name__ == "__main__":
    main()
