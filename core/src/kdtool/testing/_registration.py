"""Suites of what is offered by an entry point: found, light, documented, for a contract that this core gives."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kdtool._contract.component import Component
from kdtool._plugins.distributions import CONTRACT, contracts_of, refusal
from kdtool.testing._guard import Suite

__all__ = ["CommandConformance", "OfferedConformance", "RegistrationConformance"]

HEAVY = (
    "torch", "transformers", "tokenizers", "numpy", "pandas", "pyarrow", "datasets", "accelerate", "peft", "bitsandbytes",
    "safetensors", "gguf", "onnx", "onnxruntime", "scipy", "sklearn", "matplotlib", "wandb", "tensorboard", "mlflow",
    "anthropic", "openai", "httpx", "requests", "aiohttp", "huggingface_hub", "trl", "vllm", "llama_cpp", "jinja2", "rich",
    "tree_sitter", "fastapi", "starlette", "uvicorn",
)  # fmt: skip
"""What the module that an entry point names must not import before a hook is called."""

_LIGHT = """
import importlib, json, sys
heavy, module, name, settings = json.loads(sys.stdin.read())
class Refuse:
    def find_spec(self, found, path=None, target=None):
        if found.partition(".")[0] in heavy:
            raise ImportError(f"{found} is imported when the component is merely imported or built")
sys.meta_path.insert(0, Refuse())
offered = importlib.import_module(module)
for part in name.split("."):
    offered = getattr(offered, part)
if settings is not None:
    offered(offered.Config.model_validate_json(settings, strict=True))
"""


class OfferedConformance(Suite):
    """What holds for everything that a distribution offers by an entry point; `CommandConformance` and others extend it."""

    kind: ClassVar[str]
    """The kind that the suite is for; "" where it is for all."""
    entry_point: ClassVar[str]
    """The name it is registered under."""

    def test_its_name_is_registered_and_leads_to_it(self) -> None:
        from kdtool._plugins.registry import find

        assert find(self._kind(), self.entry_point).point.load() is self._offered()

    def test_its_distribution_states_the_contract_it_was_written_for(self) -> None:
        owner = distribution(self._distribution())
        assert contracts_of(owner), f"let {owner.name} depend on kdtool[contract-{CONTRACT}] in its pyproject.toml"
        assert refusal(owner) == ""

    def test_importing_and_building_it_is_light(self) -> None:
        module, name, settings = self._built()
        process = subprocess.run(  # noqa: S603
            [sys.executable, "-c", _LIGHT],
            input=json.dumps([HEAVY, module, name, settings]),
            capture_output=True,
            text=True,
            check=False,
            encoding="utf-8",
        )
        assert process.returncode == 0, process.stderr

    def test_its_readme_names_it_and_its_settings(self) -> None:
        text = self._readme()
        for word in (self.entry_point, *self._words()):
            assert word in text, f"the README does not mention {word!r}"

    def _offered(self) -> Any:
        raise NotImplementedError

    def _kind(self) -> str:
        return self.kind

    def _built(self) -> tuple[str, str, str | None]:
        """Return module, name and, to have it built as well, settings as JSON."""
        from kdtool._plugins.registry import find

        point = find(self._kind(), self.entry_point).point
        return point.module, point.attr, None

    def _words(self) -> tuple[str, ...]:
        return ()

    def _distribution(self) -> str:
        from kdtool._plugins.registry import find

        return find(self._kind(), self.entry_point).distribution

    def _readme(self) -> str:
        beside = Path(inspect.getfile(type(self))).resolve().parents[1] / "README.md"
        if beside.is_file():
            return beside.read_text(encoding="utf-8")
        return str(distribution(self._distribution()).metadata.json["description"])


class RegistrationConformance(OfferedConformance):
    """A component is found under its name, can be registered, imports nothing heavy, and is shown by its README."""

    kind: ClassVar[str] = ""
    component: ClassVar[type[Component]]
    """The class under test."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """A valid config, as a recipe would write it."""

    def test_it_is_of_the_suite_s_kind(self) -> None:
        assert self.kind in {"", self.component.kind}, f"inherit the suite of the kind {self.component.kind}"

    def test_nothing_hinders_its_registration(self) -> None:
        from kdtool._plugins.validation import mistakes

        assert list(mistakes(self.component, self._kind())) == []

    def test_its_readme_s_recipe_can_be_assembled(self, tmp_path: Path) -> None:
        from kdtool.testing._examples import uses

        blocks = re.findall(r"```ya?ml\n(.*?)```", self._readme(), re.DOTALL)
        assert blocks, "the README shows no recipe in a yaml block"
        found = {use for number, block in enumerate(blocks) for use in uses(block, tmp_path / str(number))}
        assert (self._kind(), self.entry_point) in found, f"no recipe of the README uses it; they use {sorted(found)}"

    def test_a_recipe_s_json_schema_takes_its_settings_and_refuses_others(self) -> None:
        schemas = pytest.importorskip("jsonschema", reason="needs the package jsonschema")
        schema = self.component.Config.model_json_schema()
        schemas.Draft202012Validator.check_schema(schema)
        validator = schemas.Draft202012Validator(schema)
        assert list(validator.iter_errors(dict(self.settings))) == []
        assert not validator.is_valid({**self.settings, "no_such_setting": 1})

    def _offered(self) -> Any:
        return self.component

    def _kind(self) -> str:
        return self.component.kind

    def _built(self) -> tuple[str, str, str | None]:
        return self.component.__module__, self.component.__qualname__, json.dumps(dict(self.settings))

    def _words(self) -> tuple[str, ...]:
        return tuple(self.component.Config.model_fields)


class CommandConformance(OfferedConformance):
    """A command of `kdtool` helps, refuses what it does not know, and costs nothing before it is used."""

    kind: ClassVar[str] = "command"
    command: ClassVar[Any]
    """The click command under test."""

    def test_it_is_a_command_that_says_what_it_does(self) -> None:
        import click

        assert isinstance(self.command, click.Command)
        assert self.command.get_short_help_str(), "give the command a docstring: its first line is shown in lists"

    def test_its_options_and_arguments_are_explained(self) -> None:
        import click

        for command in _with_subcommands(self.command):
            assert command.help, f"the command {command.name} has no docstring"
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

    def _offered(self) -> Any:
        return self.command

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kdtool", self.entry_point, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")  # noqa: S603


def _with_subcommands(command: Any) -> Iterator[Any]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from _with_subcommands(inner)
