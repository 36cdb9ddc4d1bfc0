"""Languages: each is found without being imported, runs, and says what is missing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_programs import (
    Language,
    Program,
    Sandbox,
    SandboxError,
    Step,
    Task,
    Verdict,
    installed_languages,
    language,
    missing,
)

# source, tests that pass, tests that fail
PROGRAMS = {
    "python": ("def f(x): return x + 1", "assert f(1) == 2", "assert f(1) == 3"),
    "javascript": ("function f(x) { return x + 1 }", "console.assert(f(1) === 2)", "console.assert(f(1) === 3)"),
    "cpp": (
        "#include <cassert>\nint f(int x) { return x + 1; }",
        "int main() { assert(f(1) == 2); }",
        "int main() { assert(f(1) == 3); }",
    ),
    "java": (
        "class Solution { int f(int x) { return x + 1; } }",
        "public class Main { public static void main(String[] a) { assert new Solution().f(1) == 2; } }",
        "public class Main { public static void main(String[] a) { assert new Solution().f(1) == 3; } }",
    ),
    "rust": (
        "fn f(x: i32) -> i32 { x + 1 }",
        "fn main() { assert_eq!(f(1), 2); }",
        "#[test]\nfn it() { assert_eq!(f(1), 3); }",
    ),
    "go": (
        'package main\nimport "testing"\nfunc f(x int) int { return x + 1 }',
        'func TestF(t *testing.T) { if f(1) != 2 { t.Fatal("wrong") } }',
        'func TestF(t *testing.T) { if f(1) != 3 { t.Fatal("wrong") } }',
    ),
}


# source that ends with exit code 0 before its tests, and a form of tests that PROGRAMS has not
EARLY = {
    "javascript": ("process.exit(0)", ""),
    "cpp": ("#include <cstdlib>\nint early = (std::exit(0), 1);", "int main() { return 1; }"),
    "java": (
        "class Early { static void end() { System.exit(0); } }",
        "public class Main { public static void main(String[] a) { Early.end(); assert false; } }",
    ),
    "rust": ("fn f() { std::process::exit(0) }", "fn main() { f(); panic!() }"),
    "go": (
        'package main\nimport ("os"; "testing")\nfunc f() { os.Exit(0) }',
        'func TestF(t *testing.T) { f(); t.Fatal("wrong") }',
    ),
}
OTHER_FORMS = {
    "rust": ("fn f(x: i32) -> i32 { x + 1 }", "#[test]\nfn it() { assert_eq!(f(1), 2); }"),
    "go, main": ("package main\nfunc f() int { return 2 }", 'func main() { if f() != 2 { panic("wrong") } }'),
    "cpp, printing": (
        "#include <cstdio>",
        'int main() { for (int i = 0; i < 99999; i++) std::printf("a line of the program\\n"); }',
    ),
}

# source that is wrong and would pass if it changed the meaning of its tests, and the tests
_CPP, _CPP_TESTS = "#include <cassert>\nint f(int x) { return x; }\n", "int main() { assert(f(1) == 2); return 0; }"
_JAVASCRIPT = "function f(x) { return x }\n"
_NODE_TESTS = "const assert = require('node:assert');\nassert.deepEqual(f(1), 2);"
_RUST = "fn f(x: i32) -> i32 { x }\n"
_RUST_TESTS = "#[cfg(test)]\nmod tests {\nuse super::*;\n#[test]\nfn it() { assert_eq!(f(1), 2); }\n}"
_GO = 'package main\nimport "testing"\nfunc f(x int) int { return x }\n'
_GO_TESTS = 'func TestF(t *testing.T) { if f(1) != 2 { t.Fatal("wrong") } }'
CHANGING = {
    "cpp, no assertions": ("#define NDEBUG\n" + _CPP, _CPP_TESTS),
    "cpp, other assertions": (_CPP + "#undef assert\n#define assert(x)", _CPP_TESTS),
    "cpp, keyword": (_CPP + "#define if(x) if (0)", "int main() { if (f(1) != 2) return 1; return 0; }"),
    "java, class": (
        "import java.util.*;\nclass Problem {\n    public static int f(int x) { return x; }\n"
        "    static class Objects { static boolean equals(Object one, Object other) { return true; } }",
        "    public static void main(String[] a) { if (!Objects.equals(f(1), 2)) throw new AssertionError(); }\n}",
    ),
    "java, no assertions": (
        "class Solution { int f(int x) {\n"
        "ClassLoader.getSystemClassLoader().setDefaultAssertionStatus(false); return x; } }",
        "class Check { static void same(int x, int y) { assert x == y; } }\n"
        "public class Main { public static void main(String[] a) { int x = new Solution().f(1); Check.same(x, 2); } }",
    ),
    "javascript, console": (_JAVASCRIPT + "console.assert = () => {}", "console.assert(f(1) === 2)"),
    "javascript, assert": (_JAVASCRIPT + "require('assert').deepEqual = () => {}", _NODE_TESTS),
    "javascript, require": (_JAVASCRIPT + "function require() { return { deepEqual() {} } }", _NODE_TESTS),
    "javascript, JSON": (
        _JAVASCRIPT + "JSON.stringify = () => ''",
        "console.assert(JSON.stringify(f(1)) === JSON.stringify(2))",
    ),
    "rust, macro": (_RUST + "macro_rules! assert_eq { ($($t:tt)*) => {} }", "fn main() { assert_eq!(f(1), 2); }"),
    "rust, no tests": ("#![cfg(not(test))]\n" + _RUST, _RUST_TESTS),
    "rust, not these tests": (_RUST + "#[cfg(any())]", _RUST_TESTS),
    "rust, printing": (
        "use std::io::Write;\n"
        'fn f(x: i32) -> i32 { std::io::stdout().write_all(b"test result: ok.").unwrap(); std::process::exit(0) }',
        "#[test]\nfn it() { assert_eq!(f(1), 2); }",
    ),
    "go, panic": (
        "package main\nfunc f(x int) int { return x }\nfunc panic(x interface{}) {}",
        'func main() { if f(1) != 2 { panic("wrong") } }',
    ),
    "go, no tests": (
        _GO.replace('"testing"', '("os"; "testing")') + 'func init() { os.Args = append(os.Args, "-test.run=^$") }',
        _GO_TESTS,
    ),
}


def _run_one(name: str, source: str, tests: str) -> Verdict:
    try:
        spoken = language(name.partition(",")[0])
    except SandboxError as missing:
        pytest.skip(str(missing))
    with Sandbox(languages=[spoken]) as sandbox:
        (verdict,) = sandbox.run([Task(name, spoken.run(source, tests), 60.0, 2**30)])
    return verdict


@pytest.mark.slow
@pytest.mark.parametrize("name", EARLY)
def test_an_early_exit_is_no_end_of_the_tests(needs_bubblewrap: None, name: str) -> None:
    verdict = _run_one(name, *EARLY[name])
    assert (verdict.status, verdict.reason) == ("failed", "tests: exit code 0 before the end of the tests"), verdict


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGING)
def test_a_program_does_not_change_what_its_tests_mean(needs_bubblewrap: None, name: str) -> None:
    verdict = _run_one(name, *CHANGING[name])
    assert verdict.status == "failed", verdict


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_FORMS)
def test_right_programs_of_other_forms_pass(needs_bubblewrap: None, name: str) -> None:
    verdict = _run_one(name, *OTHER_FORMS[name])
    assert verdict.has_passed, verdict
    assert "KDTOOL" not in verdict.stderr


def test_every_language_is_tried_here() -> None:
    assert set(PROGRAMS) == set(installed_languages())


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_language_runs(needs_bubblewrap: None, name: str) -> None:
    try:
        spoken = language(name)
    except SandboxError as missing:
        pytest.skip(str(missing))
    source, right, wrong = PROGRAMS[name]
    works = {"passed": spoken.run(source, right, ("f",)), "failed": spoken.run(source, wrong, ("f",))}
    with Sandbox(languages=[spoken]) as sandbox:
        verdicts = list(sandbox.run(Task(key, work, 60.0, 2**30) for key, work in works.items()))
    isolation = "isolated" if name == "python" else "isolated, verdict forgeable"
    expected = {(key, key, isolation) for key in works}
    assert {(each.id, each.status, each.isolation) for each in verdicts} == expected, verdicts


def test_missing_toolchain_and_unknown_language_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxError, match=r"programs in go cannot be run: go not found") as caught:
        language("go")
    assert caught.value.exit_code == 10
    with pytest.raises(kdtool.UsageError, match="'kotlin'; installed languages: cpp, go, java"):
        language("kotlin")


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that is outside of /usr and, as /tmp is not, seen in the sandbox."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


_NEEDY = r"""cat "${0%/*}/../lib/part" && sed -n "s/^_\(.*\).end();/\1/p" program.js >&2"""


def test_toolchain_in_a_folder_of_its_own_runs(needs_bubblewrap: None, home: Path, fake_program: Any) -> None:
    fake_program("node", _NEEDY, home / "v20" / "bin")
    (home / "v20" / "lib").mkdir()
    (home / "v20" / "lib" / "part").write_text("")
    assert language("javascript").folders() == (home / "v20" / "bin", home / "v20" / "lib")
    assert missing(["javascript"]) == ()


def test_toolchain_that_does_not_run_in_the_sandbox_is_named_with_what_it_said(
    needs_bubblewrap: None, home: Path, fake_program: Any
) -> None:
    fake_program("node", _NEEDY, home / "v20" / "bin")
    (home / "elsewhere").write_text("")
    (home / "v20" / "lib").mkdir()
    (home / "v20" / "lib" / "part").symlink_to(home / "elsewhere")
    (said,) = missing(["python", "javascript"])
    assert "programs in javascript cannot be run" in said
    assert "tests: exit code 1\ncat: " in said
    assert "a separate folder" in said


def test_folder_where_a_user_keeps_other_things_is_not_shown(
    home: Path, fake_program: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(home))
    for folder in (home, home / ".local", home / "project"):
        fake_program("node", "exit 0", folder / "bin")
        if folder != home / "project":
            (folder / "lib").mkdir()
        assert language("javascript").folders() == ()


def test_language_that_ends_the_process_is_named(tmp_path: Path) -> None:
    (about := tmp_path / "other-1.0.dist-info").mkdir()
    (about / "METADATA").write_text("Name: other\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("[kdtool_programs.languages]\nodd = sys:exit\n", encoding="utf-8")
    program = f"import sys; sys.path.append({str(tmp_path)!r}); import kdtool_programs; kdtool_programs.language('odd')"
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, check=False)
    assert "PluginError: language 'odd' (sys:exit of other) tried to end the process" in done.stderr


def test_language_of_another_package_needs_nothing_here(needs_bubblewrap: None, shell: Language) -> None:
    attempts = {
        "passed": shell.run("f() { echo $(($1 + 1)); }", '[ "$(f 1)" = 2 ]'),
        "failed": shell.run("f() { echo no; echo why >&2; }", "f; exit 3"),
        "passed ": Program({}, (Step(("/bin/sh", "-c", "yes >&2 & echo me >&2"), "tests", 20.0),)),
        "timed out": Program({}, (Step(("/bin/sh", "-c", "(sleep 60; echo x) & wait"), "tests", 0.3),)),
    }
    with Sandbox(languages=[shell]) as sandbox:
        verdicts = list(sandbox.run(Task(expected, work, 60.0) for expected, work in attempts.items()))
    assert {verdict.id: verdict.status for verdict in verdicts} == {name: name.strip() for name in attempts}
    failed = next(verdict for verdict in verdicts if verdict.id == "failed")
    assert (failed.reason, failed.stderr) == ("tests: exit code 3", "why\n")
