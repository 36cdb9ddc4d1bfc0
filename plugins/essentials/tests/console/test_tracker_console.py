"""A run on a terminal and in a log: what is shown, when, and that nothing gets through that would move the cursor."""

from __future__ import annotations

import io
import re
from functools import partial
from pathlib import Path

import kdtool
import pytest
from kdtool_essentials.console import ConsoleTracker, PlainDisplay, Position
from kdtool_essentials.console.live import LiveDisplay
from kdtool_testing import TrackerConformance, make_run
from rich.console import Console


class TestConsoleTracker(TrackerConformance):
    component = ConsoleTracker
    entry_point = "console"


def planned(*names: str, reused: str = "") -> list[kdtool.StageRecord]:
    return [kdtool.StageRecord(name, "0" * 64, 60.0, reused=name == reused, path=Path(name)) for name in names]


def report(step: int) -> kdtool.StepReport:
    return kdtool.StepReport(step, 100, step * 2048, step * 1.5, 10 / step, 1e-3, 0.5)


def tell_a_run(told: ConsoleTracker, folder: Path) -> None:
    text = make_run(folder, stage="text", stage_title="text")
    title = "training of control, seed 1"
    training = make_run(folder, stage="phases", label="control-seed1-train", stage_title=title)
    told.kdtool_run_start(
        make_run(folder, name="my-coder"), planned("text", "phases/control-seed1-train", "exports/safetensors")
    )
    told.kdtool_stage_start(text, None, "documents")
    told.kdtool_stage_end(text, 0.01, True)
    told.kdtool_stage_start(training, 100, "steps")
    told.kdtool_step_end(training, report(40))
    told.kdtool_message(training, "learning \x1b[31mrate\x1b[0m [bold]halved[/bold]\r ü")
    told.kdtool_stage_end(training, 150.0, False)
    told.kdtool_run_end(text, "done", folder / "report.html")


def test_a_log_gets_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell_a_run(ConsoleTracker(ConsoleTracker.Config()), tmp_path)
    shown = capsys.readouterr()
    assert not shown.out, "standard output is for results"
    out = shown.err
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", out)
    lines = out.splitlines()
    assert lines[0] == f"Run my-coder in {tmp_path}"
    assert "text: reused" in lines
    assert "training of control, seed 1: begins, 100 steps (run: stage 2 of 3)" in lines
    assert "learning ?[31mrate?[0m [bold]halved[/bold]? ü" in lines
    assert "training of control, seed 1: done in 2 min 30 s" in lines
    assert lines[-1] == "Run test is done: 1 stage in 0.0 s, 1 reused", "by the clock: stages may be made side by side"


def test_a_log_hears_of_progress_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    display = PlainDisplay(clock=lambda: now)
    display.start("rows", 400, "rows")
    for second in range(1, 26):
        now = float(second)
        display.advance("rows", second * 10, 500 if second > 11 else None)
    display.start("phases", 100, "steps")
    now += 11
    display.step("phases", report(40))
    display.step("phases", report(41))
    display.advance("never started", 3, None)
    now += 15
    display.say_if_silent()
    display.say_if_silent()
    display.close()
    assert capsys.readouterr().err.splitlines() == [
        "rows: begins, 400 rows",
        "rows: 100/400 rows, 10 rows/s, 30 s left",
        "rows: 200/500 rows, 10 rows/s, 30 s left",
        "phases: begins, 100 steps",
        "phases: step 40/100, loss 0.25, 1.4k tokens/s, 90 s left",
        "phases: 26 s so far",
    ]


def test_an_output_that_lacks_letters_gets_replacements(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(raw, encoding="ascii", newline="\n"))
    PlainDisplay().line("2.6 × so schnell")
    assert raw.getvalue() == b"2.6 ? so schnell\n"


def test_a_terminal_gets_bars_and_keeps_what_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, color_system=None)
    told = ConsoleTracker(ConsoleTracker.Config())
    display = LiveDisplay(console)
    told._chosen = display
    monkeypatch.setattr(display._progress, "update", partial(display._progress.update, refresh=True))
    tell_a_run(told, tmp_path)
    shown = out.getvalue()
    assert "= text: reused" in shown
    assert "✓ training of control, seed 1: done in 2 min 30 s" in shown
    assert "loss 0.25" in shown
    assert "[bold]halved[/bold]" in shown
    assert "\x1b[31m" not in shown
    assert shown.rstrip().splitlines()[-1].startswith("Run test is done")
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")


@pytest.mark.parametrize("width", [None, 60, 80, 100])
def test_a_paid_stage_shows_requests_total_and_dollars_in_one_line(
    width: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    now, out, unit = 0.0, io.StringIO(), "requests, $0.420 of at most $5.00"
    live = LiveDisplay(Console(file=out, force_terminal=True, width=width, color_system=None))
    display = live if width else PlainDisplay(clock=lambda: now)
    display.start("text", None, "documents")
    now = 100.0  # until the first report, a model was loaded
    display.advance("text", 2, 200, unit)
    now = 110.0
    display.advance("text", 12, 200, unit)
    live._progress.refresh()
    now = 120.0
    display.advance("text", 200, 200, unit)
    display.close()
    (line,) = {line for line in (capsys.readouterr().err + out.getvalue()).splitlines() if "12/200" in line}
    assert f"12/200 {unit}" in line
    assert width or line.endswith("$5.00, 1 requests/s, 3 min left")


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_message_is_wrapped_at_words(width: int) -> None:
    out = io.StringIO()
    path = "/a/sub-folder/" * 12
    text = (
        f"near-duplicates: the student uses its text with 134.5 million parameters, which are in {path} and elsewhere"
    )
    LiveDisplay(Console(file=out, force_terminal=True, width=width, color_system=None)).line(text)
    assert out.getvalue().split() == text.split()
    assert all(len(line) <= width or line.strip().startswith(path) for line in out.getvalue().splitlines())


NAMES = [
    "text",
    "signals/teacher",
    *(f"phases/{arm}-seed{seed}-train" for seed in (0, 1) for arm in ("student", "control")),
    "exports/safetensors",
    "scores/perplexity-student-seed0",
]


def test_the_time_left_is_that_of_stages_like_those_to_come() -> None:
    now = 0.0
    position = Position(planned(*NAMES, reused="text"), clock=lambda: now)
    assert position.describe("run") == "", "no stage"
    position.start("signals/teacher", 100)
    assert position.describe("signals/teacher") == "stage 2 of 8", "nothing is known yet"
    now = 10.0
    position.advance("signals/teacher", 20)
    now = 20.0
    position.advance("signals/teacher", 40, 100)
    assert position.describe("signals/teacher") == "stage 2 of 8, at least 30 s left", "two units a second"
    position.end("signals/teacher", 50.0)
    position.advance("signals/teacher", 100)
    position.start(NAMES[2], 100)
    assert position.describe(NAMES[2]) == "stage 3 of 8", "no phase has been timed"
    now += 30.0
    position.step(NAMES[2], report(20))
    assert position.describe(NAMES[2]) == "stage 3 of 8, at least 10 min left", (
        "2 min here, 2.5 min in each other phase"
    )
    for name in NAMES[2:5]:
        position.end(name, 200.0)
    position.start(NAMES[5], 100)
    assert position.describe(NAMES[5]) == "stage 6 of 8, at least 3 min left", "export and score are not known"
    position.end("scores/perplexity-teacher", 90.0)
    position.end("exports/safetensors", None)
    assert position.describe(NAMES[5]) == "stage 6 of 8, about 5 min left", "the export was reused"
