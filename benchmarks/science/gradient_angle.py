"""How exact is the gradient of a few stored tokens, and at how many bytes? Draws of two designs, and top-k, by student.

    python benchmarks/science/gradient_angle.py [--mode hour|night] [--out FOLDER]

Stated with the script, which was committed together with its first results: exploratory, not pre-registered.

Hypothesis. (1) Summed over 2,048 tokens, systematic draws give the angle of about twice as many independent draws. (2) The
angle that RS-KD has with 12 different tokens a position (about 42 independent draws) costs at most 18 bytes a token.
(3) Top-k of as many bytes has a larger angle, since its bias does not average out. (4) The order is the same for a fresh, a
half-trained and a trained student.
Measure. The angle in degrees between two gradients by the logits, each summed over the 2,048 positions of a block: forward
KL's on all logits, and that of the loss on what was stored. Bytes are those of kdtool-torch' rows of 512. Five
blocks of held-out files, three students; the median over the fifteen.
Stopping rule. Every design once on every block and student, draws seeded by row; nothing is repeated or left out.

Teacher SmolLM2-135M; students are ten of its layers: as cut, after a third of the training, and after all of it (forward KL
on Python's standard library). `night` trains ten times as long. What is done is kept in the folder: a second call goes on.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import kdtool
import torch
from kdtool_loss_divergences import forward_kl, sampled_forward_kl, top_k_forward_kl
from kdtool_student_pruned import Pruned
from kdtool_torch import NO_LABEL, collate
from kdtool_torch.caches.codec import encode
from kdtool_torch.caches.tokens import STEP, SampledTargets, TokenTargets, TopKTargets
from kdtool_transformers import TransformersModel, open_model
from setting import logits, recipe, run_with_teacher, teacher_of
from study import JsonLines, command_line, written
from torch import Tensor

BLOCKS, ROWS, LENGTH = 5, 4, 512
STEPS = {"hour": 300, "night": 3000}
PUBLISHED = 12
"""Different tokens a position in RS-KD's main setting."""


class Design(NamedTuple):
    """The stored part of a position: a kind and a number."""

    kind: str
    size: int

    def recording(self) -> TokenTargets:
        """Return the cache's own code for it."""
        if self.kind == "top-k":
            return TopKTargets(1.0, self.size)
        return SampledTargets(1.0, self.size, systematic=self.kind == "systematic")


DESIGNS = [
    *(Design("systematic", size) for size in (8, 12, 16, 20, 25, 32, 42, 50, 100)),
    *(Design("independent", size) for size in (12, 25, 42, 50, 100)),
    *(Design("top-k", size) for size in (4, 12, 25, 50, 100)),
]


class Bench:
    """Teacher, students, held-out blocks, and the figures so far."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.steps = folder, steps
        self.found = JsonLines(folder / f"gradient_angle_{steps}.jsonl")
        self.run = run_with_teacher(folder, "float32")
        self.teacher = teacher_of(self.run)
        self.blocks = list(blocks(self.teacher, self.run.texts.examples("test")))

    def students(self) -> Iterator[tuple[str, Callable[[], TransformersModel]]]:
        """Yield the students by name; each is made when it is called for."""
        yield "fresh", self._fresh
        yield "half-trained", lambda: open_model(self._trained(self.steps // 3), dtype=torch.float32)
        yield "trained", lambda: open_model(self._trained(self.steps), dtype=torch.float32)

    def measure(self) -> list[dict[str, Any]]:
        """Return all figures, from the file or measured."""
        for name, make in self.students():
            missing = [index for index in range(BLOCKS) if not self.found.where(student=name, block=index)]
            student = make() if missing else None
            for index in missing:
                assert student is not None
                found = angles(self.teacher, student, self.blocks[index])
                self.found.add(*({"student": name, "block": index, **figures} for figures in found))
                print(f"{name}, block {index + 1} of {BLOCKS}", flush=True)
        return self.found.where()

    def _fresh(self) -> TransformersModel:
        student = Pruned(Pruned.Config(layers=10)).kdtool_build_student(self.run)
        assert isinstance(student, TransformersModel)
        return student

    def _trained(self, steps: int) -> Path:
        settings = recipe(tokens=262144, steps=steps, train={"losses": {"forward-kl": {}}})
        settings["trainer"]["batch"] = 4
        settings["name"] = f"gradient-angle-{steps}"
        return kdtool.run(settings, out=self.folder, store=self.folder / "store").arms[0].path


def blocks(teacher: TransformersModel, examples: Iterable[kdtool.Example]) -> Iterator[list[kdtool.Row]]:
    """Yield blocks of rows of held-out text, each with `LENGTH` labels."""
    ids: list[int] = []
    for example in examples:
        if isinstance(example.body, kdtool.Text):
            ids += [*teacher.tokenizer.encode(example.body.text), teacher.tokenizer.end_of_text]
    size = LENGTH + 1
    for block in range(BLOCKS):
        starts = [(block * ROWS + row) * size for row in range(ROWS)]
        yield [kdtool.Row(f"row {s}", ids[s : s + size], [True] * size, [0] * size) for s in starts]


def angles(teacher: TransformersModel, student: TransformersModel, rows: list[kdtool.Row]) -> Iterator[dict[str, Any]]:
    """Yield every design's bytes and different tokens a position, and its angle, for one block."""
    whole = torch.zeros(teacher.head.vocabulary)
    stored = {design: torch.zeros_like(whole) for design in DESIGNS}
    bytes_of, unique_of = dict.fromkeys(DESIGNS, 0), dict.fromkeys(DESIGNS, 0)
    for row in rows:
        batch = collate([row])
        labels = batch.labels[batch.labels != NO_LABEL]
        z, p = (logits(model, batch) for model in (student, teacher))
        whole += gradient(z, lambda leaf, p=p: forward_kl(leaf, p))  # type: ignore[misc]
        for design in DESIGNS:
            kept = design.kept()
            (((ids, numbers),),) = kept.select(row.key, len(z), iter([(slice(0, len(z)), p.softmax(-1))]))
            bytes_of[design] += len(encode(ids.numpy(), numbers.numpy(), labels.numpy(), kept.total))
            unique_of[design] += int((ids >= 0).sum())
            stored[design] += gradient(z, loss_of(design, ids, numbers))
    tokens = len(rows) * LENGTH
    for design in DESIGNS:
        cosine = float(torch.cosine_similarity(whole, stored[design], dim=0).clamp(-1, 1))
        yield {
            **design._asdict(),
            "bytes": bytes_of[design] / tokens,
            "unique": unique_of[design] / tokens,
            "angle": math.degrees(math.acos(cosine)),
        }


def loss_of(design: Design, ids: Tensor, numbers: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the loss on what is stored, as kdtool trains with it."""
    if design.kind == "top-k":
        weights = torch.where(ids >= 0, ((1 - numbers) * STEP).float().exp(), 0.0)
        return lambda leaf: top_k_forward_kl(leaf, ids, weights)
    return lambda leaf: sampled_forward_kl(leaf, ids, numbers / design.size)


def gradient(z: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the loss's gradient by the logits, summed over positions, [V]."""
    leaf = z.detach().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    return found.sum(0)


def summary(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a line a design: what it keeps, and the median angle over blocks and students, and of each student."""
    students = list(dict.fromkeys(line["student"] for line in found))
    lines = []
    for design in DESIGNS:
        own = [line for line in found if (line["kind"], line["size"]) == design]
        of = {name: [line["angle"] for line in own if line["student"] == name] for name in students}
        lines.append(
            {
                **design._asdict(),
                "unique": round(statistics.mean(line["unique"] for line in own), 2),
                "bytes": round(statistics.mean(line["bytes"] for line in own), 2),
                "angle": round(statistics.median(line["angle"] for line in own), 3),
                "students": {name: round(statistics.median(angles), 3) for name, angles in of.items()},
            }
        )
    return lines


def table(lines: list[dict[str, Any]]) -> str:
    """Return the summary as a Markdown table."""
    students = list(lines[0]["students"])
    text = ["| stored | different tokens | bytes a token | angle | " + " | ".join(students) + " |"]
    text.append("|---" * (4 + len(students)) + "|")
    for line in lines:
        angles = " | ".join(f"{line['students'][name]:.2f}" for name in students)
        stored = f"{line['kind']} {line['size']}"
        text.append(f"| {stored} | {line['unique']:.1f} | {line['bytes']:.1f} | {line['angle']:.2f} | {angles} |")
    return "\n".join(text)


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw angle against bytes, a line a kind."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for kind in dict.fromkeys(design.kind for design in DESIGNS):
        own = [line for line in lines if line["kind"] == kind]
        axes.plot([line["bytes"] for line in own], [line["angle"] for line in own], marker="o", label=kind)
        for line in own:
            place = line["bytes"], line["angle"]
            axes.annotate(str(line["size"]), place, textcoords="offset points", xytext=(4, 4), fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="bytes a token", ylabel="angle to the full gradient, degrees")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure what is missing, print the table, write JSON and the plot."""
    options = command_line(__doc__, STEPS, "gradient-angle").parse_args()
    lines = summary(Bench(options.out, STEPS[options.mode]).measure())
    print(table(lines))
    written(json.dumps(lines, indent=1), options.out / "gradient_angle.json")
    plot(lines, options.out / "gradient_angle.png")


if __name__ == "__main__":
    main()
