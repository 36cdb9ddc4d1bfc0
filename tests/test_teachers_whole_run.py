"""Whole runs with several teachers, with teachers of other vocabularies, and with a few stored tokens of a teacher."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing.tiny_models import save_code_llama_tokenizer, tiny_config
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from whole_runs import apart, rows_of, values, without

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_store")]

SHARES = {"one": 0.6, "two": 0.4}
ROUTED = {"use": "routed", "teachers": {"teachers.one": ["python"], "teachers.two": ["*"]}}
ALONE = {"train.losses.forward-kl.teacher": "one", "name": "alone"}


@pytest.fixture
def short(recipe: dict[str, Any]) -> dict[str, Any]:
    """Four steps of one student beside its teacher."""
    recipe["train"] = {"losses": {"forward-kl": {"temperature": 2.0}, "ce": {"weight": 0.5}}, "steps": 4}
    return without(recipe, "control", "evaluators", "exporters", "reporter", "trackers", "signals")


@pytest.fixture
def mixed(short: dict[str, Any], second_folder: Path) -> dict[str, Any]:
    """The student learns from two teachers at once."""
    teacher = short.pop("teacher")
    short["teachers"] = {"one": teacher, "two": {**teacher, "model": str(second_folder)}}
    short["student"]["source"] = "teachers.one"
    short["train"]["losses"]["forward-kl"]["teacher"] = SHARES
    return short


@pytest.fixture
def routed(mixed: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Documents in two languages, packed into common rows, each language with its teacher."""
    mixed["teachers"]["both"] = ROUTED
    mixed["train"]["losses"] = {"forward-kl": {"teacher": "both"}}
    return {**mixed, "corpus": write_text(tmp_path, ["python", "rust"])}


def write_text(folder: Path, languages: list[str]) -> dict[str, Any]:
    """Write documents in these languages in turn, and return the corpus."""
    lines = [
        {"text": f"def f{at}(x):\n    return x + {at}\n" * 3, "language": languages[at % len(languages)]}
        for at in range(60)
    ]
    lines += [{"text": "x = 1\n" * 40, "language": "python", "split": split} for split in ("validation", "test")]
    (folder / "text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return {"use": "jsonl", "files": [str(folder / "text.jsonl")]}


@pytest.mark.parametrize(
    ("kind", "recorded_of", "note"),
    [
        (
            "mixed",
            {"teachers.one", "teachers.two"},
            r"forward-kl learns from a mixture: teachers\.one 60 %, .*two 40 %",
        ),
        ("routed", {"train-teachers.both"}, ""),
    ],
)
def test_recorded_signals_and_teachers_beside_the_student_train_the_same(
    kind: str, recorded_of: set[str], note: str, request: pytest.FixtureRequest
) -> None:
    recipe = request.getfixturevalue(kind)
    beside = kdtool.run(recipe)
    recorded = kdtool.run({**recipe, "name": "recorded", "signals": {"use": "states"}})
    assert apart(beside, recorded) < 1e-5
    stages = {stage.name for stage in recorded.stages if stage.name.startswith("signals")}
    assert stages == {f"signals/{name}" for name in recorded_of}
    for results in (beside, recorded):
        assert not note or [found for found in results.notes if re.search(note, found)], results.notes
    assert beside.arms[0].histories["train"][0].terms["forward-kl"].gradient_norm
    assert apart(beside, kdtool.run(recipe, ALONE)) > 1e-3, "the second teacher counts"


@pytest.mark.parametrize(("kind", "most"), [("mixed", 2e-4), ("routed", 1e-6)])  # AdamW makes more of rounding
def test_several_teachers_that_are_one_train_as_it_does(
    kind: str, most: float, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    recipe = request.getfixturevalue(kind)
    if kind == "mixed":
        copied = shutil.copytree(recipe["teachers"]["one"]["model"], tmp_path / "copy")
        recipe["teachers"]["two"]["model"] = str(copied)
    else:
        recipe["corpus"] = write_text(tmp_path, ["python"])
    assert apart(kdtool.run(recipe), kdtool.run(recipe, ALONE)) < most


def test_drawn_tokens_of_a_mixture_estimate_its_divergence(mixed: dict[str, Any]) -> None:
    mixed["train"]["losses"] = {"forward-kl": {"teacher": SHARES}, "ce": {"weight": 0.5}}
    drawn, dense = (
        kdtool.run({**mixed, "name": name, "signals": signals}).arms[0].histories["train"][0].terms["forward-kl"].value
        for name, signals in (("drawn", {"use": "sampled"}), ("dense", False))
    )
    # Cross-entropy with drawn tokens is forward KL and the mixture's entropy, at most log 512.
    assert 0.8 * math.log(512) < drawn - dense < 1.02 * math.log(512)


@pytest.mark.parametrize("signals", [False, {"use": "states"}])
def test_a_change_of_a_routed_teacher_trains_again(routed: dict[str, Any], signals: Any) -> None:
    first, second = (
        {stage.name: str(stage.path) for stage in kdtool.plan({**routed, "signals": signals}, changes)}
        for changes in ({}, {"teachers.two.dtype": "bfloat16"})
    )
    assert first["rows/train"] == second["rows/train"]
    assert first["phases/student-seed0-train"] != second["phases/student-seed0-train"]


def test_the_student_s_own_text_has_the_teacher_of_its_prompt(routed: dict[str, Any], tmp_path: Path) -> None:
    routed["trainer"]["on_policy"] = {"fraction": 1.0, "tokens": 8}
    routed["corpus"] = write_text(tmp_path, ["rust", "rust", "rust", "c"])
    routed["teachers"]["both"] = {**ROUTED, "teachers": {"teachers.one": ["c"], "teachers.two": ["*"]}}
    both, one, two = (
        kdtool.run(routed, {"train.losses.forward-kl.teacher": name, "name": name}) for name in ("both", "one", "two")
    )
    assert apart(both, one) > 1e-4
    assert apart(both, two) > 1e-4


@pytest.fixture(scope="module")
def longer_folder(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small teacher with three marks behind its tokens, and an embedding that is padded to 528 rows."""
    folder = shutil.copytree(teacher_folder, tmp_path_factory.mktemp("longer") / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<pre>", "<suf>", "<mid>"])
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(528)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("longer", "signals"), [("teacher", {"use": "states"}), ("student", False)])
def test_vocabulary_that_goes_on_is_cut_said_and_recorded(
    short: dict[str, Any], longer: str, signals: Any, longer_folder: Path
) -> None:
    short["student"] = {"use": "pretrained", "model": short["teacher"]["model"]}
    short[longer]["model"] = str(longer_folder)
    short |= {"signals": signals, "evaluators": {"agreement": {"limit": 3, "tokens": 40}}}
    results = kdtool.run(short)
    own, other = (515, 512) if longer == "student" else (512, 515)
    sizes = f"the student has {own} tokens and teacher {other}"
    assert f"vocabularies: {sizes}; the first 512 are the same: they are compared over these" in results.notes
    (verdict,) = kdtool.check(short)["vocabularies"].values()
    assert (verdict["relation"], verdict["shared"]) == ("prefix", 512)
    # the same weights, so that over what both have nothing is to be learned at first
    assert abs(results.arms[0].histories["train"][0].terms["forward-kl"].value) < 1e-4
    measured = next(found for found in results.measurements if found.name == "kl-to-teacher")
    assert measured.settings["tokens compared"] == "the first 512, which both have"


def test_what_is_trained_does_not_depend_on_the_teachers_further_tokens(
    short: dict[str, Any], longer_folder: Path
) -> None:
    tokenizer = short["teacher"]["model"]
    short["student"] = {"use": "gpt", "layers": 2, "hidden": 64, "heads": 2, "tokenizer": tokenizer}
    plain, longer = (
        kdtool.run(short, {"name": f"run{number}", "teacher.model": str(folder)})
        for number, folder in enumerate((tokenizer, longer_folder))
    )
    assert apart(plain, longer) < 2e-6


def test_rows_with_tokens_that_the_teacher_lacks_are_refused_by_name(
    short: dict[str, Any], longer_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "marked.jsonl").write_text('{"text": "def f():<mid> return 1"}\n' * 40, encoding="utf-8")
    short["corpus"] = {"use": "jsonl", "files": [str(tmp_path / "marked.jsonl")]}
    short["student"] = {"use": "pretrained", "model": str(longer_folder)}
    with pytest.raises(kdtool.UsageError, match="holds token 514; teacher has only tokens below 512"):
        kdtool.run(short)


@pytest.mark.parametrize("form", ["sampled", "top-k"])
def test_kept_tokens_are_cut_like_logits(form: Any) -> None:
    from kdtool._run.stages.terms import cut_signal

    ids = torch.tensor([[0, 3, 5], [4, 5, 6], [1, 2, -1]], dtype=torch.int32)
    shares = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.6, 0.4, 0.0]])
    signal = kdtool.Signal("t", sparse=kdtool.SparseTokens(ids, shares, form, 1.0))
    cut = cut_signal(signal, 4).sparse
    assert cut is not None
    assert cut.ids.tolist() == [[0, 3, -1], [-1, -1, -1], [1, 2, -1]]
    expected = shares.double().masked_fill(ids >= 4, 0)
    if form == "sampled":  # what is drawn among the shared tokens: again a distribution
        expected[0] /= expected[0].sum()
    torch.testing.assert_close(cut.weights.double(), expected, atol=1e-7, rtol=0)
    assert replace(signal, sparse=cut).lazy is None


def test_recorded_signals_in_other_tokens_train_as_the_teacher_does(recipe: dict[str, Any], tmp_path: Path) -> None:
    """A byte-level student beside a teacher with pieces, on texts with characters of one to four bytes."""
    torch.manual_seed(1)
    LlamaForCausalLM(tiny_config(layers=2, vocabulary=600)).save_pretrained(tmp_path / "pieces")
    save_code_llama_tokenizer(tmp_path / "pieces", 600, 100_000, infilling=False)
    debiased = {"use": "span-likelihood", "debias": 0.001}
    texts = [f"def größe_{i}(n):\n    return '漢字 👩‍👧' * {i}  # {'é' * i}\n" for i in range(1, 24)]
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    across = {
        **{key: recipe[key] for key in ("name", "signals", "trainer")},
        "corpus": {"use": "jsonl", "files": [str(tmp_path / "texts.jsonl")]},
        "rows": {"use": "packed", "length": 40},
        "teacher": {**recipe["teacher"], "model": str(tmp_path / "pieces")},
        "student": {"use": "pretrained", "model": recipe["teacher"]["model"]},
        "train": {"losses": {"uld": {}, "projected-kl": {}, "span-likelihood": {}, "debiased": debiased}, "steps": 4},
    }
    recorded = kdtool.run(across)
    assert [row.key for row in rows_of(recorded)] == [row.key for row in rows_of(recorded, "rows/teacher")]
    for terms in (report.terms for report in recorded.arms[0].histories["train"]):
        assert min(terms[label].value for label in across["train"]["losses"]) > 0
    assert apart(kdtool.run({**across, "signals": False, "name": "beside"}), recorded) < 1e-4


@pytest.mark.parametrize("kind", ["narrower", "qlora"])
def test_students_learn_from_draws_as_from_all_logits(recipe: dict[str, Any], kind: str) -> None:
    recipe["train"] = {"losses": {"forward-kl": {"temperature": 2.0}, "ce": {"weight": 0.1}}, "steps": 12}
    if kind == "qlora":
        recipe["train"]["transforms"] = {"qlora": {"r": 4, "alpha": 8}}
    else:
        recipe["student"] = {"use": "pruned", "layers": 3, "hidden": 48, "heads": 2, "feed_forward": 96}
    recipe |= {"evaluators": {"perplexity": {"limit": 2, "characters": 200}}, "control": False}
    found = {}
    for name, signals in {"drawn": {"use": "sampled", "rows_per_shard": 4, "samples": 400}, "exact": False}.items():
        results = kdtool.run({**recipe, "name": name, "signals": signals})
        found[name] = values(results, "perplexity")["student"]
        assert results.arms[0].histories["train"][0].terms["forward-kl"].gradient_norm
    assert found["drawn"] == pytest.approx(found["exact"], rel=0.05)
    if kind == "narrower":
        facts = results.models["student"]
        assert (facts.layers, facts.hidden, facts.heads, facts.kv_heads, facts.feed_forward) == (3, 48, 2, 1, 96)
        config = AutoModelForCausalLM.from_pretrained(results.arms[0].artifacts[0].path, trust_remote_code=False).config
        assert (config.hidden_size, config.head_dim, config.num_attention_heads) == (48, 16, 2)
