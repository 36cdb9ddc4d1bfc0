"""One part of `gpu.py`, in a separate process; appends each figure to a file as soon as it is known.

    python benchmarks/gpu_part.py PART --rows FILE [--batch ROWS] [--tiny]

A line of the file is what was measured and its figures, as JSON. Models have random weights in the shapes of SmolLM2, 1.7B
as teacher and 360M as student; `--tiny` takes small ones. Rows are random tokens, several documents in each.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import kdtool
import torch
from gpu_models import FULL, TINY, Shape, Sizes, make_model, make_rows
from jsd_head import losses_agree, measured, reason
from kdtool._contract.signals import alternatives
from kdtool._run.stages.phase_training import Transforming
from kdtool_testing import ListSource, make_run
from kdtool_torch import compute_dtype, pick_device, product_speed
from kdtool_torch.trainer import StandardTrainer
from kdtool_transformers import TransformersModel
from torch.optim.optimizer import register_optimizer_step_post_hook

Rows = Iterator[tuple[str, Mapping[str, Any]]]
"""Names of measurements, each with its figures by name."""
LOSSES = {"token": "forward-kl", "layer": "hidden", "sequence": "uld"}


class Source:
    """A model's signals."""

    def __init__(self, model: TransformersModel, want: kdtool.SignalRequest) -> None:
        self.model, self.want = model, want

    def signal(self, batch: kdtool.Batch, chosen: object = None) -> kdtool.Signal:
        """Return final states, with the head, and the layers that are wanted."""
        with torch.no_grad():
            outputs = self.model.backbone(batch, self.want)
        return kdtool.Signal("random", kdtool.LazyLogits(outputs.last, self.model.head), None, outputs.hidden)


class Described(kdtool.Teacher):
    """Describes the teacher to losses that make projectors."""

    facts: kdtool.ModelFacts

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.ModelFacts:
        return self.facts


@contextmanager
def each_step(profiler: Any = None) -> Iterator[list[tuple[float, int]]]:
    """Collect the time and the waits for the GPU up to each change of the weights; profile from the second step on."""
    steps: list[tuple[float, int]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def note(*_: Any) -> None:
            waits = sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            steps.append((perf_counter(), waits))
            if profiler is not None and len(steps) == 1:
                profiler.start()

        handle = register_optimizer_step_post_hook(note)
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield steps
        finally:
            handle.remove()
            if profiler is not None and steps:
                profiler.stop()
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("default")


def train(
    sizes: Sizes, loss_name: str, transform: str = "none", documents: int = 4, profiler: Any = None
) -> dict[str, Any]:
    """Train some steps; return tokens a second, peak memory, waits for the GPU of a step, and what kdtool said."""
    gc.collect()
    device, (point,) = pick_device(), entry_points(group="kdtool.losses", name=loss_name)
    dtype, cls = compute_dtype("auto", device), point.load()
    loss, student = cls(cls.Config()), make_model(sizes.student, sizes, torch.float32)
    teacher = make_model(sizes.teacher, sizes, dtype)
    described = Described(Described.Config())
    described.facts = teacher.facts
    components = {f"losses.{loss_name}": loss, "teacher": described}
    pairs = tuple(loss.kdtool_layers(student.facts, teacher.facts) or ()) if hasattr(loss, "kdtool_layers") else ()
    need = alternatives(loss.needs)[0]
    term = kdtool.LossTerm(
        f"losses.{loss_name}", loss_name, 1.0, loss.temperature, loss.temperature**loss.temperature_power, "teacher",
        (need,), loss.divergence, pairs,
    )  # fmt: skip
    want = kdtool.SignalRequest(need, tuple(theirs for _, theirs in pairs))
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder, each_step(profiler) as steps:
        run = make_run(Path(folder), components, say=said.append)
        transforming = Transforming(student)
        if transform != "none":
            (made,) = entry_points(group="kdtool.transforms", name=transform)
            kind = made.load()
            transforming.apply(kind(kind.Config()), run)
        rows, signals = make_rows(sizes, 2 * sizes.batch, documents), {"teacher": Source(teacher, want)}
        phase = kdtool.Phase("gpu", sizes.steps, (term,), rows, signals, Path(folder) / "checkpoints")
        config: dict[str, Any] = {
            "batch": sizes.batch,
            "log_every": 1000,
            "checkpoint_every": 1000,
            "gradient_norms_every": 1000,
        }
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = perf_counter()
        StandardTrainer(StandardTrainer.Config(**config)).kdtool_train(run, phase, transforming.student)
    first, last = len(steps) // 2, len(steps) - 2  # the last step logs
    seconds = (steps[last][0] - steps[first][0]) / (last - first) if last > first else steps[-1][0] - steps[-2][0]
    tokens = sizes.batch * sizes.length
    return {
        "tokens a second": tokens / seconds,
        "seconds to the first step": steps[0][0] - start,
        "of the card's products": tokens * _operations(sizes) / seconds / product_speed(dtype, device),
        "peak GB": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None,
        "waits a step": steps[last][1] - steps[last - 1][1] if device.type == "cuda" else None,
        **({"said": " ".join(" ".join(said).split())[:300]} if said else {}),
    }


def _operations(sizes: Sizes) -> float:
    """Return the operations of the products of a token: six a weight of the student, two a weight of the teacher."""

    def weights(shape: Shape) -> int:
        attention = shape.hidden**2 * 2 * (1 + shape.kv_heads / shape.heads)
        layer = attention + 3 * shape.hidden * shape.feed_forward
        return int(shape.layers * layer + sizes.vocabulary * shape.hidden)

    return 6.0 * weights(sizes.student) + 2.0 * weights(sizes.teacher)


def part_jsd(sizes: Sizes) -> Rows:
    """Measure JSD from hidden states at the sizes of 1B and 8B models, and Liger's on a GPU."""
    for head, tokens in sizes.heads:
        where = f"{tokens} tokens, vocabulary {head.vocabulary}"
        found = measured(head, tokens, torch.bfloat16, sizes.rounds)
        for program, figures in found.items():
            yield f"{where}, {program}", figures
        if not losses_agree(found):
            yield where, {"failed": "the programs' losses differ by more than 2 %"}


def part_train(sizes: Sizes) -> Rows:
    """Train with JSD, the teacher online."""
    yield "kdtool, jsd", train(sizes, "jsd")


def part_kernels(sizes: Sizes) -> Rows:
    """Profile training steps: how busy the GPU is, the kernels of attention, and those that take most time."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    on_gpu = pick_device().type == "cuda"
    profiled = profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU])
    train(sizes._replace(steps=4), "jsd", profiler=profiled)
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiled.events() or []
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    if spans:
        busy = sum(end - start for start, end in spans) / (max(end for _, end in spans) - min(spans)[0])
        yield "steps 2 to 4", {"kernels a step": len(spans) / 3, "share of the time in kernels": busy}
    taken: Counter[str] = Counter()
    for event in profiled.key_averages():
        if not event.is_user_annotation:
            taken[f"`{event.key[:80]}`"] += float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)
    attention = [
        key for key, _ in taken.most_common() if any(word in key.lower() for word in ("flash", "fmha", "sdpa"))
    ]
    yield "attention", {"kernels": attention[:4]}
    total = sum(taken.values()) or 1.0
    yield "shares of the time", {key: time / total for key, time in taken.most_common(10)}


def part_trl(sizes: Sizes) -> Rows:
    """Train with JSD by TRL's DistillationTrainer, where TRL is installed, and on the same rows with kdtool."""
    if not find_spec("trl"):
        yield "trl.DistillationTrainer", {"not measured": "TRL is not installed"}
        return
    from gpu_trl import measure

    yield "trl.DistillationTrainer", measure(sizes)
    yield "kdtool, jsd, one document per row", train(sizes, "jsd", documents=1)


def part_texts(sizes: Sizes) -> Rows:
    """Measure generating by the student, and recording the teacher's sampled tokens."""
    from kdtool_torch.caches import Sampled

    dtype = compute_dtype("auto", pick_device())
    student, teacher = make_model(sizes.student, sizes, dtype), make_model(sizes.teacher, sizes, dtype)
    prompts = [[(7 * text + i) % 256 for i in range(16)] for text in range(sizes.texts)]
    student.generate(prompts[:2], [2] * 2, 1.0, [0, 1])
    for what in ("generating", "generating the same again"):
        texts, seconds = _timed(
            lambda: student.generate(prompts, [sizes.new_tokens] * sizes.texts, 1.0, range(sizes.texts))
        )
        yield what, {"tokens a second": sum(map(len, texts)) / seconds}
    rows = make_rows(sizes, 4 * sizes.batch)
    cache = Sampled(Sampled.Config(batch=sizes.batch))
    source = Source(teacher, kdtool.SignalRequest(frozenset({"logits"})))
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run")
        record = (Path(folder) / "record", Path(folder) / "warm-up")
        for place in record:
            place.mkdir()
        cache.kdtool_record(run, ListSource(rows.rows[:1]), source, record[1])
        _, recording = _timed(lambda: cache.kdtool_record(run, rows, source, record[0]))
    yield "recording", {"tokens a second": len(rows) * sizes.length / recording}


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, perf_counter() - start


def part_transform(sizes: Sizes, transform: str) -> Rows:
    """Train with a transform and each sort of loss."""
    short = sizes._replace(steps=min(8, sizes.steps))
    for sort, loss in LOSSES.items():
        try:
            figures = train(short, loss, transform)
        except Exception as error:  # the other losses are measured whatever a plugin raises
            figures = {"failed": reason(error)}
        wanted = ("tokens a second", "seconds to the first step", "peak GB", "waits a step", "said", "failed")
        yield f"{transform}, {sort} loss", {name: figures[name] for name in wanted if name in figures}


PARTS: Mapping[str, Callable[[Sizes], Rows]] = {
    "jsd head": part_jsd,
    "train": part_train,
    "kernels": part_kernels,
    "trl": part_trl,
    "texts": part_texts,
    **{name: partial(part_transform, transform=name) for name in ("none", "lora", "liger", "compile")},
}


def main() -> int:
    """Write a part's figures; 1 if it failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--rows", type=Path, required=True, help="the file that figures are appended to")
    parser.add_argument("--batch", type=int, help="rows per step")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    sizes = TINY if options.tiny else FULL
    with options.rows.open("a", encoding="utf-8", buffering=1) as file:
        try:
            for what, figures in PARTS[options.part](sizes._replace(batch=options.batch or sizes.batch)):
                file.write(json.dumps([what, figures]) + "\n")
        except Exception as error:  # whatever a library raises is what this part shows
            file.write(json.dumps(["-", {"failed": reason(error)}]) + "\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
