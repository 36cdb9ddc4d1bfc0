"""`kdtool init`: every combination of answers is accepted by `kdtool check` or refused, and no file is lost."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import kdtool
import pytest
import yaml
from click.testing import CliRunner, Result
from kdtool._cli import cli
from kdtool._plugins import distributions, registry
from kdtool_essentials.init import choices, init
from kdtool_essentials.init import questions as _questions
from kdtool_essentials.init.choices import gpu_here
from kdtool_essentials.init.questions import TIMES, Answers
from kdtool_essentials.init.recipe import draft_recipe, fit_recipe
from kdtool_testing import CommandConformance

RECIPE = Path("recipe.yaml")
SERVER = ("--teacher", "http://127.0.0.1:9/v1", "--model", "large", "--licence", "apache-2.0")
TEACHERS = [("--teacher", "smollm2"), SERVER]
GOALS = ["completion", "instructions", "900GB"]
DATA = ["library", "src", "text.jsonl", "pairs.jsonl", "split.jsonl", "owner/name"]


FUNCTION = '''def add{part}(one, two):
    """Return the sum of two numbers."""
    return one + two
'''


class TestInit(CommandConformance):
    command = init
    entry_point = "init"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("KDTOOL_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(choices, "gpu_here", lambda: "")
    Path("src").mkdir()
    for name in range(12):  # enough that each split has some
        functions = (FUNCTION.format(part=part) for part in range(9))
        Path(f"src/{name}.py").write_text(f"# {name}\n" + "\n\n\n".join(functions), encoding="utf-8")
    Path("empty").mkdir()
    write_lines("text.jsonl", *({"text": f"print({n})\n" * 40} for n in range(60)))
    write_lines("pairs.jsonl", *({"prompt": f"# {n}\n", "completion": f"print({n})\n"} for n in range(60)))
    write_lines(
        "split.jsonl", {"text": "print(1)\n" * 40, "split": "train"}, {"text": "print(2)\n" * 9, "split": "test"}
    )


def write_lines(name: str, *records: dict[str, str]) -> None:
    Path(name).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def call(*words: str, answers: Sequence[str] = ()) -> Result:
    return CliRunner().invoke(cli, ["init", *words], input="".join(f"{answer}\n" for answer in answers))


def written() -> dict[str, Any]:
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    assert isinstance(recipe, dict)
    return recipe


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_questions, "is_terminal", lambda: True)


@pytest.mark.parametrize(("number", "data", "goal"), [(n, *pair) for n, pair in enumerate(product(DATA, GOALS))])
def test_combinations_of_answers_are_accepted_by_check_or_refused_with_a_remedy(
    number: int, data: str, goal: str
) -> None:
    """Each text with each goal; teacher, machine and time take turns."""
    teacher, hardware = TEACHERS[number // 2 % 2], ("here", "h100")[number % 2]
    time = list(TIMES)[(number + number // 3) % 3]
    done = call(*teacher, "--hardware", hardware, "--data", data, "--goal", goal, "--time", time, "--yes")
    if goal == "instructions" and data in {"text.jsonl", "split.jsonl"}:
        assert done.exit_code == 2
        assert "give --goal completion" in done.output
        assert not RECIPE.exists()
        return
    assert done.exit_code == 0, done.output
    assert "recipe.yaml is fine" in done.output
    assert "kdtool run recipe.yaml" in done.output
    recipe = written()
    assert recipe["train"]["steps"] > 0
    rows = recipe["train"]["steps"] * recipe["trainer"]["batch"]
    assert recipe["rows"]["maximum_tokens"] == rows * recipe["rows"]["length"]


def test_defaults_are_those_measured_on_a_laptop_for_ten_minutes() -> None:
    assert call("--yes").exit_code == 0
    recipe = written()
    assert recipe["teacher"] == {"use": "smollm2"}
    assert recipe["corpus"] == {"use": "python-source"}
    assert recipe["student"] == {"use": "pruned", "layers": 20}
    assert recipe["trainer"] == {"use": "standard", "batch": 1, "learning_rate": 0.0005}
    assert recipe["rows"]["length"] == 512
    assert recipe["train"]["losses"] == {
        "forward-kl": {"weight": 0.5},
        "ce": {"weight": 0.5},
        "hidden": {"weight": 5.0},
    }
    assert recipe["control"]["match"] == "tokens"
    text = RECIPE.read_text(encoding="utf-8")
    assert text.startswith("# Written by: kdtool init recipe.yaml --teacher smollm2")
    assert "# The model to learn from.\nteacher:" in text


def test_steps_follow_from_the_speed_that_check_forecasts(monkeypatch: pytest.MonkeyPatch) -> None:
    def forecast(*_: Any, **__: Any) -> dict[str, Any]:
        seconds = {"seconds": 100 * 2 * 512 / 390}  # two arms of 100 steps of 512 tokens
        fits = {"memory": True, "gpu": True}
        return {"models": {"teacher": {"layers": 30}}, "fits": fits, "forecast": seconds, "documents": {}}

    monkeypatch.setattr(kdtool, "check", forecast)
    for time, (layers, steps) in {"10min": (20, 200), "1h": (15, 1200), "night": (10, 9800)}.items():
        answers = Answers("smollm2", "here", False, "library", "completion", time)
        recipe = fit_recipe(draft_recipe("a", answers), answers, lambda _: False)
        assert (recipe["student"]["layers"], recipe["train"]["steps"]) == (layers, steps)


def test_enter_takes_the_default_of_every_question(terminal: None) -> None:
    done = call(answers=[""] * 5)
    assert done.exit_code == 0, done.output
    questions = ["Which teacher?", "On which machine?", "Which text?", "What for?", "How long may it take?"]
    places = [done.output.index(question) for question in questions]
    assert places == sorted(places)
    assert "smollm2: SmolLM2-135M-Instruct" in done.output
    asked = RECIPE.read_text(encoding="utf-8")
    assert call("--yes", "--force").exit_code == 0
    assert RECIPE.read_text(encoding="utf-8").splitlines()[:20] == asked.splitlines()[:20]


def test_a_wrong_answer_is_asked_again_and_own_words_are_taken(terminal: None) -> None:
    done = call("--hardware", "here", answers=["nobody", "smollm2", "empty", "2", "src", "tiny", "2", "soon", "1h"])
    assert done.exit_code == 0, done.output
    told = [
        "--teacher nobody is unknown",
        "--data empty contains no Python files",
        "--goal tiny is unknown",
        "--time soon",
    ]
    assert all(each in done.output for each in told)
    assert written()["corpus"] == {
        "use": "python-source",
        "folder": "src",
        "forms": ["implement", "document", "explain"],
    }


def test_without_a_terminal_missing_options_are_named() -> None:
    done = call("--teacher", "smollm2", "--hardware", "here")
    assert done.exit_code == 2
    assert "--data is missing" in done.output
    assert "--yes" in done.output
    assert not RECIPE.exists()


LETTERS = '''
import kdtool
from kdtool_transformers import byte_tokenizer


class Letters(kdtool.Teacher):
    """Knows which letters are frequent."""

    offers = frozenset({"logits"})

    def kdtool_tokenizer(self, run):
        return byte_tokenizer()

    def kdtool_signal(self, batch, want):
        raise NotImplementedError
'''


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install `x-letters`, a teacher that does not describe its model."""
    info = tmp_path / "site" / "x_letters-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: x-letters\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[kdtool.teachers]\nx-letters = x_letters:Letters\n", encoding="utf-8")
    (info.parent / "x_letters.py").write_text(LETTERS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(info.parent))
    _forget_installed()
    yield
    monkeypatch.undo()
    _forget_installed()


def _forget_installed() -> None:
    for cached in (registry._all_entries, distributions.points, distributions.origin_of, distributions.module_origin):
        cached.cache_clear()


def test_a_teacher_that_does_not_describe_its_model_gets_a_student_of_its_own(letters: None) -> None:
    done = call("--teacher", "x-letters", "--data", "src", "--yes")
    assert done.exit_code == 0, done.output
    assert "not known: memory of teacher: its plugin does not implement kdtool_describe" in done.output
    recipe = written()
    assert recipe["student"] == {"use": "gpt", "layers": 4, "hidden": 512, "heads": 8}
    assert recipe["train"]["losses"] == {"forward-kl": {"weight": 0.5}, "ce": {"weight": 0.5}}
    assert recipe["train"]["steps"] > 20
    assert kdtool.check(RECIPE)["models"].keys() == {"student"}


@pytest.mark.parametrize(("files", "enough"), [(12, 0), (40, 12), (100, 20), (160, 32)])
def test_a_short_text_is_divided_so_that_a_verdict_is_possible(files: int, enough: int) -> None:
    """With fewer documents than that, init and check say so."""
    for name in range(files):
        Path(f"src/{name}.py").write_text(f"# {name}\n" + FUNCTION.format(part=name) * 9, encoding="utf-8")
    done = call("--data", "src", "--hardware", "here", "--yes")
    assert done.exit_code == 0, done.output
    found = kdtool.check(RECIPE)
    count = found["documents"].get("test", 0)
    assert count >= enough
    assert f"{count} for test" in done.output
    said = f"only {count} of {files} documents for the test: a verdict needs 12, and 32 show smaller differences"
    assert (said in done.output) == (count < 12)
    checked = CliRunner().invoke(cli, ["check", str(RECIPE)]).output
    assert (f"! {said}" in checked) == (count < 12)
    if files >= 100:  # of fewer, 2 % are no text at all
        (warning,) = kdtool.check(RECIPE, {"corpus.test_share": 0.02})["warnings"]
        assert warning.endswith("; set aside more of the text, such as --set corpus.test_share=0.3")


def test_a_file_is_only_overwritten_with_force() -> None:
    RECIPE.write_text("mine", encoding="utf-8")
    refused = call("--yes")
    assert refused.exit_code == 2
    assert "recipe.yaml exists" in refused.output
    assert RECIPE.read_text(encoding="utf-8") == "mine"
    assert call("--yes", "--force").exit_code == 0
    assert written()["name"] == "recipe"
    assert not list(Path().glob("*.writing"))


def test_terms_need_an_agreement(terminal: None) -> None:
    words = ("--teacher", "starcoder2", "--hardware", "h100", "--data", "src", "--goal", "completion", "--time", "1h")
    refused = call(*words, answers=["n"])
    assert refused.exit_code == 2
    assert "BigCode OpenRAIL-M" in refused.output
    assert "The same answers again:\n    kdtool init recipe.yaml --teacher starcoder2 " in refused.output
    assert not RECIPE.exists()
    assert call(*words, answers=["y"]).exit_code == 0
    assert written()["terms_acknowledged"] == {"teacher": "BigCode OpenRAIL-M v1"}


def test_gpu_is_not_looked_for_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    assert gpu_here() == ""


@pytest.mark.slow
def test_settings_that_fit_are_taken_from_check() -> None:
    done = call("--yes", "--goal", "2.5GB")
    assert done.exit_code == 0, done.output
    assert kdtool.check(RECIPE, memory="2.5GB")["fits"]["memory"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--teacher", "causal-lm"), "needs settings that kdtool init does not ask for"),
        (("--teacher", "http://127.0.0.1:9/v1"), "--model is missing"),
        (("--hardware", "abacus"), "give one of t4"),
        (("--data", "nowhere"), "--data nowhere does not exist"),
        (("--data", "src/1.py"), "is not JSON Lines"),
        (("--goal", "fame"), "expected completion, instructions, or a size"),
        (("--time", "2h"), "expected 10min, 1h, night"),
        (("no/folder/recipe.yaml",), "does not exist; make it"),
    ],
)
def test_wrong_options_are_refused_with_what_was_expected(words: tuple[str, ...], told: str) -> None:
    done = call("--yes", *words)
    assert done.exit_code == 2
    assert told in done.output
    assert not RECIPE.exists()


def test_paths_of_a_recipe_in_another_folder_lead_to_what_was_checked() -> None:
    Path("recipes").mkdir()
    done = call("recipes/mine.yaml", "--data", "src", "--hardware", "here", "--yes")
    assert done.exit_code == 0, done.output
    recipe = yaml.safe_load(Path("recipes/mine.yaml").read_text(encoding="utf-8"))
    assert recipe["corpus"]["folder"] == str(Path("src").resolve())
