"""Whole runs with preferences, the student's own text, validation, adapted teachers, and experts."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers import TransformersModel, weights_identity
from transformers import AutoTokenizer
from whole_runs import apart, path_of, rows_of, values, weights, without

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_store")]


def write_lines(name: str, objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Write a JSONL file, and return the corpus that reads it."""
    Path(name).write_text("".join(json.dumps(one) + "\n" for one in objects), encoding="utf-8")
    return {"use": "jsonl", "files": [name]}


@pytest.fixture
def preferring(recipe: dict[str, Any]) -> dict[str, Any]:
    """The small recipe, with a second phase on pairs and nothing to measure."""
    answers = [(f"    return x + {number}\n", f"    raise Broken({number})\n") for number in range(24)]
    lines = [{"prompt": "def f(x):\n", "chosen": chosen, "rejected": rejected} for chosen, rejected in answers]
    lines.append({"prompt": "# long\n" * 60, "chosen": "x\n", "rejected": "y\n"})
    prefer = {
        "corpus": write_lines("pairs.jsonl", lines),
        "rows": {"use": "pairs", "length": 96},
        "signals": False,
        "losses": {"preference": {"weight": 1.0}, "ce": {"weight": 0.1}},
        "trainer": {"batch": 4, "learning_rate": 1e-3, "log_every": 1},
        "steps": 16,
    }
    distil = {"losses": {"forward-kl": {"weight": 0.5}, "ce": {"weight": 0.5}}, "steps": 3}
    recipe |= {"train": {"distil": distil, "prefer": prefer}, "control": False}
    return without(recipe, "trackers", "reporter", "evaluators")


def test_the_recipe_with_tools_teaches_calls_as_the_template_writes_them(marked_teacher_folder: Path) -> None:
    folder = shutil.copytree(marked_teacher_folder, Path("with-tools"))
    plain = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    settings = {
        "teacher.model": str(folder),
        "teacher.dtype": "float32",
        "student.layers": 3,
        "trainer.dtype": "float32",
        "train.steps": 4,
        "rows.length": 256,
    }
    recipe = Path(__file__).resolve().parent.parent / "recipes" / "tools" / "recipe.yaml"
    with pytest.raises(kdtool.UsageError, match=r"example 'rows.jsonl:1': .* it leaves out tools; change the example"):
        kdtool.run(recipe, settings, offline=True)
    calls = (
        "{% for call in message.tool_calls or () %}<call>{{ call.function | tojson }}</call>{% endfor %}<|im_end|>\n"
    )
    template = "{{ tools | tojson }}" + plain.replace("<|im_end|>\n' }}", f"' }}}}{calls}")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    results = kdtool.run(recipe, settings, offline=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    learned = [
        tokenizer.decode([token for token, is_learned in zip(row.input_ids, row.labelled, strict=True) if is_learned])
        for row in rows_of(results)
    ]
    text = "".join(learned)
    assert '<call>{"name": "run", "arguments": {"command": "ls *.py"}}</call><|im_end|>There are two: app.py' in text
    assert "ten lines" not in text, "its weight is 0"
    assert "3 passed" not in text, "the tool has said so"
    assert (results.arms[0].artifacts[0].path / "chat_template.jinja").read_text(encoding="utf-8") == template


def of_term(results: kdtool.Results, label: str, phase: str = "prefer") -> list[float]:
    return [report.terms[label].value for report in results.arms[0].histories[phase] if label in report.terms]


def test_a_recipe_distils_and_then_prefers_and_the_next_one_prefers_against_what_it_made(
    preferring: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    results = kdtool.run(preferring)
    assert "1 of 25 without the beginning of their prompt" in "".join(capfd.readouterr()) + str(results.notes)
    found = of_term(results, "preference")
    assert sum(found[-4:]) < 0.7 * sum(found[:4])
    student, phase = str(results.arms[0].artifacts[0].path), preferring["train"]["prefer"]
    again = {
        **preferring,
        **{key: phase[key] for key in ("corpus", "rows")},
        "name": "again",
        "signals": {"use": "states"},
        "student": {"use": "pretrained", "model": student},
        "teacher": {"use": "causal-lm", "model": student, "dtype": "float32"},
        "train": {key: phase[key] for key in ("losses", "trainer", "steps")},
        "control": False,
    }
    found = of_term(kdtool.run(again), "preference", "train")
    assert found[0] == pytest.approx(math.log(2), abs=1e-5), "the student is the reference still"
    assert found[-1] < 0.5 * found[0]


@pytest.fixture
def on_policy(recipe: dict[str, Any]) -> dict[str, Any]:
    """Six steps of two micro-batches, a share of them on the student's own text, with a control and without signals."""
    recipe["trainer"] |= {"accumulation": 2, "on_policy": {"fraction": 0.5, "tokens": 12}, "log_every": 1}
    recipe["train"] = {"losses": {"contrastive": {"weight": 0.8}, "ce": {"weight": 0.2}}, "steps": 6}
    recipe["control"] = {"match": "tokens"}
    return without(recipe, "signals", "evaluators", "exporters", "reporter", "trackers")


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], list[int]]]:
    """The prompts and the lengths of the texts of each call that generates."""
    asked: list[tuple[list[str], list[int]]] = []
    generate = TransformersModel.generate

    def noted(self: Any, prompts: Any, *rest: Any) -> list[list[int]]:
        found = generate(self, prompts, *rest)
        asked.append(([self.tokenizer.inner.decode(each) for each in prompts], [len(each) for each in found]))
        return found

    monkeypatch.setattr(TransformersModel, "generate", noted)
    return asked


def test_contrastive_learns_from_both_kinds_of_text_and_the_control_from_the_corpus(
    on_policy: dict[str, Any], generated: list[tuple[list[str], list[int]]]
) -> None:
    results = kdtool.run(on_policy)
    student, control = results.arms
    (note,) = [note for note in student.phases["train"].notes if note.startswith("on_policy: ")]
    own = int(note.split()[1])
    assert f"{own} of 12 micro-batches on-policy" in note
    assert 0 < own < 12
    assert len(generated) == 1 + own, "the control writes nothing, and before the first step the student was tried once"
    assert max(length for _, lengths in generated for length in lengths) <= 12
    assert all(value > 0 for value in of_term(results, "contrastive", "train"))
    assert not control.phases["train"].notes
    assert control.phases["train"].tokens > student.phases["train"].tokens
    assert any(note.startswith("trainer.on_policy: the control trains on the same rows") for note in results.notes)
    plain = kdtool.run(
        on_policy, {"trainer.on_policy": None, "name": "plain", "train.losses.contrastive.use": "skew-kl"}
    )
    assert apart(control.path, plain.arms[1].path) == 0, "the control is that of a run without on_policy"
    assert apart(results, plain) > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_own_text_is_the_same_again_with_adapters_and_recomputed_activations(
    on_policy: dict[str, Any], dtype: str
) -> None:
    on_policy["train"] |= {"steps": 2, "transforms": {"lora": {"r": 4, "dropout": 0.1}, "gradient-checkpointing": {}}}
    on_policy["trainer"]["dtype"] = dtype
    first, again = (kdtool.run({**on_policy, "control": False, "name": name}) for name in ("first", "again"))
    assert apart(first, again) == 0
    assert all(weight.isfinite().all() for weight in weights(first).values())


def test_texts_longer_than_the_prompts_are_trained_on(
    on_policy: dict[str, Any],
    generated: list[tuple[list[str], list[int]]],
    marked_teacher_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompts: list[dict[str, Any]] = [{"prompt": f"def add_{number}(x):\n"} for number in range(24)]
    prompts += [{"messages": [{"role": "user", "content": f"Add {number} to x."}]} for number in range(24)]
    on_policy |= {
        "corpus": write_lines("prompts.jsonl", prompts),
        "rows": {"use": "packed", "length": 128, "room": 40},
        "train": {"losses": {"jsd": {}}, "steps": 3},
        "control": False,
    }
    on_policy["teacher"]["model"] = str(marked_teacher_folder)
    on_policy["trainer"] |= {"accumulation": 1, "on_policy": {"fraction": 1, "tokens": 40}}
    kdtool.check(on_policy)
    results = kdtool.run(on_policy)
    written = [length for _, lengths in generated[1:] for length in lengths]
    assert results.arms[0].phases["train"].tokens == sum(written)
    assert max(written) == 40, "a random student seldom ends its texts"
    texts = [text for found, _ in generated[1:] for text in found]
    assert any(text.startswith("def add_") and text.endswith("(x):\n") for text in texts)
    assert any(text.startswith("<|im_start|>user\nAdd") and text.endswith("<|im_start|>assistant\n") for text in texts)
    assert all(report.loss > 0 for report in results.arms[0].histories["train"])
    assert not any(any(row.labelled) for row in rows_of(results))
    with pytest.raises(kdtool.KdtoolError, match=r"on_policy\.fraction: 0\.5 has steps on the corpus"):
        kdtool.run(on_policy, {"trainer.on_policy.fraction": 0.5})
    with pytest.raises(kdtool.KdtoolError, match="no rows"):
        kdtool.run(on_policy, {"rows.room": 0})
    assert "left out 48 prompts without an answer, such as" in capsys.readouterr().err


WATCHED = "perplexity.bits-per-byte"


@pytest.fixture
def validated(recipe: dict[str, Any]) -> dict[str, Any]:
    """A student that is measured every two steps on the split `validation`."""
    recipe["trainer"] |= {"compile": "off", "validation": {"every": 2, "evaluators": ["perplexity"]}}
    recipe["evaluators"] = {"perplexity": {"limit": 3, "characters": 400, "split": "validation"}}
    return without(recipe, "control", "exporters", "reporter")


def test_measuring_changes_neither_weights_nor_what_is_told_of_steps(validated: dict[str, Any]) -> None:
    measured = kdtool.run(validated)
    plain = kdtool.run(validated, {"trainer.validation": None, "name": "plain"})
    assert apart(plain, measured) == 0
    told = {report.step: report for report in measured.arms[0].histories["train"]}
    assert {step for step, report in told.items() if report.metrics} == {2, 4, 6}
    for report in plain.arms[0].histories["train"]:
        assert (report.loss, report.tokens) == (told[report.step].loss, told[report.step].tokens)
    assert told[6].metrics[WATCHED] == pytest.approx(values(measured, "bits-per-byte")["student"], rel=2e-3)
    for settings, action in (({}, "reuse"), ({"evaluators.perplexity.limit": 2}, "run")):
        (phase,) = (one.action for one in kdtool.plan(validated, settings) if one.name.startswith("phases/"))
        assert phase == action, "a phase depends on the evaluators that it asks"


def test_training_ends_when_the_student_gets_no_better_and_the_best_is_kept(
    validated: dict[str, Any], recipe: dict[str, Any]
) -> None:
    validation = {"every": 1, "evaluators": ["perplexity"], "watch": WATCHED, "patience": 2}
    validated["trainer"] |= {"learning_rate": 0.5, "schedule": "constant", "warmup": 0, "validation": validation}
    validated["train"]["steps"] = 40
    results = kdtool.run({**validated, "control": recipe["control"]})
    trained = results.arms[0].phases["train"]
    found = {report.step: report.metrics[WATCHED] for report in results.arms[0].histories["train"]}
    best = min(found, key=lambda step: (found[step], step))
    assert trained.steps == max(found) == best + 2 < 40
    assert any(f"was best after step {best:,}" in note for note in trained.notes)
    # The saved student is measured in bfloat16 where that is faster.
    assert values(results, "bits-per-byte")["student"] == pytest.approx(found[best], rel=2e-3)
    assert "each until it got no better" in results.verdict
    assert "equally many tokens" not in results.verdict


def test_what_cannot_be_measured_is_known_before_the_first_step(validated: dict[str, Any]) -> None:
    validated["evaluators"]["agreement"] = {}
    watching = {"evaluators": ["agreement"], "watch": "agreement.top-1-agreement-with-teacher"}
    with pytest.raises(kdtool.UsageError, match="cannot be measured while the student learns; measured were: none"):
        kdtool.run(validated, {"trainer.validation": watching})
    texts = [{"text": f"x = {i}\n" * 60, "split": "train" if i < 8 else "test"} for i in range(12)]
    validated |= {"corpus": write_lines("text.jsonl", texts)}
    with pytest.raises(kdtool.UsageError, match=r"has no documents.*the split 'validation' stands for 'test'"):
        kdtool.run(validated, {"evaluators.perplexity.split": "test"})
    assert not list(Path("runs").rglob("history.jsonl"))


def test_the_base_is_measured_once_before_training_and_compared(recipe: dict[str, Any]) -> None:
    continued = {
        **without(recipe, "control", "exporters"),
        "seeds": [0, 1],
        "student": {"use": "pretrained", "model": recipe["teacher"]["model"]},
        "evaluators": {"perplexity": {"limit": 4}},
    }
    results = kdtool.run(continued)
    found = values(results, "perplexity")
    assert list(found) == ["teacher", "base", "student-seed0", "student-seed1"]
    assert found["base"] == pytest.approx(found["teacher"], rel=1e-4), "the same weights"
    assert found["base"] != pytest.approx(found["student-seed0"], rel=1e-4)
    pairs = {(one.arm, one.against, one.measurement): one.seeds for one in results.comparisons}
    assert pairs["student", "base", "perplexity"] == 2
    names = [stage.name for stage in results.stages]
    assert names.index("scores/perplexity-base") < names.index("phases/student-seed0-train")
    assert "Against itself before training, the student is " in results.verdict
    report = (results.folder / "report.html").read_text(encoding="utf-8")
    assert "Against itself before training, the student is " in report
    assert kdtool.load(results.folder).subjects == results.subjects


ADAPT = {
    "trains": "teacher",
    "losses": {"ce": {}},
    "transforms": {"lora": {"r": 4, "alpha": 32}},
    "trainer": {"learning_rate": 2e-2},
    "steps": 12,
}


def test_a_teacher_that_is_adapted_teaches_and_is_copied_from_with_what_it_learned(
    recipe: dict[str, Any], teacher_folder: Path
) -> None:
    recipe["train"] = {"adapt": ADAPT, "distil": {**recipe["train"], "steps": 4}}
    recipe["evaluators"] = {"perplexity": {"limit": 2, "characters": 200}, "agreement": {"limit": 2}}
    results = kdtool.run(recipe, {"seeds": [0, 1]}, store="store")
    perplexity = values(results, "perplexity")
    assert perplexity["teacher"] < 0.9 * perplexity["teacher.unadapted"]
    assert {subject.role for subject in results.subjects if subject.name.startswith("teacher")} == {"teacher"}
    arms = {f"{arm}-seed{seed}" for arm in ("student", "control", "control-time") for seed in (0, 1)}
    assert values(results, "kl-to-teacher").keys() == arms

    (learned,) = Path("store").glob("teachers/*/model")
    own, adapted, copied = map(weights, (teacher_folder, learned, path_of(results, "students") / "model"))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert copied[name].equal(adapted[name])
    assert not copied[name].equal(own[name])
    assert copied["model.embed_tokens.weight"].equal(own["model.embed_tokens.weight"]), "lora leaves it"
    (head,) = Path("store").glob("signals/*/teacher.json")
    recorded_of = json.loads(head.read_text(encoding="utf-8"))["fingerprint"]
    assert recorded_of == weights_identity(learned) != weights_identity(teacher_folder)

    (teacher,) = (arm for arm in results.arms if arm.arm == "teacher")
    assert (teacher.seed, teacher.phases["adapt"].steps) == (0, ADAPT["steps"])
    assert teacher.histories["adapt"][-1].loss < teacher.histories["adapt"][0].loss
    page = (results.folder / "report.html").read_text(encoding="utf-8")
    assert "Teacher, unadapted" in page
    assert "Teacher, seed 0, adapt" in page
    assert page.index("Phase adapt") < page.index("Phase distil")


def test_rows_follow_the_tokenizer_of_whom_a_phase_trains(recipe: dict[str, Any], other_teacher_folder: Path) -> None:
    student = {"use": "gpt", "layers": 1, "hidden": 64, "heads": 1}
    train = {"adapt": ADAPT, "finetune": {"losses": {"ce": {}}, "steps": 2}}
    recipe |= {"student": student, "train": train, "signals": False, "evaluators": False}
    other, same = (
        [stage.name for stage in kdtool.plan(recipe, settings) if stage.name.startswith(("text", "rows"))]
        for settings in ({"student.tokenizer": str(other_teacher_folder)}, {})
    )
    assert other == ["text", "rows/adapt", "rows"]
    assert same == ["text", "rows"]


def test_the_control_balances_its_experts_with_the_same_weight(recipe: dict[str, Any], teacher_folder: Path) -> None:
    folder = shutil.copytree(teacher_folder, "experts")
    vocabulary = json.loads(Path(folder, "config.json").read_text("utf-8"))["vocab_size"]
    tiny_model("mixtral", layers=2, vocabulary=vocabulary, num_local_experts=4).model.save_pretrained(folder)
    losses = {"forward-kl": {"weight": 0.5}, "ce": {"weight": 0.5}, "router-balance": {"weight": 0.01}}
    recipe |= {"student": {"use": "pretrained", "model": folder}, "control": {"match": "tokens"}}
    recipe["trainer"]["log_every"] = 1
    recipe["train"] = {"steps": 2, "losses": losses}
    results = kdtool.run(without(recipe, "signals", "evaluators", "exporters"))
    student, control = (
        {name: term.weight for name, term in arm.histories["train"][-1].terms.items()} for arm in results.arms
    )
    assert student == {name: of["weight"] for name, of in losses.items()}
    assert control == {"ce": 1.0, "router-balance": 0.01}
