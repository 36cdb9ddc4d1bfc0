"""The base of all suites, the suite of every entry point, and that of commands.

`Suite` keeps a suite's tests, and the private methods that they call, in place: a subclass that loses one fails when it is
defined. `kdtool_testing.pytest_plugin` fails what shows only when tests run: a skip in a fixture, by a mark or from code of
the subclass, an empty list of parameters. It also keeps tests marked `for_any_settings` from running for each of several
classes on one component.

An entry point is found, light to import, documented, and bounded in the versions of kdtool it accepts.
"""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import distribution, requires, version
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest
from kdtool._plugins.registry import Entry, find
from packaging.requirements import Requirement
from packaging.version import Version

_HOME = __name__.removesuffix("suite")


def for_any_settings(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that settings do not change: of several classes on a component, only the first runs it."""
    vars(test)["for_any_settings"] = True
    return test


class Suite:
    """Base of all suites.

    A test may be replaced only by one marked `pytest.mark.xfail(reason=…)`, and private methods not at all; public ones
    are there to be overridden.
    """

    @classmethod
    def _unset(cls) -> str:
        """Return what a test class still has to set, as an instruction; "" if nothing."""
        return ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__module__.startswith(_HOME):
            return
        if not cls.__dict__.get("__test__", True):
            raise TypeError(f"{cls.__qualname__} switches off the conformance suite that it inherits")
        for name in sorted(_parts(cls)):
            owner = next(base for base in cls.__mro__ if name in vars(base))
            if owner.__module__.startswith(_HOME):
                continue
            if name.startswith("_"):
                raise TypeError(f"{owner.__qualname__} replaces {name}, on which tests of a conformance suite stand")
            if not _expected_to_fail(vars(owner)[name]):
                raise TypeError(
                    f"{owner.__qualname__} replaces {name}, a test of a conformance suite; remove it, or mark it "
                    "@pytest.mark.xfail(reason=…) and say why the component cannot pass"
                )


def _parts(cls: type) -> set[str]:
    """Return the names of tests and private methods that the class inherits of suites."""
    homes = [base for base in cls.__mro__ if base.__module__.startswith(_HOME)]
    names = {name for base in homes for name, part in vars(base).items() if inspect.isfunction(part)}
    return {name for name in names if name.startswith(("test_", "_")) and not name.startswith("__")}


def _expected_to_fail(test: object) -> bool:
    marks = getattr(test, "pytestmark", [])
    return inspect.isfunction(test) and any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in marks)


HEAVY = (
    "torch", "transformers", "tokenizers", "numpy", "pandas", "pyarrow", "datasets", "accelerate", "peft", "bitsandbytes",
    "safetensors", "gguf", "onnx", "onnxruntime", "scipy", "sklearn", "matplotlib", "wandb", "tensorboard", "mlflow",
    "anthropic", "openai", "httpx", "requests", "aiohttp", "huggingface_hub", "trl", "vllm", "llama_cpp", "jinja2", "rich",
    "tree_sitter", "fastapi", "starlette", "uvicorn",
)  # fmt: skip
"""Packages that the module of an entry point must not import before a hook is called."""
_LIGHT = """
import importlib, json, sys
heavy, offers = json.loads(sys.stdin.read())
class Refuse:
    def find_spec(self, found, path=None, target=None):
        if found.partition(".")[0] in heavy:
            raise ImportError(f"{found} is imported when the component is merely imported or built")
sys.meta_path.insert(0, Refuse())
for module, name, settings in offers:
    offered = importlib.import_module(module)
    for part in name.split("."):
        offered = getattr(offered, part)
    if settings is not None:
        offered(offered.Config.model_validate_json(settings, strict=True))
"""
_Offer = tuple[str, str, str | None]
"""Module, name and, to have it built as well, settings as JSON."""


class OfferedConformance(Suite):
    """Tests for everything that a distribution registers as an entry point; `CommandConformance` and others extend it."""

    kind: ClassVar[str]
    """The kind that the suite is for; "" if it is for all."""
    entry_point: ClassVar[str] = ""
    """The name it is registered under. Without it, tests of the registration fail and the others run."""

    @for_any_settings
    def test_its_name_is_registered_and_leads_to_it(self) -> None:
        assert self._entry().point.load() is self._offer()

    @for_any_settings
    def test_its_distribution_accepts_this_kdtool_and_excludes_the_next_breaking_version(self) -> None:
        name, kdtool = self._distribution(), Version(version("kdtool"))
        requirements = map(Requirement, requires(name) or ())
        accepted = [requirement.specifier for requirement in requirements if requirement.name == "kdtool"]
        breaking = f"{kdtool.major + 1}.0" if kdtool.major else f"0.{kdtool.minor + 1}"
        remedy = f"write `kdtool>={kdtool.major}.{kdtool.minor},<{breaking}` among the dependencies of {name}"
        assert accepted, remedy
        assert all(versions.contains(kdtool, prereleases=True) for versions in accepted), remedy
        assert not any(versions.contains(breaking) for versions in accepted), remedy

    def test_importing_and_building_it_is_light(self, request: pytest.FixtureRequest) -> None:
        offer = self._import_arguments()
        if offer not in _light_offers(request.session):
            process = _import_in_a_process(offer)
            assert process.returncode == 0, process.stderr

    @for_any_settings
    def test_its_readme_names_it(self) -> None:
        assert self.entry_point in self._readme(), f"the README does not mention {self.entry_point!r}"

    def _offer(self) -> Any:
        raise NotImplementedError

    def _kind(self) -> str:
        return self.kind

    def _import_arguments(self) -> _Offer:
        point = self._entry().point
        return point.module, point.attr, None

    def _distribution(self) -> str:
        return self._entry().distribution

    def _entry(self) -> Entry:
        assert self.entry_point, (
            "write `entry_point = …`, the name under which a package registers it; `kdtool new KIND NAME` makes a package "
            "for a class in a local file"
        )
        return find(self._kind(), self.entry_point)

    def _readme(self) -> str:
        for folder in Path(inspect.getfile(type(self))).resolve().parents[1:]:
            if (folder / "README.md").is_file():
                return (folder / "README.md").read_text(encoding="utf-8")
            if (folder / "pyproject.toml").is_file():
                break
        name = self._distribution()
        text = str(distribution(name).metadata.json.get("description", ""))
        assert text, f'{name} has no README: write README.md, and `readme = "README.md"` into its pyproject.toml'
        return text


@cache
def _light_offers(session: pytest.Session) -> frozenset[_Offer]:
    """Return all that the session's tests import and build if one process can do so; nothing otherwise.

    A shared process is as strict as one for each: a refused import leaves no module that another could use.
    """
    offers = []
    for item in session.items:
        if not isinstance(item, pytest.Function) or not item.cls:
            continue
        if item.originalname == "test_importing_and_building_it_is_light" and issubclass(item.cls, OfferedConformance):
            with suppress(Exception):  # its own test shows what is wrong
                offers.append(item.cls()._import_arguments())
    return frozenset(offers) if _import_in_a_process(*offers).returncode == 0 else frozenset()


def _import_in_a_process(*offers: _Offer) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        [sys.executable, "-c", _LIGHT],
        input=json.dumps([HEAVY, offers]),
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )


class CommandConformance(OfferedConformance):
    """A command of `kdtool` helps, refuses what it does not know, and costs nothing before it is used."""

    kind: ClassVar[str] = "command"
    command: ClassVar[Any]
    """The click command under test."""

    @classmethod
    def _unset(cls) -> str:
        """Return an instruction if the command under test is missing."""
        return (
            "" if hasattr(cls, "command") else "write `command = …`, the click command (`component` is for components)"
        )

    def test_it_is_a_command_that_says_what_it_does(self) -> None:
        assert isinstance(self.command, click.Command)
        assert self.command.get_short_help_str(), "give the command a docstring: its first line is shown in lists"

    def test_its_options_and_arguments_are_explained(self) -> None:
        for command in _with_subcommands(self.command):
            assert command.help, f"the command {command.name} has no docstring"
            shown = command.get_help(click.Context(command, terminal_width=60)).splitlines()
            assert all(len(line) <= 60 for line in shown), f"the help of {command.name} is wider than 60 columns"
            for parameter in command.params:
                if isinstance(parameter, click.Option):
                    assert parameter.help or parameter.hidden, f"option {parameter.opts} has no help"

    def test_help_is_shown_under_its_name(self) -> None:
        done = self._run("--help")
        assert done.returncode == 0, done.stderr
        assert f"kdtool {self.entry_point}" in done.stdout

    def test_an_unknown_option_is_a_wrong_call_and_no_crash(self) -> None:
        done = self._run("--no-such-option")
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert "--no-such-option" in done.stderr

    def _offer(self) -> Any:
        return self.command

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kdtool", self.entry_point, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")  # noqa: S603


def _with_subcommands(command: Any) -> Iterator[Any]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from _with_subcommands(inner)
