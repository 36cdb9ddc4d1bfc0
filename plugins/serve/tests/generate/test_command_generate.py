"""`kdtool generate`: one answer, several side by side, JSON, and a session typed into a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool._cli import call
from kdtool._results.files import write_results
from kdtool._text import terminal
from kdtool_serve.generate.answers import Settings
from kdtool_serve.generate.command import generate
from kdtool_serve.generate.terminal import CodeStream, Session, converse
from kdtool_testing import CommandConformance, make_results
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

OPENER = '''
import time
import kdtool


class Slow(kdtool.Runtime):
    """Counts, a number a token."""

    abilities = frozenset({"continue", "infill", "converse"})
    closed = 0

    def __init__(self, name):
        self.name = name

    def answer(self, requests):
        raise NotImplementedError

    def stream(self, request):
        if "[full]" in request.prompt:
            raise RuntimeError("no memory [/x]")
        if len(request.prompt) > 1000:
            yield kdtool.TextPiece("", 1001, 0, "refused")
            return
        text = f"{self.name}{'' if request.suffix is None else request.suffix}{len(request.turns) or ''}"
        try:
            if request.prompt == "def one():":
                for number, line in enumerate(["\\n", "    return 1\\n", "\\n", "print(2)\\n"], 1):
                    yield kdtool.TextPiece(line, 3, number, "length" if number == 4 else None)
                return
            for number in range(request.max_tokens):
                last = number == request.max_tokens - 1
                time.sleep(0.002)
                yield kdtool.TextPiece(f"{text} {number}\\n", 3, number + 1, "length" if last else None)
        finally:
            Slow.closed += 1

    def memory(self):
        return 2_000_000


def open_runtime(subject):
    return Slow(subject.name) if subject.role != "teacher" else None


class Opener(kdtool.Exporter):
    """Opens any folder."""

    def kdtool_export(self, run, trained):
        raise NotImplementedError

    def kdtool_open(self, run, subject):
        return open_runtime(subject)
'''
TINY = """

def open_runtime(subject):
    from kdtool_transformers import TransformersRuntime
    from kdtool_testing.tiny_models import tiny_model

    return TransformersRuntime(tiny_model(layers=1))
"""
"""Added to the opener: models of transformers."""


class TestGenerate(CommandConformance):
    command = generate
    entry_point = "generate"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A finished run whose models count."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "opener.py").write_text(OPENER, encoding="utf-8")
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    subjects = tuple(kdtool.Subject(role, role, folder / role) for role in ("student", "control"))
    recipe = {"exporters": {"opener": {"use": f"{tmp_path / 'opener.py'}:Opener"}}}
    made = replace(make_results(folder), measurements=(), comparisons=())
    write_results(replace(made, subjects=subjects, recipe=recipe))
    return "small"


class Generated:
    """Runs `kdtool generate` on that run, and returns what it prints."""

    def __init__(self, run: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._run, self._capsys = run, capsys

    def __call__(self, *arguments: str) -> tuple[str, str]:
        assert call(["generate", self._run, *arguments]) == 0
        return tuple(self._capsys.readouterr())  # type: ignore[return-value]

    def lines(self, *arguments: str) -> list[Any]:
        """Return the lines of JSON."""
        return [json.loads(line) for line in self(*arguments, "--json")[0].splitlines()]


@pytest.fixture
def generated(run: str, capsys: pytest.CaptureFixture[str]) -> Generated:
    return Generated(run, capsys)


def test_one_answer_is_all_of_the_output(generated: Generated) -> None:
    out, err = generated("count", "--max-tokens", "3")
    assert out == "student 0\nstudent 1\nstudent 2\n\n"
    assert "student: 3 tokens, first after" in err
    assert "2 MB" in err


def test_json_has_a_line_for_each_model(generated: Generated) -> None:
    lines = generated.lines("count", "--max-tokens", "2", "--model", "control", "--model", "student")
    assert [line["model"] for line in lines] == ["control", "student"]
    assert lines[0]["text"] == "control 0\ncontrol 1\n"
    assert (lines[0]["tokens_in"], lines[0]["tokens_out"], lines[0]["finish"]) == (3, 2, "length")
    assert 0 < lines[0]["first_token_seconds"] < lines[0]["seconds"]
    assert lines[0]["memory"] == 2_000_000


def test_an_answer_ends_with_the_function_unless_it_is_raw(generated: Generated) -> None:
    out, err = generated("def one():")
    assert out == "\n    return 1\n"
    assert err.rstrip().endswith("stopped: the definition ended")
    out, err = generated("def one():", "--raw")
    assert out == "\n    return 1\n\nprint(2)\n\n"
    assert "stopped" not in err
    (line,) = generated.lines("def one():")
    assert (line["text"], line["finish"], line["reason"]) == ("\n    return 1", "stop", "the definition ended")


def test_a_model_of_the_run_drafts_for_another(generated: Generated) -> None:
    Path("opener.py").write_text(OPENER + TINY, encoding="utf-8")
    words = ["x = ", "--max-tokens", "10", "--model", "control"]
    alone = generated.lines(*words, "--model", "student")
    drafted = generated.lines(*words, "--model", "student", "--draft", "student")
    assert [line["text"] for line in drafted] == [line["text"] for line in alone]
    assert [line.get("tokens_per_step") for line in drafted] == [5.0, None]  # the draft itself answers alone
    assert "5.00 tokens per step" in generated(*words, "--draft", "student")[1]
    (line,) = generated.lines("x = ", "--max-tokens", "5", "--model", "control", "--draft", "student")
    assert (line["tokens_out"], line["tokens_per_second"]) == (5, None), "all came at once"


def test_a_gap_is_split_and_a_chat_has_turns(generated: Generated) -> None:
    assert generated("a <FILL_ME>+b", "--fim", "--max-tokens", "1")[0].startswith("student+b 0")
    assert generated("why?", "--chat", "--max-tokens", "1")[0].startswith("student1 0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small", "a", "--file", "x.txt"], "given twice"),
        (["small", "nothing missing", "--fim"], "must contain <FILL_ME> once, but this one contains it 0 times"),
        (["small", "x" * 1001], "refuses the request: its prompt of 1,001 tokens leaves no room"),
        (["small", "a", "--model", "studnet"], "there is no model 'studnet' here; did you mean 'student'"),
        (["tiny", "a"], "'tiny' is not a model, nor a finished run"),
        (["small", "a", "--language", "klingon"], "no colours are known for 'klingon'"),
        (["small", "--file", "latin.txt"], "latin.txt is not UTF-8 text"),
        (["small", "a", "--interactive", "--json"], "leave one out"),
        (["small", "a <FILL_ME>", "--fim"], "no FIM tokens"),
        (["small", "a", "--chat"], "no chat template"),
        (["small", "a", "--model", "control", "--draft", "student"], "is not a model of transformers"),
        (["small", "a", "--draft", "student"], "would draft for itself"),
    ],
)
def test_a_wrong_call_is_one_sentence(
    run: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if message.startswith("no "):
        Path("opener.py").write_text(OPENER.replace('"infill", "converse"', ""), encoding="utf-8")
    Path("x.txt").write_text("x", encoding="utf-8")
    Path("latin.txt").write_bytes(b"\xe9")
    assert call(["generate", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@contextmanager
def _session(run: str, *, chosen: tuple[str, ...] = ("student",)) -> Iterator[tuple[Session, io.StringIO]]:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=False)
    with (
        redirect_stdout(out),
        kdtool.open_models(run) as models,
        Session(models, list(chosen), Settings(max_tokens=2), console, "python") as session,
    ):
        yield session, out


def _said(out: io.StringIO) -> str:
    text = out.getvalue()
    out.seek(0)
    out.truncate()
    return text


def test_a_session_switches_models_settings_and_chat(run: str) -> None:
    with _session(run) as (session, out):
        assert session.handle("count")
        assert "student 1" in _said(out)
        session.handle("/model control")
        assert "* control" in _said(out)
        session.handle("/set max_tokens=1 temperature=0.5 stop=END,\\n")
        assert "max_tokens=1, temperature=0.5" in _said(out)
        assert session.settings.stop == ("END", "\n")
        session.handle("/retry")
        assert "control 0" in _said(out)
        assert session.settings.seed == 1, "sampling again gives another answer"
        session.handle("/chat")
        session.handle("first")
        session.handle("second")
        assert "control3 0" in _said(out), "the assistant sees the turns before"
        session.handle("/retry")
        assert "control3 0" in _said(out), "instead of the turn before"
        session.handle("[full]")
        session.handle("/retry")
        session.handle("third")
        assert "control5 0" in _said(out), "a failed prompt is none of the turns"
        session.handle("/clear")
        session.handle("third")
        assert "control1 0" in _said(out)
        assert not session.handle("/quit")


@pytest.mark.parametrize("columns", [None, 60, 80, 100])
def test_lines_of_a_session_end_at_words_in_a_terminal(
    columns: int | None, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "width_of", lambda _: columns)
    with _session(run) as (session, out):
        for line in ("/help", "/nothing" + "x" * 120, "/model"):
            session.handle(line)
        shown = [line for line in _said(out).splitlines() if "xxx" not in line]
    assert max(map(len, shown)) <= (columns or 140)
    assert (len(shown) > 8 + 2) == (columns is not None), shown


def test_mistakes_in_a_session_do_not_end_it(run: str) -> None:
    with _session(run) as (session, out):
        for line, message in {
            "/retry": "no prompt to retry", "/set colour=1": "is not a setting", "/set top_p=2": "from 0 to 1",
            "/set max_tokens=many": "must be a number", "/model other": "no model 'other'", "/nothing": "no command",
            "x" * 1001: "refuses the request", "[full]": "no memory [/x]",
        }.items():  # fmt: skip
            assert session.handle(line)
            assert message in _said(out)
        session._opened["student"] = _Interrupted(KeyboardInterrupt())
        assert session.handle("count")
        session._opened["student"] = _Interrupted(KeyboardInterrupt("SIGTERM"))
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            session.handle("count")
        del session._opened["student"]
        assert session.chosen == ["student"]
        session.handle("/usr/bin/env is a prompt")
        assert "student 0" in _said(out)


class _Interrupted(kdtool.Runtime):
    """Is interrupted while it answers."""

    abilities: frozenset[kdtool.Ability] = frozenset({"continue"})

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        raise self._error


def test_a_pipe_gets_neither_colours_nor_carriage_returns(run: str) -> None:
    with _session(run) as (session, out):
        session.handle("count")
        assert not {"\r", "\x1b"} & {*_said(out)}


def test_several_models_answer_or_fail_side_by_side(run: str) -> None:
    with _session(run, chosen=("student", "control")) as (session, out):
        found = session.ask("count")
        shown = _said(out)
        with pytest.raises(kdtool.UsageError, match="no model answered"):
            session.ask("[full]")
        assert _said(out).count("no memory [/x]") == 2
    assert found["student"].text == "student 0\nstudent 1\n"
    assert found["control"].text == "control 0\ncontrol 1\n"
    (line,) = [line for line in shown.splitlines() if "student 1" in line]
    assert "control 1" in line


@pytest.mark.parametrize("keeps_history", [True, False])
def test_a_session_reads_what_is_typed(run: str, keeps_history: bool) -> None:
    if not keeps_history:
        Path("state").write_text("a file where a folder should be")
    with _session(run) as (session, out), create_pipe_input() as typed:
        typed.send_text("two\x1b\rlines\r/model control\rthird\r\x04")
        converse(session, "python", typed, DummyOutput())
        shown = _said(out)
        assert session._last == "third"
    assert shown.index("student 1") < shown.index("* control") < shown.index("control 1")
    if keeps_history:
        assert Path("state/kdtool/generate-history").stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a pseudo-terminal needs a POSIX system")
def test_ctrl_c_stops_an_answer_and_the_session_goes_on(run: str) -> None:
    primary, secondary = pty.openpty()
    heeds_ctrl_c = "import signal, os, sys; signal.signal(2, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-m", "kdtool", "generate", run, "--max-tokens", "1000000"]
    arguments = [sys.executable, "-c", heeds_ctrl_c, *command]  # a job in the background ignores it
    done = subprocess.Popen(arguments, stdin=secondary, stdout=secondary, stderr=secondary, start_new_session=True)
    os.close(secondary)
    try:
        _wait_for(primary, b"student>")
        os.write(primary, b"count\r")
        _wait_for(primary, b"student 9")
        os.write(primary, b"/quit\r")  # typed ahead
        done.send_signal(signal.SIGINT)
        _wait_for(primary, b", stopped")
        _wait_for(primary, b"")
        assert done.wait(60) == 0
    finally:
        done.kill()
        done.wait()
        os.close(primary)


def _wait_for(terminal: int, text: bytes) -> None:
    """Read until a text appears; "" reads to the end."""
    seen, end = b"", time.monotonic() + 60
    while (left := end - time.monotonic()) > 0 and (not text or text not in seen):
        if not select.select([terminal], [], [], left)[0]:
            break
        try:
            read = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            read = b""
        if not read:
            assert not text, seen
            return
        seen += read
    assert text in seen, seen


_CODE = st.text(st.sampled_from("abc =()'\"#\n\té漢\x1b\x07"), max_size=60)


@given(st.lists(_CODE, max_size=6), st.integers(1, 30))
def test_a_stream_of_code_shows_its_text_and_no_control_character(parts: list[str], width: int) -> None:
    out = io.StringIO()
    stream = CodeStream(out, "python", width)
    for part in parts:
        stream.write(part)
    shown = _screen(out.getvalue())
    whole = "".join(parts)
    assert shown == "".join("\N{REPLACEMENT CHARACTER}" if char in "\x1b\x07" else char for char in whole)


def _screen(written: str) -> str:
    """Return what a terminal shows that knows colours and carriage returns."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", written)
    assert "\x1b" not in plain
    return "\n".join(line.rpartition("\r")[2] for line in plain.split("\n"))
