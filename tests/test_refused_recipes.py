"""Settings that do not go together: `check` and `run` name the key and the remedy before anything is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_testing.tiny_models import save_tiny

PAGE = Path(__file__).resolve().parent.parent / "docs" / "losses.md"
SAMPLED, ON_POLICY = {"use": "sampled"}, {"fraction": 0.5, "tokens": 12}
PAIRS = {"corpus": {"use": "jsonl", "files": ["pairs.jsonl"]}, "rows": {"use": "pairs", "length": 96}}
TWO = {name: {"use": "causal-lm", "model": name.upper(), "dtype": "float32"} for name in ("teacher", "second")}
LATER = {"use": "on-metric", "watch": "forward-k", "below": 1.0, "change": "ce"}
NEEDS_LOGITS = r"needs logits, but the signals \(sampled\) offers sampled"
PROMPTS = {
    "corpus": {"use": "jsonl", "files": ["prompts.jsonl"]}, "rows": {"use": "packed", "length": 128, "room": 40},
    "teacher.model": "MARKED", "trainer.on_policy": {"fraction": 1, "tokens": 40}, "signals": False,
}  # fmt: skip
"""Rows of prompts without answers."""


def losses(*names: str, **more: Any) -> dict[str, Any]:
    """Return settings of a phase with these losses."""
    return {"train": {"losses": {name: {} for name in names}, "steps": 3, **more}}


Change = dict[str, Any]
REFUSED: dict[str, tuple[Change, str]] = {
    **{
        f"{name} of drawn tokens": ({**losses(name), "signals": SAMPLED}, f"{name}: {NEEDS_LOGITS}")
        for name in ("reverse-kl", "jsd", "skew-kl", "skew-reverse-kl", "adaptive-kl", "tvd")
    },
    "drawn tokens at two temperatures": (
        {
            "train": {"losses": {"forward-kl": {"temperature": 2.0}, "other": {"use": "forward-kl"}}, "steps": 3},
            "signals": SAMPLED,
        },
        r"other: works at temperature 1, but a teacher's tokens",
    ),
    "mixture of top-k tokens": (
        {
            "teacher": None, "teachers": TWO, "student.source": "teachers.teacher", "signals": {"use": "top-k"},
            "train": {"losses": {"forward-kl": {"teacher": {"teacher": 0.6, "second": 0.4}}}, "steps": 3},
        },
        "outside its top k is not known, and the mixture needs it",
    ),
    "schedule on an unknown loss": (
        losses("forward-kl", "ce", weightings={"later": LATER}),
        r"later: names the loss 'forward-k', which is not in phase 'train'\n.*did you mean 'forward-kl'",
    ),
    "on-policy text of recorded signals": (
        {**losses("contrastive"), "trainer.on_policy": ON_POLICY},
        r"trainer\.on_policy.*`signals` cannot have recorded",
    ),
    "contrastive without on-policy text": (
        {**losses("contrastive"), "signals": False},
        r"train\.losses\.contrastive.*set `trainer\.on_policy`",
    ),
    "on-policy text without a teacher": (
        {**losses("ce"), "signals": False, "trainer.on_policy": ON_POLICY},
        r"trainer\.on_policy.*no loss of this phase learns from a teacher",
    ),
    "on-policy text in other tokens": (
        {
            **losses("uld"), "signals": False, "trainer.on_policy": ON_POLICY, "control": False,
            "student": {"use": "pretrained", "model": "OTHER"},
        },
        r"uld.*needs teacher to score on-policy text",
    ),
    "control on prompts": (
        {**PROMPTS, **losses("jsd", "ce"), "control": "tokens"},
        r"control: learns without a teacher[^`]*set `control: false`",
    ),
    "preference in packed rows": (
        {**losses("preference"), "control": False},
        r"losses\.preference: requires column 'rejected', .*\n.*use rows",
    ),
    "preference on-policy": (
        {**PAIRS, **losses("preference"), "signals": False, "trainer.on_policy": ON_POLICY, "control": False},
        r"losses\.preference: learns only from rows of the corpus.*\n.*`train\.trainer\.on_policy: null`",
    ),
    "preference without pairs": (
        {**losses("preference"), "rows": PAIRS["rows"], "control": False, "signals": False},
        r"pairs needs preferences, .* is not one",
    ),
    "vocabulary of bytes": (
        {"student": {"use": "pretrained", "model": "BYTES"}},
        "forward-kl: compares token by token, but the student has 257 tokens and teacher 512; "
        "the first ids with different tokens: 0 is ",
    ),
    "vocabulary of other merges": (
        {"student": {"use": "pretrained", "model": "OTHER"}},
        "forward-kl: compares token by token, but the student has 600 tokens and teacher 512; "
        "the first 512 are the same, but they split texts differently",
    ),
    "rows longer than the student reads": (
        {"student": {"use": "pretrained", "model": "SHORT"}, **losses("ce"), "teacher": None, "control": False},
        r"rows: makes rows of 64 tokens, but student reads 32 at most\n.*length to 32 or less",
    ),
    "rows longer than the teacher reads": (
        {"teacher.model": "SHORT", "student": {"use": "pretrained", "model": "BYTES"}},
        "rows: makes rows of 64 tokens, but teacher reads 32 at most",
    ),
    "infilling without marks": (
        {"rows.fim": {"rate": 0.7}},
        r"rows\.fim: the student's tokenizer lacks tokens",
    ),
    "validation by an unknown evaluator": (
        {"trainer.validation": {"evaluators": ["perplexty"]}},
        r"asks the evaluator 'perplexty'.*\n.*perplexity",
    ),
    "watching an unknown measurement": (
        {"trainer.validation": {"evaluators": ["perplexity"], "watch": "humaneval.pass@1"}},
        "watch names a measurement of perplexity",
    ),
    "control with other steps": (
        {"control": {"match": "tokens", "trainer": {"batch": 4}}},
        "control: it would train on 4 rows per step in phase 'train', the student on 2",
    ),
    "two passes without dropout": (losses("consistency"), "consistency: compares two passes of the student"),
    "balance without experts": (losses("ce", "router-balance"), "balances experts, but the student has none"),
    "muon with divided weights": (
        {"optimizer": "muon", "trainer.sharding": "full"},
        r"sharding: full .*muon.* needs whole weights; set sharding: off",
    ),
    "sources without a folder": (
        {"corpus": {"use": "python-source", "folder": "nowhere"}}, "folder: no such folder: {here}/nowhere"
    ),
    "lines without a file": ({"corpus": {"use": "jsonl", "files": ["no.jsonl"]}}, "files: no such file: {here}/no.jsonl"),
    "table without a file": (
        {"corpus": {"use": "hub", "files": ["no.csv"], "text_column": "text"}}, "files: no such file: {here}/no.csv"
    ),
    "answers without prompts": (
        {"corpus": {"use": "answers", "prompts": ["no.jsonl"]}}, "prompts: no such file: {here}/no.jsonl"
    ),
    "problems without a file": ({"corpus": {"use": "mbpp", "file": "no.jsonl"}}, "file: no such file: {here}/no.jsonl"),
}  # fmt: skip
"""Changes of the small recipe, and the words of the error."""
IN_TRAINING = {"two passes without dropout", "muon with divided weights"}
"""What a run finds only when it begins to train."""


@pytest.fixture
def change(
    recipe: dict[str, Any],
    teacher_folder: Path,
    other_teacher_folder: Path,
    second_folder: Path,
    marked_teacher_folder: Path,
    shared_store: Path,
) -> Callable[[Change], dict[str, Any]]:
    """Return a function that changes the small recipe at dotted keys, next to the files that changes name."""
    save_tiny(Path("bytes"))
    save_tiny(Path("short"), max_position_embeddings=32)
    pair = {"prompt": "def f(x):\n", "chosen": "    return x\n", "rejected": "    raise\n"}
    Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for _ in range(24)), encoding="utf-8")
    prompts = [{"prompt": f"def add_{number}(x):\n"} for number in range(24)]
    Path("prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in prompts), encoding="utf-8")
    folders = {"TEACHER": teacher_folder, "OTHER": other_teacher_folder, "SECOND": second_folder}
    folders |= {"MARKED": marked_teacher_folder, "BYTES": Path("bytes").absolute(), "SHORT": Path("short").absolute()}

    def changed(changes: Change) -> dict[str, Any]:
        text = json.dumps(changes)
        for name, folder in folders.items():
            text = text.replace(f'"{name}"', json.dumps(str(folder)))
        for key, value in json.loads(text).items():
            section, _, last = key.rpartition(".")
            (recipe[section] if section else recipe)[last] = value
        return recipe

    return changed


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_before_anything_is_made(name: str, change: Callable[[Change], dict[str, Any]]) -> None:
    changes, words = REFUSED[name]
    refused = change({"evaluators": {"perplexity": {"limit": 2}}, **changes})
    in_order = words.replace("{here}", str(Path.cwd()))
    for act in (kdtool.check, kdtool.run):
        if act is kdtool.check and name == "preference without pairs":
            continue  # the text is not known yet
        with pytest.raises(kdtool.KdtoolError, match=f"(?s){in_order}"):
            act(refused)
    assert name in IN_TRAINING or not list(Path("runs").glob("*/phases"))


ACCEPTED: dict[str, Change] = {
    "two passes with dropout": losses("consistency", transforms={"lora": {"dropout": 0.1}}),
    "control with another rate": {"control": {"match": "tokens", "trainer": {"learning_rate": 1e-3}}},
    "across vocabularies": {**losses("uld"), "student": {"use": "pretrained", "model": "OTHER"}, "control": False},
    "preference in its own phase": {
        "signals": False, "trainer.on_policy": ON_POLICY, "control": False,
        "train": {
            "distil": {"losses": {"forward-kl": {}}, "steps": 3},
            "prefer": {**PAIRS, "losses": {"preference": {}}, "steps": 3, "trainer": {"on_policy": None}},
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_a_refusal_proposes_is_accepted(name: str, change: Callable[[Change], dict[str, Any]]) -> None:
    kdtool.check(change(ACCEPTED[name]))


ELSEWHERE = {"preference", "contrastive", "consistency", "router-balance"}
"""Losses that need pairs, the student's own text, dropout, or experts."""


def test_no_loss_is_refused_with_a_transform(change: Callable[[Change], dict[str, Any]]) -> None:
    """A transform is refused for its own reasons only; docs/losses.md lists all that are installed."""

    def problem(names: list[str], transform: str) -> str:
        try:
            kdtool.check(change({"signals": False, **losses(*names, transforms={transform: {}})}))
        except kdtool.KdtoolError as error:
            return str(error)
        return ""

    names = sorted({point.name for point in entry_points(group="kdtool.losses")} - ELSEWHERE)
    table = PAGE.read_text(encoding="utf-8").partition("## Losses with transforms")[2].partition("\n## ")[0]
    for transform in sorted(point.name for point in entry_points(group="kdtool.transforms")):
        assert f"| `{transform}` |" in table
        assert problem(names, transform) == problem(["ce"], transform), transform
