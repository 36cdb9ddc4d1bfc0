"""The lifetime of components: each one that is built is closed, once, whatever a command does and however it ends."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._api import report

COUNTED = """
import os, sys
sys.path.insert(0, HERE)
import kdtool, toy

NUMBER = 0
NAMES = "Corpus Packer Teacher Cache Student Trainer Count Imitate Nats Export Events Report".split()


def write(component, event):
    with open(LOG, "a") as file:
        print(event, type(component).__name__, component.number, file=file)


def fail(where):
    if os.environ.get("FAILS") == where:
        raise RuntimeError(f"failed in {where}")


def counted(cls):
    def __init__(self, config):
        global NUMBER
        NUMBER += 1
        self.number = NUMBER
        fail(f"{cls.__name__}.__init__")
        super(own, self).__init__(config)
        write(self, "open")

    def kdtool_close(self):
        write(self, "close")
        fail(f"{cls.__name__}.kdtool_close")

    members = {"__init__": __init__, "kdtool_close": kdtool_close, "__doc__": "Counted.", "__module__": __name__}
    own = type(cls.__name__, (cls,), members)
    return own


for name in NAMES:
    globals()[name] = counted(getattr(toy, name))


class Failing(Trainer):
    "Fails while it trains."

    def kdtool_train(self, run, phase, student):
        raise (KeyboardInterrupt if os.environ.get("FAILS") == "stop" else RuntimeError)("in training")


class Lacking(Count):
    "Lacks something."

    def kdtool_check(self, run, when):
        return ["a library"]


"""


@pytest.fixture
def counted(recipe: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The toy recipe with components that write down when they are built and closed."""
    file = tmp_path / "counted.py"
    here, log = str(Path(__file__).parent), str(tmp_path / "log")
    file.write_text(COUNTED.replace("HERE", repr(here)).replace("LOG", repr(log)), encoding="utf-8")
    text = json.dumps(recipe).replace(str(Path(here) / "toy.py"), str(file))
    found: dict[str, Any] = json.loads(text)
    return found


def events() -> Counter[str]:
    """Return how often each component that was built, by its class and number, was opened and closed."""
    log = Path("log")
    found = Counter(log.read_text(encoding="utf-8").splitlines()) if log.exists() else Counter[str]()
    log.unlink(missing_ok=True)
    return found


def assert_balanced(least: int = 10) -> None:
    """Each component was opened once and closed once, and there were some."""
    found = events()
    opened = {text.removeprefix("open ") for text in found if text.startswith("open ")}
    closed = {text.removeprefix("close ") for text in found if text.startswith("close ")}
    assert sorted(opened - closed) == [], "never closed"
    assert sorted(closed - opened) == [], "closed without having been opened"
    assert [text for text, count in found.items() if count > 1] == [], "more than once"
    assert len(opened) >= least


COMMANDS: dict[str, Callable[..., object]] = {
    "check": kdtool.check,
    "check --fit": lambda recipe: kdtool.check(recipe, fit=True),
    "plan": kdtool.plan,
    "run": kdtool.run,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_components_are_closed(counted: dict[str, Any], command: str) -> None:
    COMMANDS[command](counted)
    assert_balanced()


def test_components_are_closed_by_eval_and_report(counted: dict[str, Any]) -> None:
    results = kdtool.run(counted)
    events()
    Path("toy.json").write_text(json.dumps(counted), encoding="utf-8")
    kdtool.evaluate([results.arms[0].artifacts[0].path], recipe=Path("toy.json"))
    assert_balanced(5)
    report(results.folder)
    assert_balanced(1)


@pytest.mark.parametrize(
    ("settings", "fails", "error"),
    [
        ({"trainer.use": "counted.py:Failing"}, "", "in training"),
        ({"trainer.use": "counted.py:Failing"}, "stop", ""),
        ({"train.losses.count.use": "counted.py:Lacking"}, "", "a library"),
        ({}, "Nats.__init__", "failed in Nats.__init__"),
        ({"teachers.other.use": "none.py:None"}, "", "none.py"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check", "plan"])
def test_components_are_closed_after_a_failure(
    counted: dict[str, Any], monkeypatch: pytest.MonkeyPatch, settings: Any, fails: str, error: str, command: str
) -> None:
    monkeypatch.setenv("FAILS", fails)
    try:
        COMMANDS[command](counted, settings)
    except BaseException as raised:
        assert error in str(raised)
    else:
        assert command != "run" or not error
    assert_balanced()


def test_one_that_cannot_be_closed_is_named_and_does_not_stop_the_others(
    counted: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAILS", "Teacher.kdtool_close")
    kdtool.run(counted)
    assert_balanced()
    failure = "counted.py:Teacher) could not be closed: RuntimeError: failed in Teacher.kdtool_close"
    assert failure in capsys.readouterr().err
