"""Every recipe that ships: it can be checked with nothing at hand, small ones run, and teachers are swapped or refused."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import kdtool
import kdtool_transformers.opening
import pytest
from jsonschema import Draft202012Validator
from kdtool._assembly.json_schema import recipe_schema
from kdtool._cli import call
from kdtool._recipe.yaml import read_document
from kdtool_programs import missing
from recipe_figures import COMMAND, ROOT, TABLE_BEGIN, figures, read, read_block
from recipe_figures import SYSTEMS as SHOWN

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
INSTALLED = RECIPES.parent / "plugins/essentials/src/kdtool_essentials/recipes"
FULL = sorted((*RECIPES.glob("*.yaml"), *INSTALLED.glob("*.yaml")))
SMALL = sorted(RECIPES.glob("small/*.yaml"))
SYSTEMS = {"code-craft", "starcoder2-mini-gpt", "claude-codellama", "smallcoder", "codellama-web"}
COUNTS = {
    "code-craft": {"teacher": 6_738_546_688, "student": 348_206_080},
    "starcoder2-mini-gpt": {"teacher": 3_030_371_328, "student": 122_702_592},
    "claude-codellama": {"student": 6_738_546_688},
    "smallcoder": {"teacher": 7_241_732_096, "student": 303_654_528},
    "codellama-web": {"student": 1_235_814_400},
}
"""Parameters of the full systems, as published or as the recipe asks for."""
DOWNLOADS = {
    "code-craft": 13_477_093_376,
    "starcoder2-mini-gpt": 12_121_485_312,
    "claude-codellama": 13_477_093_376,
    "smallcoder": 14_483_464_192,
    "codellama-web": 2_471_628_800,
}
"""Bytes of the published weights."""
SHORT = {
    "evaluators.perplexity": {"limit": 2, "characters": 200},
    "evaluators.line-completion": {"limit": 1, "places": 1, "maximum_tokens": 4},
    "evaluators.memorisation": {"limit": 1, "continuation": 2},
    "exporters.safetensors": {"dtype": "float32"},
    "trainer.dtype": "float32",
    "trainer.compile": "off",
}
TINY: dict[str, dict[str, Any]] = {
    "code-craft": {
        "student.parameters": None, "student.layers": 4, "student.feed_forward": 64, "rows.maximum_tokens": 1024,
        "rows.length": 64, "train.distil.steps": 2, "train.finetune.steps": 2, "train.qat.steps": 2,
        "evaluators.agreement": {"limit": 2, "tokens": 32},
    },
    "starcoder2-mini-gpt": {
        "student.parameters": "500k", "rows.maximum_tokens": 1024, "rows.length": 64, "train.general.steps": 2,
        "train.problems.steps": 2,
        "evaluators.agreement": {"limit": 2, "tokens": 32},
    },
    "claude-codellama": {
        "student.layers": 4, "rows.length": 64, "train.steps": 2, "corpora.answers.limit": 4,
        "corpora.answers.max_tokens": 16, "corpora.answers.temperature": 1.0, "evaluators.memorisation": False,
    },
    "smallcoder": {
        "student.parameters": 3_148_032, "rows.maximum_tokens": 1024, "rows.length": 64, "train.steps": 2,
        "trainer.accumulation": 2, "evaluators.agreement": {"limit": 2, "tokens": 32},
        "evaluators.speculation": {"limit": 2, "maximum_tokens": 4, "drafted": 2},
    },
    "codellama-web": {
        "student.layers": 6, "rows.maximum_tokens": 1024, "rows.length": 64, "train.code.steps": 2,
        "train.instruct.steps": 2,
    },
}  # fmt: skip
"""Settings with which the small recipes run in seconds with the tests' own teacher."""
SERVER = {"use": "openai", "url": "http://127.0.0.1:9/v1", "model": "large", "licence": "apache-2.0"}


@pytest.fixture(autouse=True)
def _nothing_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither weights in the hub's cache nor a network: exported files' programs and W&B's process are on this machine."""
    connect = socket.socket.connect

    def refuse(connecting: socket.socket, address: Any) -> None:
        if connecting.family != socket.AF_UNIX and address[0] != "127.0.0.1":
            raise AssertionError("a recipe's test uses the network")
        connect(connecting, address)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def teacher_of(name: str) -> str:
    """Return the key of the teacher that is swapped."""
    return "teachers.answers" if name == "claude-codellama" else "teacher"


def tiny(name: str, teacher: Path) -> dict[str, Any]:
    """Return settings by which a small recipe runs in seconds."""
    model = {"use": "causal-lm", "model": str(teacher), "dtype": "float32"}
    base = {"teachers.base": model} if name == "claude-codellama" else {}
    return {**SHORT, **TINY[name], **base, teacher_of(name): model, "evaluators.efficiency": False}


@pytest.mark.parametrize("path", [*FULL, *SMALL], ids=lambda path: path.relative_to(RECIPES.parent).as_posix())
def test_a_recipe_is_fine_without_weights_and_network(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTOOL_TRUST_URL", "http://127.0.0.1:8765")  # as small/claude-instruct.yaml asks
    found = kdtool.check(path, memory="1TB")  # a smaller machine is told what would fit, and each of that is tried
    assert found["arms"][0] == "student"
    expected = COUNTS.get(path.stem, {}) if path.parent == RECIPES else {}
    assert {name: found["models"][name]["parameters"] for name in expected} == expected
    if path.parent == RECIPES and path.stem in SYSTEMS:
        assert found["trainable"], "known before a tokenizer is on this machine, and so is the memory of training"
        assert not [line for line in found["forecast"]["unknown"] if "memory in training" in line]
        assert [spent["bytes"] for spent in found["forecast"]["downloads"]] == [DOWNLOADS[path.stem]]
        assert found["forecast"]["disk_bytes"] > DOWNLOADS[path.stem]


def test_the_schema_accepts_every_recipe() -> None:
    validator = Draft202012Validator(recipe_schema())
    for path in (*FULL, *SMALL):
        recipe = read_document(path.read_text(encoding="utf-8"), path.name, path.parent).plain()
        assert [error.message for error in validator.iter_errors(recipe)] == [], path
    shared = {"use": "./a.py:B"}
    other_plugin = {"corpus": shared, "evaluators": {"line-completion": {"use": "perplexity"}, "mine": "perplexity"}}
    assert validator.is_valid(other_plugin)
    for losses in ({"forward-kl": {"tempature": 2}}, {"forward-kl": {"temperature": "hot"}}):
        assert not validator.is_valid({"train": {"losses": losses, "steps": 3}})


def test_the_recipe_for_a_t4_needs_less_main_memory_than_a_free_colab_has() -> None:
    forecast = kdtool.check(RECIPES / "claude-codellama-t4.yaml", memory="12GB", gpu="t4")["forecast"]
    assert 3e9 < forecast["memory"]["peak"] < 12e9
    assert forecast["device_memory"]["peak"] < 16e9


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_published_figures_are_of_models_and_measurements_of_the_recipe(name: str) -> None:
    recipe = read_document((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"), name, RECIPES).plain()
    models = {"student", "teacher", "base", *(f"student-{exporter}" for exporter in recipe["exporters"])}
    measured = {*recipe["evaluators"], *kdtool.load_plugin("evaluator", "efficiency").measurements}
    for claim in recipe["claims"]:
        assert claim["measurement"].partition(".")[0] in measured
        assert claim.get("arm", "student") in models


@pytest.mark.slow
@pytest.mark.parametrize("path", [*FULL, *SMALL], ids=lambda path: path.relative_to(RECIPES.parent).as_posix())
def test_settings_that_a_head_prints_are_accepted(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"WANDB_API_KEY": "unused", "KDTOOL_TRUST_URL": "http://127.0.0.1:8765"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("kdtool._estimate.check.propose", lambda *_, **__: None)  # to fit this machine: six more checks
    monkeypatch.chdir(tmp_path)
    _write_benchmarks(tmp_path)
    for settings in printed_settings(path):
        if "evaluators.multilingual.files" in settings and missing(["javascript", "cpp"]):
            continue
        kdtool.check(path, settings, memory="1TB", gpu="a100-80gb")
        given = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        code = call(["run", "--plan", str(path), *given, "--out", "runs", "--store", "store"])
        assert code == 0, f"{given}: {capsys.readouterr().err}"


def _write_benchmarks(folder: Path) -> None:
    """Write files of benchmarks, with one problem each, where heads of recipes have them."""
    sources = {
        "humaneval_js": ("JavaScript", "const f = (x) => {\n", "  return x;\n}\n", "console.assert(f(1) === 1)\n")
    }
    sources["humaneval_cpp"] = ("CPP", "int f(int x) {\n", "  return x;\n}\n", "int main() { return f(0); }\n")
    for name, (language, prompt, solution, test) in sources.items():
        record = {"task_id": f"{language}/0", "prompt": prompt, "canonical_solution": solution, "test": test}
        record |= {"declaration": prompt, "example_test": "", "import": "", "test_setup": ""}
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(json.dumps(record).encode()))
    lines = folder / "py150" / "line_completion" / "test.json"
    lines.parent.mkdir(parents=True)
    lines.write_text(json.dumps({"id": 0, "input": "<s> import os <EOL>", "gt": "x = 1"}) + "\n", encoding="utf-8")


def printed_settings(path: Path) -> list[dict[str, str]]:
    """Return the settings of each command line in a recipe's head, without those that need the reader's own files."""
    header = path.read_text(encoding="utf-8").partition("\nname:")[0]
    blocks = re.findall(r"(?:^#   --set .+\n)+", header, re.MULTILINE)  # consecutive lines are one command
    inline = re.findall(r"`(--set .+?)`", header.replace("\n# ", " "))
    found = [shlex.split(text.replace("#   ", " ")) for text in (*blocks, *inline)]
    settings = [dict(one.split("=", 1) for one in words if one != "--set") for words in found]
    refused = {"teacher": "{use: codellama, variant: python}"}  # as its head says, and a test below
    return [one for one in settings if one != refused and not re.search(r"\b(DIR|NAME)\b", str(one))]


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_a_small_recipe_runs_from_text_to_report(name: str, teacher_folder: Path) -> None:
    results = kdtool.run(RECIPES / "small" / f"{name}.yaml", tiny(name, teacher_folder), offline=True)
    assert results.report is not None
    assert results.report.is_file()
    assert any((artifact.path / "config.json").is_file() for artifact in results.arms[0].artifacts)
    measured = {(found.name, found.subject) for found in results.measurements}
    exported = {subject.name for subject in results.subjects if subject.role == "artifact"}
    assert len(exported) == len(results.arms[0].artifacts)
    for metric in ("perplexity", "line-completion.exact-match"):
        assert exported <= {subject for found, subject in measured if found == metric}, "each file is opened and scored"
    memorised = ["memorised"] if TINY[name].get("evaluators.memorisation", True) else []
    for metric in ("perplexity", "line-completion.exact-match", *memorised):
        assert {(metric, "student"), (metric, teacher_of(name))} <= measured, metric
    if name == "starcoder2-mini-gpt":
        assert [*results.folder.glob("wandb/offline-run-*/*.wandb")], "W&B failed, and the run went on"
    if name == "code-craft":
        assert list(results.arms[0].phases) == ["distil", "finetune", "qat"]
    if name == "smallcoder":
        assert results.models["student"].parameters == 3_148_032


@pytest.mark.parametrize("name", ["code-craft", "starcoder2-mini-gpt", "codellama-web"])
def test_a_student_that_is_made_for_its_teacher_follows_it(
    name: str, teacher_folder: Path, other_teacher_folder: Path
) -> None:
    settings = {**tiny(name, teacher_folder), "teacher.model": str(other_teacher_folder)}
    found = kdtool.check(RECIPES / "small" / f"{name}.yaml", settings)
    assert found["models"]["student"]["vocabulary"] == found["models"]["teacher"]["vocabulary"] == 600


LOGITS = r"signals: states is made of logits, but teacher .* offers text"
TOKENIZER = r"the tokenizer of the server's model is unknown"
CUT = rf"not a teacher of this recipe whose model can be cut|{TOKENIZER}"
REFUSED = [
    ("code-craft", {"teacher": SERVER}, LOGITS),
    ("starcoder2-mini-gpt", {"teacher": SERVER}, LOGITS),
    ("smallcoder", {"teacher": SERVER}, r"forward-kl: needs .*\n.*set `teacher.top_k: 20`"),
    ("codellama-web", {"teacher": SERVER}, CUT),
    ("smallcoder", {"teacher.model": "OTHER"}, r"the tokenizer has 600, which makes 3,170,560 and not 3,148,032"),
    (
        "claude-codellama",
        {"teachers.answers.model": "OTHER", "train.losses.forward-kl.teacher": "answers"},
        r"512.*600|600.*512",
    ),
]


@pytest.mark.parametrize(("name", "swap", "reason"), REFUSED)
def test_a_teacher_that_does_not_fit_is_refused_before_weights_load(
    name: str,
    swap: dict[str, Any],
    reason: str,
    teacher_folder: Path,
    other_teacher_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(kdtool_transformers.opening, "open_model", refuse)
    other = {key: str(other_teacher_folder) if value == "OTHER" else value for key, value in swap.items()}
    recipe, settings = RECIPES / "small" / f"{name}.yaml", {**tiny(name, teacher_folder), **other}
    for act in (kdtool.check, kdtool.run):
        with pytest.raises((kdtool.UsageError, kdtool.RecipeError)) as refused:
            act(recipe, settings)
        assert re.search(reason, str(refused.value), re.DOTALL), str(refused.value)


CARDS = [pytest.param("b200", marks=pytest.mark.slow)]
CARDS += [pytest.param(name, marks=pytest.mark.nightly) for name in ("rtx3050-8gb", "m2-16gb", "l4")]


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("teacher", ["smollm2", "codellama", "starcoder2"])
@pytest.mark.parametrize("path", [*FULL, *SMALL], ids=lambda path: path.relative_to(RECIPES.parent).as_posix())
def test_another_teacher_is_accepted_or_the_line_to_paste_is(
    path: Path, teacher: str, card: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first line has what cannot follow the teacher, the second what the card lacks memory for."""
    monkeypatch.setenv("KDTOOL_TRUST_URL", "http://127.0.0.1:8765")
    several = re.search(r"^teachers:\n  (\w+):", path.read_text(encoding="utf-8"), re.MULTILINE)
    words = [
        str(path),
        "--set",
        "seeds=[0]",
        "--set",
        f"{f'teachers.{several[1]}' if several else 'teacher'}.use={teacher}",
    ]
    for _ in range(3):
        call(["check", *words, "--gpu", card])
        shown = "".join(capsys.readouterr())
        if re.search(r"the Llama 2 Community License .* forbids what this recipe does", shown):
            return
        if not (proposed := re.search(r"\n    kdtool \w+ (.+)", shown)):
            break
        words = shlex.split(proposed[1])
    assert not proposed, shown
    assert "error:" not in shown
    memory = re.search(r"does not fit: .* memory needed", shown)  # the disk is this machine's
    assert not memory or "No suggested change is enough" in shown


TOLERANCE = 0.05
"""Greatest difference of a figure from what the check says: versions of libraries change an estimate a little."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_a_head_says_what_the_check_says(name: str) -> None:
    found = figures(name)
    said = read(read_block(name))
    expected = (found.gpu / 1e9, found.host / 1e9, found.disk / 1e9, found.hours("a100-80gb"))
    assert said == pytest.approx(expected, rel=TOLERANCE, abs=0.1), f"write the figures anew: {COMMAND}"


def test_the_page_has_the_figures_of_the_heads() -> None:
    page = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8").partition(TABLE_BEGIN)[2]
    for name in SHOWN:
        gpu, host, disk, _ = read(read_block(name))
        assert f"| `{name}` | {gpu} GB | {host} GB | {disk} GB |" in page, f"write the figures anew: {COMMAND}"
