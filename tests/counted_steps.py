"""How often a training step makes a GPU wait, counted on the CPU, for every loss, transform and weighting.

`python tests/counted_steps.py` writes the table of docs/benchmarks/gpu.md, which `test_counted_syncs.py` compares.
"""

from __future__ import annotations

import random
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import kdtool
import torch
import torch.nn.functional as F
from counted_syncs import CountedSyncs
from kdtool_testing import ByteTokenizer, ListSource, make_run
from kdtool_testing.tiny_models import tiny_model
from kdtool_torch.trainer import StandardTrainer
from kdtool_transformers.attention import replace_attention
from reference_model import Describing, Source, installed_losses
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from transform_training import VOCABULARY, change, kernels_for_a_gpu, make_transform, transforms

LENGTH, LAYERS = 32, 3
IN_MAIN_MEMORY = ("collate", "compute_on_host", "count_targets")
"""Functions whose values never reach a GPU."""

REFUSE_EXPERTS = {"gguf-grid", "liger"}
"""Transforms that refuse students with experts."""
MICRO_BATCHES = 2
PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "gpu.md"
BEGIN, END = "<!-- reads: begin -->\n", "<!-- reads: end -->\n"


def rows(rejected: bool) -> ListSource:
    rng, made = random.Random(0), []
    for index in range(12):
        cut, end = rng.randint(8, 16), LENGTH - rng.randint(0, 4)
        document = [0 if i < cut else 1 if i < end else -1 for i in range(LENGTH)]
        columns = {
            "student_generated": [0] * LENGTH,
            "byte_start": [max(0, i - 1) for i in range(LENGTH)],
            "byte_end": list(range(LENGTH)),
            "syntax": [i % 3 for i in range(LENGTH)],
        }
        if rejected:
            columns["rejected"] = [int(i % 4 == 0) for i in range(LENGTH)]
        ids = [rng.randrange(257) for _ in range(LENGTH)]
        labelled = [number >= 0 for number in document]
        made.append(kdtool.Row(f"row{index}", ids, labelled, document, columns))
    return ListSource(made)


def losses() -> dict[str, tuple[kdtool.Loss, kdtool.LossTerm]]:
    """Return every installed loss, once for each form of signal that it accepts, with its term."""
    facts, found = tiny_model(layers=LAYERS).facts, {}
    for name, form, loss, term in installed_losses(facts, facts, tokenizer=ByteTokenizer()):
        label = name if form == "dense" else f"{name}-{form}"
        found[label] = loss, replace(term, name=f"losses.{label}", label=label)
    return found


def family_for(*terms: kdtool.LossTerm) -> str:
    """Return the family of models for terms: one with experts if a term balances them."""
    return "mixtral" if any(term.routing for term in terms) else "llama"


def in_own_tokens(labels: tuple[str, ...], data: Any) -> dict[str, Any]:
    """Return data by teacher, as if it read other tokens, where a loss works across vocabularies."""
    losses = [LOSSES[label][0] for label in labels]
    across = any(isinstance(loss, kdtool.SequenceLoss) and not loss.same_vocabulary for loss in losses)
    return {"dense": data} if across else {}


def weightings() -> dict[str, Any]:
    """Return every installed weighting that needs no measurement."""
    points = entry_points(group="kdtool.weightings")
    return {point.name: point.load() for point in sorted(points) if point.name != "on-metric"}


LOSSES, WEIGHTINGS = losses(), weightings()


def attend(
    documents: Any, query: Tensor, key: Tensor, value: Tensor, window: int | None, dropout: float, scale: float, _: Any
) -> Tensor:
    """Compute attention as on a GPU: from the documents' lengths, and by a kernel that reads no values."""
    documents.lengths()
    keys, values = (states.repeat_interleave(query.shape[1] // states.shape[1], dim=1) for states in (key, value))
    mask = documents.mask(window)
    return F.scaled_dot_product_attention(query, keys, values, mask, dropout, scale=scale).transpose(1, 2)


def reads(
    folder: Path, labels: tuple[str, ...], weighting: Any = None, transform: str | None = None, norms: bool = False
) -> Counter[str]:
    """Train three steps and return the reads of the third, from one change of the weights to the next.

    `norms`: gradient norms are measured at each step.
    """
    terms = tuple(LOSSES[label][1] for label in labels)
    shape: dict[str, Any] = {"layers": LAYERS, "vocabulary": VOCABULARY, "family": family_for(*terms)}
    student, teacher = (tiny_model(seed=seed, attention_dropout=0.1 - seed / 10, **shape) for seed in (0, 1))
    student.model.train()
    components: dict[str, kdtool.Component] = {LOSSES[label][1].name: LOSSES[label][0] for label in labels}
    if weighting is not None:
        components["weightings.one"] = weighting(weighting.Config())
    kinds = frozenset(kind for term in terms for need in term.needs for kind in need)
    layers = tuple(sorted({theirs for term in terms for _, theirs in term.layers}))
    signals = {}
    for form in {term.teacher for term in terms if term.teacher}:
        components[form] = describing = Describing(Describing.Config())
        describing.facts = teacher.facts
        signals[form] = Source(teacher, kdtool.SignalRequest(kinds, layers), form)
    data = rows("preference" in labels)
    phase = kdtool.Phase(
        "counted", 4, terms, data, signals, folder / "checkpoints", teacher_rows=in_own_tokens(labels, data),
        gradient_norms=getattr(weighting, "gradient_norms", False),
    )  # fmt: skip
    trainer = StandardTrainer(
        StandardTrainer.Config(
            batch=1, accumulation=MICRO_BATCHES, dtype="float32", compile="off", log_every=1000, checkpoint_every=1000,
            gradient_norms_every=1 if norms else 1000,
        )
    )  # fmt: skip
    run = make_run(folder / "run", components, say=lambda _: None)
    kernels = kernels_for_a_gpu() if transform else nullcontext()
    with kernels, CountedSyncs(IN_MAIN_MEMORY) as counted, after_steps(counted) as steps, replace_attention(attend):
        _begun, student = change(make_transform(transform), student, run) if transform else (None, student)
        trainer.kdtool_train(run, phase, student)
    return steps[2] - steps[1]


@contextmanager
def after_steps(counted: CountedSyncs) -> Iterator[list[Counter[str]]]:
    """Collect the reads up to each change of the weights."""
    steps: list[Counter[str]] = []
    handle = register_optimizer_step_post_hook(lambda *_: steps.append(Counter(counted.lines)))
    try:
        yield steps
    finally:
        handle.remove()


def columns() -> list[str | None]:
    """Return the transforms of the table; None for none."""
    return [None, *transforms()]


def trains(label: str, transform: str | None) -> bool:
    """Return whether the student of a loss can have a transform."""
    return transform not in REFUSE_EXPERTS or not LOSSES[label][1].routing


def make_table() -> str:
    """Return the table of reads: losses by transforms."""
    lines = ["| loss | " + " | ".join(f"`{name}`" if name else "none" for name in columns()) + " |"]
    lines.append("|---" * (len(columns()) + 1) + "|")
    for label in LOSSES:
        with tempfile.TemporaryDirectory() as folder:
            counts = [
                reads(Path(folder) / str(name), (label,), transform=name, norms=True).total()
                if trains(label, name)
                else "-"
                for name in columns()
            ]
        lines.append(f"| `{label}` | " + " | ".join(map(str, counts)) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def documented() -> dict[tuple[str, str | None], int]:
    """Return the table's figures, by loss and transform."""
    table = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    first, _, *lines = [re.findall(r"[\w-]+", line) for line in table.splitlines()]
    names = [None if name == "none" else name for name in first[1:]]
    cells = ((row[0], name, count) for row in lines for name, count in zip(names, row[1:], strict=True))
    return {(label, name): int(count) for label, name, count in cells if count != "-"}


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + make_table() + END + rest.partition(END)[2], encoding="utf-8")
