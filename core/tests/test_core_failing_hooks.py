"""Failures in hooks: refusals reach the user, failing trackers are disabled for a whole run, messages are always shown."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kdtool
import pytest
from kdtool._plugins.hook_specs import SPECS
from kdtool._plugins.hooks import ComponentHooks, describe, owner_of
from toy_recipe import Recipe

WAYS = {
    "broadcast": lambda hooks, name, values: getattr(hooks, name)(**values),
    "addressed": lambda hooks, name, values: getattr(hooks.component("refusing", kdtool.Component), name)(**values),
    "bound": lambda hooks, name, values: hooks.bound(name)["refusing"](**values),
}


def _refuse(self: Any) -> None:
    raise kdtool.UsageError("refused: this cannot be")


def _call(way: str, kind: type[kdtool.Component], name: str, *, required: bool = False, times: int = 1) -> list[str]:
    """Call a hook that refuses, and return the complaints."""
    complaints: list[str] = []
    refusing = type("Refusing", (kind,), {name: _refuse})(None)
    named = frozenset({"refusing"} if required else ())
    hooks = ComponentHooks({"refusing": refusing}, required=named, complain=complaints.append)
    for _ in range(times):
        WAYS[way](hooks, name, dict.fromkeys(SPECS[name].arguments))
    return complaints


@pytest.mark.parametrize("way", WAYS)
def test_a_refusal_reaches_whoever_calls_the_hook_and_a_failing_notification_is_one_line(way: str) -> None:
    with pytest.raises(kdtool.UsageError, match="refused"):
        _call(way, kdtool.Corpus, "kdtool_examples")
    with pytest.raises(kdtool.UsageError, match="refused"):
        _call(way, kdtool.Tracker, "kdtool_step_end", required=True)
    failure = "tracker 'refusing' (refusing) failed in kdtool_step_end: UsageError: refused: this cannot be"
    assert _call(way, kdtool.Tracker, "kdtool_step_end", times=3) == [f"{failure}; disabled for the rest of this run"]


def test_only_trackers_are_notified() -> None:
    tolerant = {name for name, spec in SPECS.items() if spec.calling.tolerant}
    assert tolerant == {name for name in vars(kdtool.Tracker) if name.startswith("kdtool_")}


BESIDE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import kdtool


def write(line):
    with open("heard", "a") as file:
        print(line, file=file)


class Failing(kdtool.Tracker):
    def kdtool_step_end(self, run, report):
        write("step")
        raise ValueError("no space\\nleft")

    def kdtool_stage_end(self, run, seconds, reused):
        write(f"end of {{run.stage}}")


class File(kdtool.Tracker):
    def kdtool_message(self, run, text):
        write(f"file: {{text}}")


class Filter(File):
    shows_messages = True

    def kdtool_message(self, run, text):
        print(f"filter: {{text}}")


class Breaking(Filter):
    def kdtool_message(self, run, text):
        raise ValueError("no filter")
"""


@pytest.fixture
def beside(recipe: Recipe, tmp_path: Path) -> Recipe:
    """The toy recipe, its trackers left to the test."""
    (tmp_path / "beside.py").write_text(BESIDE, encoding="utf-8")
    return recipe


def test_a_failing_tracker_is_disabled_in_all_later_phases_arms_and_seeds(
    beside: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    kdtool.run(beside, {"trackers": {"failing": {"use": "beside.py:Failing"}}})
    assert Path("heard").read_text(encoding="utf-8").splitlines().count("step") == 1
    assert "end of phases" not in Path("heard").read_text(encoding="utf-8")
    said = [line for line in capsys.readouterr().err.splitlines() if "disabled" in line]
    who = "tracker 'trackers.failing' (beside.py:Failing)"
    assert said == [f"{who} failed in kdtool_step_end: ValueError: no space; disabled for the rest of this run"]
    Path("heard").unlink()
    kdtool.run(beside, {"trackers": {"failing": {"use": "beside.py:Failing"}}, "train.steps": 5, "name": "other"})
    assert Path("heard").read_text(encoding="utf-8").splitlines().count("step") == 1


TERMS = "https://example.org"


@pytest.mark.parametrize(
    ("trackers", "expected"),
    [
        ("", "printed"),
        ("File", "printed, written"),
        ("Filter", "shown"),
        ("File Filter", "written, shown"),
        ("File Breaking", "printed, written"),
    ],
)
def test_terms_reach_the_terminal_whatever_the_trackers(
    beside: Recipe, capsys: pytest.CaptureFixture[str], trackers: str, expected: str
) -> None:
    kdtool.run({**beside, "trackers": {name.lower(): {"use": f"beside.py:{name}"} for name in trackers.split()}})
    heard = Path("heard").read_text(encoding="utf-8") if Path("heard").exists() else ""
    out, err = capsys.readouterr()
    found = {"printed": TERMS in err, "written": TERMS in heard, "shown": "filter: " in out and TERMS in out}
    assert ", ".join(name for name, is_there in found.items() if is_there) == expected


class _Loss(kdtool.TokenLoss):
    def kdtool_token_loss(self, chunk: Any) -> Any:
        raise ValueError("an in-place edit")


class _Calls(kdtool.Trainer):
    def kdtool_train(self, run: Any, phase: Any, student: Any) -> Any:
        phase(None)


def test_an_error_of_a_loss_in_a_hot_loop_names_it() -> None:
    loss = _Loss(None)
    hooks = ComponentHooks({"trainer": _Calls(None), "loss": loss})
    bound, own = hooks.bound("kdtool_token_loss")["loss"], loss.kdtool_token_loss
    train: Any = hooks.component("trainer", kdtool.Trainer).kdtool_train
    for call, name, hook in ((bound, "loss", "kdtool_token_loss"), (own, "trainer", "kdtool_train")):
        with pytest.raises(ValueError, match="in-place") as caught:
            train(None, call, None)
        owner = owner_of(caught.value)
        assert getattr(owner, "name", "") == name
        assert caught.value.__notes__ == [f"raised by {owner} in {hook}"]


def test_a_signal_of_too_many_positions_names_the_teacher_and_its_kind() -> None:
    torch = pytest.importorskip("torch")

    class Teaches(kdtool.Teacher):
        def kdtool_signal(self, batch: Any, want: Any) -> Any:
            head = kdtool.Head(torch.zeros(8, 2), 8)
            lazy = kdtool.LazyLogits(torch.zeros(4, 2), head) if "logits" in want.kinds else None
            return kdtool.Signal("f", lazy, hidden={layer: torch.zeros(4, 2) for layer in want.layers})

    signal: Any = ComponentHooks({"teacher": Teaches(None)}).component("teacher", kdtool.Teacher).kdtool_signal
    three, four = (SimpleNamespace(labels=torch.tensor([labels])) for labels in ([1, -100, 2, 3], [1, 2, 2, 3]))
    logits = kdtool.SignalRequest(frozenset({"logits"}))
    hidden = kdtool.SignalRequest(frozenset({"hidden"}), layers=(1,))
    signal(three, kdtool.SignalRequest(frozenset({"attentions"})))
    message = "its signal has 4 rows in lazy (the logits), but the batch has 3 labels; return one row for each label"
    with pytest.raises(kdtool.PluginError, match=re.escape(message)) as caught:
        signal(three, logits)
    assert "in teacher 'teacher'" in describe(caught.value)
    with pytest.raises(kdtool.PluginError, match=re.escape("4 rows in hidden[1]")):
        signal(three, hidden)
    signal(four, hidden)
    signal(three, hidden)  # rows of each kind are compared once
