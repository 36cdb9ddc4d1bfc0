"""Greatest memory of building, adapting, exporting and scoring a student of bfloat16 weights, as a ratio of their size.

    python benchmarks/student_memory.py [--megabytes 600] [--stages build lora qlora] [--json FILE]

Each stage runs in a process of its own on a Llama with random weights, after the same stage on a tiny one: what it takes
above that is compared with the weights. Resident memory counts the pages of mapped files, anonymous memory leaves
them out. A minute on two cores, no network; Linux alone. `qlora` needs bitsandbytes.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import kdtool
import torch
from kdtool_export.safetensors import Safetensors
from kdtool_student_pretrained import Pretrained
from kdtool_testing import make_run
from kdtool_torch import compute_dtype
from kdtool_transformers import byte_tokenizer
from kdtool_transformers.transforms import Lora, Qlora
from transformers import LlamaConfig, LlamaForCausalLM

_FIELDS = re.compile(r"^(VmRSS|RssAnon):\s*(\d+) kB$", re.MULTILINE)
_SECONDS = 0.001
_TEXT = "def area(width, height):\n    return width * height\n" * 8


def build(model: Path, out: Path) -> None:
    """Build the student and save it, as a run does for each seed."""
    _built(model, out).save(out / "student")


def lora(model: Path, out: Path) -> None:
    """Put adapters in, merge them, save."""
    _adapted(Lora(Lora.Config.model_validate({"r": 8})), model, out)


def qlora(model: Path, out: Path) -> None:
    """Store weights in 4 bits, put adapters in, merge them, save."""
    _adapted(Qlora(Qlora.Config.model_validate({"r": 8})), model, out)


def export(model: Path, out: Path) -> None:
    """Export the model as a trained student's folder."""
    exporter = Safetensors(Safetensors.Config())
    exporter.kdtool_export(make_run(out, offline=True), model)


def score(model: Path, out: Path) -> None:
    """Score a text by the model as a trained student."""
    _score(Pretrained(Pretrained.Config(model=str(model))), kdtool.Subject("student", "student", model), out)


def score_artifact(model: Path, out: Path) -> None:
    """Score a text by the model as an exported one."""
    _score(Safetensors(Safetensors.Config()), kdtool.Subject("export", "artifact", model), out)


STAGES: Mapping[str, Callable[[Path, Path], None]] = {
    "build": build,
    "lora": lora,
    "qlora": qlora,
    "export": export,
    "score": score,
    "score-artifact": score_artifact,
}


def make_model(folder: Path, megabytes: float) -> int:
    """Write a Llama of bfloat16 with random weights of about that size, and return how many bytes they are."""
    hidden = 64 if megabytes < 1 else 1024
    layer = hidden * hidden * (2.5 + 3 * 2.75) * 2
    config = LlamaConfig(
        vocab_size=512 if megabytes < 1 else 8192,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=max(1, round(megabytes * 1e6 / layer)),
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 128 or 1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save(folder)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def measure_stage(stage: str, models: Path) -> dict[str, int]:
    """Run a stage on the tiny model and on the large one, and return what the second takes beyond the first, in bytes."""
    for name in ("tiny", "large"):
        with tempfile.TemporaryDirectory() as folder:
            gc.collect()
            begin, peaks, end = _memory(), _memory(), threading.Event()
            watcher = threading.Thread(target=_watch, args=(peaks, end))
            watcher.start()
            STAGES[stage](models / name, Path(folder))
            end.set()
            watcher.join()
    return {"rss": peaks["VmRSS"] - begin["VmRSS"], "anonymous": peaks["RssAnon"] - begin["RssAnon"]}


def _built(model: Path, out: Path) -> kdtool.LanguageModel:
    return Pretrained(Pretrained.Config(model=str(model))).kdtool_build_student(make_run(out, offline=True))


def _adapted(transform: Lora, model: Path, out: Path) -> None:
    student, run = _built(model, out), make_run(out, offline=True)
    training = transform.kdtool_transform(student, run)
    student = next(training)
    for name, parameter in student.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    next(training, None)
    student.save(out / "trained")


def _score(opener: kdtool.Component, subject: kdtool.Subject, out: Path) -> None:
    runtime = opener.kdtool_open(make_run(out, offline=True), subject)  # type: ignore[attr-defined]
    list(runtime.score([_TEXT]))
    runtime.close()


def _watch(peaks: dict[str, int], end: threading.Event) -> None:
    while not end.is_set():
        for name, size in _memory().items():
            peaks[name] = max(peaks[name], size)
        time.sleep(_SECONDS)


def _memory() -> dict[str, int]:
    """Return resident and anonymous memory of this process in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return {name: int(size) * 1024 for name, size in _FIELDS.findall(status)}


def main() -> None:
    """Measure each stage in a process of its own and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=600, help="of bfloat16 weights")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--within", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.within is not None:
        print(json.dumps(measure_stage(options.stages[0], options.within)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder) / "tiny", 0.1)
        size = make_model(Path(folder) / "large", options.megabytes)
        computed = str(compute_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
        print(f"{size / 1e6:.0f} MB of bfloat16 weights, computed with in {computed} when scored\n")
        print("| stage | resident | anonymous |\n|---|---|---|", flush=True)
        found = {}
        for stage in options.stages:
            command = [sys.executable, *sys.argv[:1], "--stages", stage, "--within", folder]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[stage] = json.loads(said.splitlines()[-1])
            rss, anonymous = (found[stage][kind] / size for kind in ("rss", "anonymous"))
            print(f"| {stage} | {rss:.2f} × | {anonymous:.2f} × |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"weights": size, "stages": found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
