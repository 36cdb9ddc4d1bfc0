"""A new kind is a class and a line of the table: groups, recipe keys, reserved keys, hooks and the schema follow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SAMPLERS = '''
import kdtool
from kdtool._contract.component import hook


class Sampler(kdtool.Component):
    """A kind of its own."""

    kind = "sampler"

    @hook(needed=True)
    def kdtool_sample(self, count: int) -> str:
        """Return a sample."""
        raise NotImplementedError


class Letters(Sampler):
    """Letters."""

    class Config(kdtool.Config):
        letter: str = "x"
        """The letter to repeat."""

    def kdtool_sample(self, count):
        return count * self.config.letter


class Nothing(Sampler):
    """Lacks its hook, and has a setting that is a key."""

    class Config(kdtool.Config):
        often: bool = True
        """A key of kdtool."""
'''

PROGRAM = """
import json, sys
from kdtool._contract import kind_table
kind = kind_table.Kind("sampler", "samplers:Sampler", "samplers", "run", keys=("often",))
kind_table.TABLE = (*kind_table.TABLE, kind)

import kdtool, samplers
from kdtool._assembly.assemble import assemble
from kdtool._assembly.json_schema import recipe_schema
from kdtool._plugins.registry import GROUPS
from kdtool._plugins.hook_specs import mistakes
from kdtool._recipe.parser import load_recipe

assert GROUPS["sampler"] == "kdtool.samplers"
wrong = [*mistakes(samplers.Nothing, "sampler")]
assert len(wrong) == 2 and "'often'" in wrong[0] and "kdtool_sample, which every sampler needs" in wrong[1], wrong
assert "samplers" in recipe_schema()["properties"]
recipe = load_recipe({**json.loads(sys.argv[1]), "sampler": {"use": "samplers:Letters", "letter": "y"}})
with assemble(recipe) as assembly:
    assert list(assembly.of_kind("sampler")) == ["sampler"]
    assert assembly.hooks().kdtool_sample(3) == {"sampler": "yyy"}
    assert assembly.hooks().component("sampler", samplers.Sampler).kdtool_sample(count=2) == "yy"
"""


def test_a_kind_of_its_own(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "samplers.py").write_text(SAMPLERS, encoding="utf-8")
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PROGRAM}",
        json.dumps(recipe),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
