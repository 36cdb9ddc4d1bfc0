"""A run with a control on the student's own samples and a reference with another tokenizer, on tiny models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_essentials.gate import decide
from kdtool_measuring import seed_of

pytestmark = pytest.mark.slow

TEMPERATURE, TOP_P = 0.7, 0.9


def test_own_samples_and_a_reference(recipe: dict[str, Any], other_teacher_folder: Path) -> None:
    kept = {key: recipe[key] for key in ("name", "teacher", "corpus", "signals", "student", "trainer", "train")}
    compared = {
        **kept,
        "rows": {"use": "packed", "length": 64, "maximum_tokens": 768},
        "control": {"self": {"temperature": TEMPERATURE, "top_p": TOP_P}},
        "reference": {"use": "causal-lm", "model": str(other_teacher_folder), "dtype": "float32"},
        "evaluators": {"perplexity": {"documents": 8, "characters": 300}},
        "reporter": "html",
    }
    planned = {stage.name for stage in kdtool.plan(compared)}
    assert {"rows/self-train", "phases/control-self-seed0-train", "scores/perplexity-reference"} <= planned
    found = kdtool.check(compared)
    assert "the time to sample as many tokens" in str(found)

    results = kdtool.run(compared)
    against = {(pair.against, pair.measurement) for pair in results.comparisons if pair.arm == "student"}
    assert against >= {
        ("control-self", "perplexity"),
        ("control-self", "bits-per-byte"),
        ("reference", "bits-per-byte"),
    }
    assert ("reference", "perplexity") not in against, "tokens of another tokenizer"
    assert "perplexity: student and reference are not compared, they were measured in different ways: tokenizer" in (
        results.notes
    )
    assert "Against the same student tuned on its own samples, on about as many tokens, the distilled student is " in (
        results.verdict
    )
    assert "Against the reference, an existing model, the distilled student is " in results.verdict
    page = (results.folder / "report.html").read_text(encoding="utf-8")
    for words in ("against self-distillation at equal tokens", "Against the reference, an existing model", "Reference"):
        assert words in page
    assert [each.against for each in decide(results, ["bits-per-byte"]).compared] == [
        "control", "control-self", "reference",
    ]  # fmt: skip
    tokens = {arm.arm: arm.phases["train"].tokens for arm in results.arms}
    steps = {arm.arm: arm.phases["train"].steps for arm in results.arms}
    assert tokens["control"] == tokens["student"]
    assert tokens["control-self"] == pytest.approx(
        tokens["student"], abs=tokens["control-self"] / steps["control-self"]
    )
    _check_samples({stage.name: stage.path for stage in results.stages})


def _check_samples(paths: dict[str, Path]) -> None:
    """Rows hold samples that the untrained student gives at the recipe's temperature, and at no other."""
    lines = (paths["rows/self-train"] / "self-samples.jsonl").read_bytes().splitlines(keepends=True)
    stored = {sample["id"]: sample for sample in filter(None, map(kdtool.unseal_line, lines))}
    read = map(json.loads, (paths["text"] / "train.jsonl").read_text(encoding="utf-8").splitlines())
    texts = {example["id"]: example["text"] for example in read}
    with kdtool.open_models(paths["students"] / "model") as models, models.open(next(iter(models.subjects))) as student:
        assert student.tokenizer is not None
        prompts: dict[str, str] = {}
        for prompt, completion in _documents(paths["rows/self-train"], student.tokenizer):
            if any(text.startswith(prompt) for text in texts.values()):  # else it continues a sample of the row before
                prompts[_find(completion, prompt, stored, texts)] = prompt
        assert len(prompts) > 3
        for temperature, equal in ((TEMPERATURE, True), (1.4, False)):
            requests = [
                kdtool.Request(
                    name,
                    prompt,
                    stored[name]["tokens_out"],
                    temperature=temperature,
                    top_p=TOP_P,
                    seed=seed_of(0, name),
                )
                for name, prompt in prompts.items()
            ]
            same = [answer.text == stored[answer.id]["text"] for answer in student.answer(requests)]
            # a batch of another size rounds differently, which decides a token now and then
            assert sum(same) > len(same) // 2 if equal else not any(same)


def _find(completion: bytes, prompt: str, stored: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    """Return the id of the sample after this prompt that begins with these bytes, the end of the row at most."""
    return next(
        name
        for name, sample in stored.items()
        if texts[name.rpartition("#")[0]].startswith(prompt) and sample["text"].encode().startswith(completion)
    )


def _documents(folder: Path, tokenizer: kdtool.Tokenizer) -> Iterator[tuple[str, bytes]]:
    """Yield prompt and completion of each document of the rows: its tokens without and with labels."""
    from safetensors.numpy import load_file

    rows = load_file(folder / "rows-00000.safetensors")
    for ids, labelled, document in zip(rows["input_ids"], rows["labelled"], rows["document"], strict=True):
        for number in sorted(set(document.tolist())):
            of_flag = [ids[(document == number) & (labelled == flag)].tolist() for flag in (0, 1)]
            prompt, completion = (b"".join(tokenizer.pieces(found)) for found in of_flag)
            if completion:
                yield prompt.decode(errors="replace"), completion
