"""Does importance choose better than chance what to prune? The student `pruned` against random choices of the same shape.

    python benchmarks/pruning_importance.py [--only AXIS …] [--draws 5] [--documents 24] [--out FILE]

Teacher SmolLM2-135M-Instruct, calibrated on training files of the standard library, scored on test files. For each axis at
10 to 25 % removed: nats per token right after pruning. At half removed, where untrained models are too broken to be told
apart: the same after a short heal (cross-entropy, equal steps, rows and rates). Differences are paired over documents; their
95 % intervals come from 5,000 bootstrap replicates that draw documents and random choices anew. Every score is written to
the file at once, and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import kdtool
import numpy as np
import torch
import torch.nn.functional as F
from kdtool_essentials.python_source import PythonSource
from kdtool_measuring import held_out
from kdtool_student_pruned._anatomy import Anatomy, Shape
from kdtool_student_pruned._cut import Kept, choose, cut, most_important
from kdtool_student_pruned._importance import Importance, measure
from kdtool_teacher_smollm2 import SmolLM2
from kdtool_testing import make_run
from kdtool_torch import compute_dtype, pick_device
from kdtool_transformers import TransformersModel, TransformersRuntime

HEAL_ROWS, HEAL_LENGTH, HEAL_RATE = 2, 128, 1e-3


class Case(NamedTuple):
    """A shape to prune to; `written_out` first gives every head keys and values of its own, `steps` heals."""

    axis: str
    changes: dict[str, int]
    removed: str
    written_out: bool = False
    steps: int = 0


def cases(steps: int) -> Iterator[Case]:
    """Yield what is measured. SmolLM2 has 30 layers, hidden 576, 9 heads on 3 KV heads, feed-forward 1536."""
    yield Case("layers", {"layers": 27}, "10 %")
    yield Case("layers", {"layers": 24}, "20 %")
    yield Case("hidden", {"hidden": 512}, "11 %")
    yield Case("hidden", {"hidden": 448}, "22 %")
    yield Case("heads", {"heads": 8, "kv_heads": 8}, "11 %", written_out=True)
    yield Case("heads", {"heads": 7, "kv_heads": 7}, "22 %", written_out=True)
    yield Case("heads", {"heads": 6, "kv_heads": 2}, "33 %, a group")
    yield Case("heads", {"heads": 6, "kv_heads": 3}, "33 %, one of each group")
    yield Case("feed_forward", {"feed_forward": 1344}, "12.5 %")
    yield Case("feed_forward", {"feed_forward": 1152}, "25 %")
    yield Case("layers", {"layers": 15}, "50 %, healed", steps=steps)
    yield Case("hidden", {"hidden": 256}, "56 %, healed", steps=steps)
    yield Case("heads", {"heads": 3, "kv_heads": 1}, "67 %, healed", steps=steps)
    yield Case("feed_forward", {"feed_forward": 768}, "50 %, healed", steps=steps)


def main() -> None:
    """Measure every case that is not in the file yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=["layers", "hidden", "heads", "feed_forward"], help="axes")
    parser.add_argument("--draws", type=int, default=5, help="random choices for each shape")
    parser.add_argument("--healed-draws", type=int, default=3, help="random choices that are healed, too")
    parser.add_argument("--documents", type=int, default=24)
    parser.add_argument("--characters", type=int, default=200, help="of each document")
    parser.add_argument("--steps", type=int, default=20, help="of healing, 256 tokens each")
    parser.add_argument("--out", type=Path, default=Path("pruning_importance.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options)
        print(f"teacher: {bench.scored('teacher', lambda: bench.teacher).mean():.3f} nats a token", flush=True)
        for case in cases(options.steps):
            if case.axis in options.only:
                print(bench.line(case), flush=True)


class Bench:
    """The teacher, its importance, the texts, and the scores so far."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.options, self.file = options, options.out
        self.scores: dict[str, list[float]] = json.loads(self.file.read_text()) if self.file.exists() else {}
        corpus, teacher = PythonSource(PythonSource.Config()), SmolLM2(SmolLM2.Config(dtype="float32"))
        self.run = make_run(folder, {"teacher": teacher}, list(corpus.kdtool_examples(make_run(folder))), offline=True)
        runtime = kdtool.open_subject(self.run, kdtool.Subject("teacher", "teacher"))
        assert runtime is not None
        assert isinstance(runtime.value.model, TransformersModel)
        self.teacher = runtime.value.model
        self.written_out = written_out(self.teacher)
        self.texts = [d.text for d in held_out(self.run, "test", most=options.documents, characters=options.characters)]

    def line(self, case: Case) -> str:
        """Measure a case and return its row of the table."""
        draws = self.options.healed_draws if case.steps else self.options.draws
        name = " ".join(f"{key} {value}" for key, value in case.changes.items())
        name += f" +{case.steps}" if case.steps else ""
        ours = self.scored(f"{name} importance", partial(self.pruned, case, None))
        chance = [self.scored(f"{name} draw {seed}", partial(self.pruned, case, seed)) for seed in range(draws)]
        difference = np.stack(chance) - ours
        low, high = interval(difference)
        spread = ", ".join(f"{draw.mean():.2f}" for draw in chance)
        return (
            f"| {name} | {case.removed} | {ours.mean():.3f} | {np.stack(chance).mean():.3f} ({spread}) | "
            f"{difference.mean():.3f} ({low:.3f} to {high:.3f}) |"
        )

    def pruned(self, case: Case, seed: int | None) -> TransformersModel:
        """Prune by importance, or by chance where there is a seed, and heal."""
        source = self.written_out if case.written_out else self.teacher
        anatomy = Anatomy.of(source.facts)
        shape = anatomy.shape._replace(**case.changes)
        importance = self.importance if seed is None else chance_of(self.importance, seed)
        model = cut(source, kept_of(importance, shape, anatomy))
        if case.steps:
            heal(model, self.rows(case.steps * HEAL_ROWS, HEAL_LENGTH))
        return model

    @cached_property
    def importance(self) -> Importance:
        """Importance on training text, of the teacher however its keys and values are written."""
        file = self.file.with_suffix(".importance.pt")
        if not file.exists():
            torch.save(vars(measure(self.teacher, self.run.texts.examples("train"), 16, 512, widths=True)), file)
        return Importance(**torch.load(file, weights_only=True))

    def scored(self, name: str, build: Callable[[], TransformersModel]) -> Any:
        """Return nats per token of every document, from the file or measured."""
        if name not in self.scores:
            with TransformersRuntime(build(), compute_dtype("auto", pick_device())) as runtime:
                self.scores[name] = [-score.log_likelihood / score.tokens for score in runtime.score(self.texts)]
            self.file.write_text(json.dumps(self.scores), encoding="utf-8")
        return np.array(self.scores[name])

    def rows(self, count: int, length: int) -> torch.Tensor:
        """Return rows of training text that importance was not measured on."""
        ids: list[int] = []
        for example in list(self.run.texts.examples("train"))[100:]:
            assert isinstance(example.body, kdtool.Text)
            ids += [*self.teacher.tokenizer.encode(example.body.text), self.teacher.tokenizer.end_of_text]
            if len(ids) >= count * length:
                break
        return torch.tensor(ids[: count * length]).view(count, length)


def kept_of(importance: Importance, shape: Shape, source: Anatomy) -> Kept:
    """Choose as the student does."""
    layers = most_important(importance.layers.tolist(), shape.layers)
    return choose(importance, layers, shape, source)


def chance_of(importance: Importance, seed: int) -> Importance:
    """Return importance drawn at random, so that every choice of the same shape is as likely."""
    generator = torch.Generator().manual_seed(seed)
    channels = torch.rand(len(next(iter(importance.channels.values()))), generator=generator)
    return Importance(
        layers=torch.rand(importance.layers.shape, generator=generator),
        channels=dict.fromkeys(importance.channels, channels),
        heads=torch.rand(importance.heads.shape, generator=generator),
        feed_forward=torch.rand(importance.feed_forward.shape, generator=generator),
    )


def written_out(model: TransformersModel) -> TransformersModel:
    """Return the same function with keys and values written out for each head, so that single heads can leave."""
    config, causal = deepcopy(model.model.config), model.model
    group, config.num_key_value_heads = (
        config.num_attention_heads // config.num_key_value_heads,
        config.num_attention_heads,
    )
    same = type(causal)(config)
    weights = dict(causal.state_dict())
    for name, weight in causal.state_dict().items():
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            heads = weight.unflatten(0, (-1, config.head_dim))
            weights[name] = heads.repeat_interleave(group, 0).flatten(0, 1)
    same.load_state_dict(weights)
    return TransformersModel(same.eval(), model.tokenizer)


def heal(model: TransformersModel, rows: torch.Tensor) -> None:
    """Train on next tokens, each row once: AdamW, a tenth of the steps to warm up, then a cosine to a tenth."""
    optimiser = torch.optim.AdamW(model.model.parameters(), lr=HEAL_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    batches = torch.split(rows, HEAL_ROWS)
    warm = max(1, len(batches) // 10)
    for step, batch in enumerate(batches):
        share = (
            (step + 1) / warm if step < warm else 0.55 + 0.45 * np.cos(np.pi * (step - warm) / (len(batches) - warm))
        )
        optimiser.param_groups[0]["lr"] = HEAL_RATE * share
        with torch.autocast("cpu", torch.bfloat16):
            states = model.model.base_model(input_ids=batch, use_cache=False).last_hidden_state
            logits = states[:, :-1].flatten(0, 1) @ model.head.weight.T
        loss = F.cross_entropy(logits.float(), batch[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.model.parameters(), 1.0)
        optimiser.step()


def interval(difference: Any, replicates: int = 5000) -> tuple[float, float]:
    """Return the 95 % interval of the mean over [draws, documents], both drawn anew in every replicate."""
    generator = np.random.default_rng(0)
    draws, documents = difference.shape
    means = [
        difference[generator.integers(draws, size=draws)][:, generator.integers(documents, size=documents)].mean()
        for _ in range(replicates)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
