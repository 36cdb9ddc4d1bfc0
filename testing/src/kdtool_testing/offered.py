"""The suite of every entry point: found, light to import, documented, and bounded in the versions of kdtool it accepts."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib.metadata import distribution, requires, version
from pathlib import Path
from typing import Any, ClassVar

from kdtool._plugins.registry import Entry, find
from packaging.requirements import Requirement
from packaging.version import Version

from kdtool_testing.suite import Suite

__all__ = ["OfferedConformance"]

HEAVY = (
    "torch", "transformers", "tokenizers", "numpy", "pandas", "pyarrow", "datasets", "accelerate", "peft", "bitsandbytes",
    "safetensors", "gguf", "onnx", "onnxruntime", "scipy", "sklearn", "matplotlib", "wandb", "tensorboard", "mlflow",
    "anthropic", "openai", "httpx", "requests", "aiohttp", "huggingface_hub", "trl", "vllm", "llama_cpp", "jinja2", "rich",
    "tree_sitter", "fastapi", "starlette", "uvicorn",
)  # fmt: skip
"""Packages that the module of an entry point must not import before a hook is called."""

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
    """Tests for everything that a distribution registers as an entry point; `CommandConformance` and others extend it."""

    kind: ClassVar[str]
    """The kind that the suite is for; "" if it is for all."""
    entry_point: ClassVar[str] = ""
    """The name it is registered under. Without it, tests of the registration fail and the others run."""

    def test_its_name_is_registered_and_leads_to_it(self) -> None:
        assert self._entry().point.load() is self._offer()

    def test_its_distribution_accepts_this_kdtool_and_excludes_the_next_breaking_version(self) -> None:
        name, kdtool = self._distribution(), Version(version("kdtool"))
        requirements = map(Requirement, requires(name) or ())
        accepted = [requirement.specifier for requirement in requirements if requirement.name == "kdtool"]
        breaking = f"{kdtool.major + 1}.0" if kdtool.major else f"0.{kdtool.minor + 1}"
        remedy = f"write `kdtool>={kdtool.major}.{kdtool.minor},<{breaking}` among the dependencies of {name}"
        assert accepted, remedy
        assert all(versions.contains(kdtool, prereleases=True) for versions in accepted), remedy
        assert not any(versions.contains(breaking) for versions in accepted), remedy

    def test_importing_and_building_it_is_light(self) -> None:
        module, name, settings = self._import_arguments()
        process = subprocess.run(  # noqa: S603
            [sys.executable, "-c", _LIGHT],
            input=json.dumps([HEAVY, module, name, settings]),
            capture_output=True,
            text=True,
            check=False,
            encoding="utf-8",
        )
        assert process.returncode == 0, process.stderr

    def test_its_readme_names_it(self) -> None:
        assert self.entry_point in self._readme(), f"the README does not mention {self.entry_point!r}"

    def _offer(self) -> Any:
        raise NotImplementedError

    def _kind(self) -> str:
        return self.kind

    def _import_arguments(self) -> tuple[str, str, str | None]:
        """Return module, name and, to have it built as well, settings as JSON."""
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
        beside = Path(inspect.getfile(type(self))).resolve().parents[1] / "README.md"
        if beside.is_file():
            return beside.read_text(encoding="utf-8")
        name = self._distribution()
        text = str(distribution(name).metadata.json.get("description", ""))
        assert text, f'{name} has no README: write README.md, and `readme = "README.md"` into its pyproject.toml'
        return text
