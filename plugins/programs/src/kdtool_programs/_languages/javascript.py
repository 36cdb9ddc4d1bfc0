"""JavaScript, run by Node.js."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path

from kdtool_programs._language import Language, locate
from kdtool_programs._task import ENDING, Program, Step

__all__ = ["JavaScript"]

_BEFORE = f"""\
const modules = {{ __proto__: null }};
for (const name of ['assert', 'assert/strict', 'util']) {{
  modules[name] = modules['node:' + name] = Object.freeze(require(name));
}}

function check(ok, ...text) {{
  if (!ok) throw new Error('Assertion failed: ' + text.join(' '));
}}
Object.defineProperty(console, 'assert', {{ value: check, writable: false, configurable: false }});

const [writeOutput, writeError] = [process.stdout, process.stderr].map((stream) => stream.write.bind(stream));
const tools = {{
  console,
  JSON: Object.freeze(JSON),
  require: (name) => modules[name] || require(name),
  end: () => writeOutput('', () => writeError('{ENDING}')),
}};
Object.defineProperty(globalThis, '_{ENDING}', {{ value: Object.freeze(tools) }});
"""
"""Runs before the program and saves what its tests need, so that the program cannot change it.

The end is written after all earlier output; only the last part of the output is kept.

`console.assert` of Node only prints what is wrong; tests that use it would pass by exit code.
"""
_TESTS = f"""
;{{
const {{ console, JSON, require }} = _{ENDING};
{{
%s
}}
_{ENDING}.end();
}}
"""
"""The tests, in a block where the program's own `console`, `JSON` and `require` do not apply."""
_MODULE_TESTS = f"""
;
%s
_{ENDING}.end();
"""
_IMPORT = re.compile(r"^\s*(?:import\b(?!\s*[(.])|export\b)", re.MULTILINE)
"""Statements that are allowed only outside of blocks."""


class JavaScript(Language):
    """JavaScript."""

    name = "javascript"
    suffixes = (".js", ".mjs", ".cjs")
    stops = ("\n}\n", "\nfunction ", "\n/*", "\n//", "\nconsole.log", "\nconst ", "\n```")
    programs = ("node",)

    def detect(self, path: str, text: str) -> bool:
        return super().detect(path, text) or (text.startswith("#!") and "node" in text.partition("\n")[0])

    def folders(self) -> tuple[Path, ...]:
        """Return the toolchain's folders, and those of Node's bundled modules if a distribution keeps them elsewhere."""
        return (*super().folders(), *_shared_modules(str(locate("node"))))

    def parse(self, source: str) -> Program:
        return Program({"program.js": source}, (Step((str(locate("node")), "--check", "program.js"), "syntax"),))

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Program:
        command = (str(locate("node")), "--require", "./before.js", "program.js")
        ended = (_MODULE_TESTS if _IMPORT.search(tests) else _TESTS) % tests
        return Program({"before.js": _BEFORE, "program.js": source + ended}, (Step(command, "tests", ending=ENDING),))


@cache
def _shared_modules(node: str) -> tuple[Path, ...]:
    ask = "console.log(JSON.stringify(process.config.variables.node_builtin_shareable_builtins || []))"
    output = subprocess.run([node, "-e", ask], capture_output=True, text=True, check=False).stdout  # noqa: S603 (Node)
    files = [Path(file) for file in json.loads(output or "[]")]
    return tuple(dict.fromkeys(file.parent for file in files if file.is_absolute() and file.is_file()))
