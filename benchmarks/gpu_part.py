"""One part of `gpu.py`, in a process of its own; prints its figures as JSON.

    python benchmarks/gpu_part.py {train,kernels,transforms,texts} [--tiny]

Models have random weights in the shapes of SmolLM2, 1.7B as teacher and 360M as student; `--tiny` takes small ones. Rows
are random tokens, several documents in each.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import kdtool
import torch
from kdtool._contract.signals import alternatives
from kdtool._run.transforming import Transforming
from kdtool_testing import ListSource, make_run
from kdtool_torch import compute_dtype, pick_device, product_speed
from kdtool_trainer_standard import StandardTrainer
from kdtool_transformers import TransformersModel, byte_tokenizer
from torch.optim.optimizer import register_optimizer_step_post_hook

LOSSES = {"token": "forward-kl", "layer": "hidden", "sequence": "uld"}
TRANSFORMS = ("none", "compile", "liger", "lora")


class Shape(NamedTuple):
    """Sizes of a Llama."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int


class Sizes(NamedTuple):
    """All sizes of the benchmark."""

    teacher: Shape
    student: Shape
    vocabulary: int
    length: int
    batch: int
    steps: int
    texts: int
    new_tokens: int


FULL = Sizes(Shape(2048, 24, 32, 32, 8192), Shape(960, 32, 15, 5, 2560), 49_152, 2048, 8, 12, 64, 128)
TINY = Sizes(Shape(64, 2, 4, 2, 128), Shape(32, 2, 4, 2, 64), 512, 64, 2, 4, 2, 4)


class Model(TransformersModel):
    """A model that uses all rows of its head, whatever its tokenizer has."""

    @property
    def head(self) -> kdtool.Head:
        """The head."""
        return replace(super().head, vocabulary=self.model.config.vocab_size)


def make_model(shape: Shape, sizes: Sizes, dtype: torch.dtype) -> Model:
    """Return a model with random weights on the device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=sizes.vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers, eos_token_id=None,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, intermediate_size=shape.feed_forward,
        max_position_embeddings=4096, tie_word_embeddings=True, bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(pick_device()):
        return Model(LlamaForCausalLM(config).to(dtype), byte_tokenizer())


def make_rows(sizes: Sizes, count: int) -> ListSource:
    """Return rows of four documents each, every token but the first labelled."""
    rng, length = random.Random(0), sizes.length
    document = [index * 4 // length for index in range(length)]
    return ListSource(
        [
            kdtool.Row(str(n), [rng.randrange(sizes.vocabulary) for _ in range(length)], [True] * length, document)
            for n in range(count)
        ]
    )


class Source:
    """A model's signals."""

    def __init__(self, model: Model, want: kdtool.SignalRequest) -> None:
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
            if profiler is not None:
                profiler.stop()
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("default")


def train(sizes: Sizes, loss_name: str, transform: str = "none", profiler: Any = None) -> dict[str, Any]:
    """Train some steps; return tokens a second, peak memory and waits for the GPU of a step."""
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
    with tempfile.TemporaryDirectory() as folder, each_step(profiler) as steps:
        run = make_run(Path(folder), components, say=lambda text: print(text, file=sys.stderr))
        transforming = Transforming(student)
        if transform != "none":
            (made,) = entry_points(group="kdtool.transforms", name=transform)
            kind = made.load()
            transforming.apply(kind(kind.Config()), run)
        rows, signals = make_rows(sizes, 2 * sizes.batch), {"teacher": Source(teacher, want)}
        phase = kdtool.Phase("gpu", sizes.steps, (term,), rows, signals, Path(folder) / "checkpoints")
        config: dict[str, Any] = {
            "batch": sizes.batch,
            "log_every": 1000,
            "checkpoint_every": 1000,
            "gradient_norms_every": 1000,
        }
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        StandardTrainer(StandardTrainer.Config(**config)).kdtool_train(run, phase, transforming.student)
    first, last = len(steps) // 2, len(steps) - 2  # the last step logs
    seconds = (steps[last][0] - steps[first][0]) / (last - first) if last > first else steps[-1][0] - steps[-2][0]
    tokens = sizes.batch * sizes.length
    return {
        "tokens a second": tokens / seconds,
        "of the card's products": tokens * _operations(sizes) / seconds / product_speed(dtype, device),
        "peak GB": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None,
        "waits a step": steps[last][1] - steps[last - 1][1] if device.type == "cuda" else None,
    }


def _operations(sizes: Sizes) -> float:
    """Return the operations of the products of a token: six a weight of the student, two a weight of the teacher."""

    def weights(shape: Shape) -> int:
        attention = shape.hidden**2 * 2 * (1 + shape.kv_heads / shape.heads)
        layer = attention + 3 * shape.hidden * shape.feed_forward
        return int(shape.layers * layer + sizes.vocabulary * shape.hidden)

    return 6.0 * weights(sizes.student) + 2.0 * weights(sizes.teacher)


def part_train(sizes: Sizes) -> dict[str, Any]:
    """Train with JSD, the teacher online."""
    return {"kdtool, jsd": train(sizes, "jsd")}


def part_kernels(sizes: Sizes) -> dict[str, Any]:
    """Return the kernels that take most time in a training step, and those of attention."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = pick_device().type == "cuda"
    profiled = profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU])
    train(sizes._replace(steps=4), "jsd", profiler=profiled)
    events = sorted(profiled.key_averages(), key=lambda event: -_time(event, on_gpu=on_gpu))
    total = sum(_time(event, on_gpu=on_gpu) for event in events) or 1.0
    attention = [event.key for event in events if any(word in event.key.lower() for word in ("flash", "fmha", "sdpa"))]
    shares = {event.key[:80]: _time(event, on_gpu=on_gpu) / total for event in events[:10]}
    return {"attention": {"kernels": attention[:4]}, "shares of the time": shares}


def _time(event: Any, *, on_gpu: bool) -> float:
    return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)


def part_transforms(sizes: Sizes) -> dict[str, Any]:
    """Train with each transform and each sort of loss."""
    short = sizes._replace(steps=4, batch=min(2, sizes.batch))
    found: dict[str, Any] = {}
    for transform in TRANSFORMS if sizes is FULL else ("none", "lora"):  # compiling takes minutes on a CPU
        for sort, loss in LOSSES.items():
            name = f"{transform}, {sort} loss"
            try:
                found[name] = {"tokens a second": train(short, loss, transform)["tokens a second"]}
            except (kdtool.KdtoolError, RuntimeError, ImportError) as error:
                found[name] = {"refused or failed": str(error).splitlines()[0][:120]}
    return found


def part_texts(sizes: Sizes) -> dict[str, Any]:
    """Return the rates of generating by the student, and of recording the teacher's sampled tokens."""
    from kdtool_caches import Sampled

    dtype = compute_dtype("auto", pick_device())
    student, teacher = make_model(sizes.student, sizes, dtype), make_model(sizes.teacher, sizes, dtype)
    prompts = [[(7 * text + i) % 256 for i in range(16)] for text in range(sizes.texts)]
    student.generate(prompts[:2], [2] * 2, 1.0, [0, 1])
    texts, seconds = _timed(
        lambda: student.generate(prompts, [sizes.new_tokens] * sizes.texts, 1.0, range(sizes.texts))
    )
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
    return {
        "generating": {"tokens a second": sum(map(len, texts)) / seconds},
        "recording": {"tokens a second": len(rows) * sizes.length / recording},
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, perf_counter() - start


PARTS: Mapping[str, Callable[[Sizes], dict[str, Any]]] = {
    "train": part_train,
    "kernels": part_kernels,
    "transforms": part_transforms,
    "texts": part_texts,
}


def main() -> int:
    """Print a part's figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    print(json.dumps(PARTS[options.part](TINY if options.tiny else FULL)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
