"""Languages that a runtime executes: Python, JavaScript by Node.js, Java by the JDK's compiler.

Python is the one language with a verdict that cannot be forged, because tests and program run in two processes.
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path

from kdtool_programs.languages import Language, locate
from kdtool_programs.tasks import ENDING, Module, Program, Step


class Python(Language):
    """Python, of the interpreter that runs kdtool."""

    name = "python"

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Module:
        return Module(source, tests, names, helpers)


_JAVASCRIPT_BEFORE = f"""\
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
_JAVASCRIPT_TESTS = f"""
;{{
const {{ console, JSON, require }} = _{ENDING};
{{
%s
}}
_{ENDING}.end();
}}
"""
"""The tests, in a block where the program's own `console`, `JSON` and `require` do not apply."""
_JAVASCRIPT_MODULE_TESTS = f"""
;
%s
_{ENDING}.end();
"""
_JAVASCRIPT_IMPORT = re.compile(r"^\s*(?:import\b(?!\s*[(.])|export\b)", re.MULTILINE)
"""Statements that are allowed only outside of blocks."""


class JavaScript(Language):
    """JavaScript."""

    name = "javascript"
    programs = ("node",)

    def folders(self) -> tuple[Path, ...]:
        """Return the toolchain's folders, and those of Node's bundled modules if a distribution keeps them elsewhere."""
        return (*super().folders(), *_shared_node_modules(str(locate("node"))))

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Program:
        command = (str(locate("node")), "--require", "./before.js", "program.js")
        ended = (_JAVASCRIPT_MODULE_TESTS if _JAVASCRIPT_IMPORT.search(tests) else _JAVASCRIPT_TESTS) % tests
        return Program(
            {"before.js": _JAVASCRIPT_BEFORE, "program.js": source + ended}, (Step(command, "tests", ending=ENDING),)
        )


@cache
def _shared_node_modules(node: str) -> tuple[Path, ...]:
    ask = "console.log(JSON.stringify(process.config.variables.node_builtin_shareable_builtins || []))"
    output = subprocess.run([node, "-e", ask], capture_output=True, text=True, check=False).stdout  # noqa: S603 (Node)
    files = [Path(file) for file in json.loads(output or "[]")]
    return tuple(dict.fromkeys(file.parent for file in files if file.is_absolute() and file.is_file()))


_JAVA_COMPILING = 30.0
_JAVA_FRUGAL = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xss64m")
_JAVA_LOADER = "-Djava.system.class.loader=TestsWithEnd"
_JAVA_OUTER = re.compile(r"^(?:(?:public|final|abstract)\s+)*class\s+(\w+)", re.MULTILINE)
"""A class that is in no other one, by its indentation."""
_JAVA_END = """\
public class TestsWithEnd extends java.lang.ClassLoader {
    public TestsWithEnd(java.lang.ClassLoader parent) {
        super(parent);
        super.setDefaultAssertionStatus(true);
    }

    public static void main(java.lang.String[] arguments) throws java.lang.Throwable {
        %s.main(arguments);
        java.lang.System.out.flush();
        new java.io.FileOutputStream(java.io.FileDescriptor.err).write("%s".getBytes());
    }

    protected java.lang.Class<?> loadClass(java.lang.String name, boolean resolve)
            throws java.lang.ClassNotFoundException {
        synchronized (getClassLoadingLock(name)) {
            java.io.File file = new java.io.File(name + ".class");
            if (findLoadedClass(name) != null || !file.exists()) return super.loadClass(name, resolve);
            try {
                byte[] code = java.nio.file.Files.readAllBytes(file.toPath());
                return defineClass(name, code, 0, code.length);
            } catch (java.io.IOException error) {
                throw new java.lang.ClassNotFoundException(name, error);
            }
        }
    }

    public void clearAssertionStatus() {}
    public void setClassAssertionStatus(java.lang.String name, boolean enabled) {}
    public void setDefaultAssertionStatus(boolean enabled) {}
    public void setPackageAssertionStatus(java.lang.String name, boolean enabled) {}
}
"""
"""Runs the tests, and is the class loader of all classes here: one that always has assertions on."""
_PACKAGES = {
    "lang": ("Boolean", "Byte", "Character", "Double", "Float", "Integer", "Long", "Math", "Short", "String", "System"),
    "util": ("Arrays", "Collections", "Objects"),
}
_QUALIFIED = {name: f"java.{package}.{name}" for package, names in _PACKAGES.items() for name in names}
_LITERAL = r"""\"{3}[\s\S]*?\"{3}|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|//.*|/\*[\s\S]*?\*/"""
_JAVA_USE = re.compile(rf"{_LITERAL}|(?<![\w.])(?:{'|'.join(_QUALIFIED)})(?=\s*(?:\.|::))")


class Java(Language):
    """Java. Assertions are on; the class that has `main` is run.

    Tests find classes such as `Objects` in Java's own packages, regardless of the classes that a program declares.
    """

    name = "java"
    programs = ("java", "javac")
    trial = "class Main { public static void main(String[] a) {} }"

    def folders(self) -> tuple[Path, ...]:
        """Return the JDK, and its settings if a distribution keeps them elsewhere."""
        home = locate("java").parent.parent
        settings = (home / "conf" / "security" / "java.security", home / "lib" / "security" / "default.policy")
        linked = [path.resolve() for path in settings if path.exists()]
        return (home, *{Path(*path.parts[:3]) for path in linked if path.is_relative_to("/etc")})

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Program:
        # Calls such as `Objects.equals` are written `java.util.Objects.equals`.
        text = f"{source}\n{_JAVA_USE.sub(lambda match: _QUALIFIED.get(match[0], match[0]), tests)}\n"
        before, main, _ = text.rpartition("static void main")
        classes = _JAVA_OUTER.findall(before if main else text)
        name = classes[-1] if classes else "Main"
        flags = tuple(f"-J{flag}" for flag in _JAVA_FRUGAL)
        build = (str(locate("javac")), *flags, "-proc:none", "-nowarn", "-d", ".", f"{name}.java", "TestsWithEnd.java")
        command = (str(locate("java")), *_JAVA_FRUGAL, _JAVA_LOADER, "-cp", ".", "TestsWithEnd")
        files = {f"{name}.java": text, "TestsWithEnd.java": _JAVA_END % (name, ENDING)}
        return Program(files, (Step(build, "compiler", _JAVA_COMPILING), Step(command, "tests", ending=ENDING)))
