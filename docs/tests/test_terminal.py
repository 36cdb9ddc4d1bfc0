"""A recording of a terminal becomes a picture with its screens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

SCRIPT = Path(__file__).resolve().parent.parent / "terminal.py"
NAMES = {"svg": "http://www.w3.org/2000/svg"}


def test_picture_shows_the_screens_of_a_recording_in_turn(tmp_path: Path) -> None:
    events = [[0.0, "o", "one & only\r\n"], [1.0, "o", "\x1b[1;32mgreen\x1b[0m 5/10"], [2.0, "o", "\r\x1b[2Kdone\r\n"]]
    lines = [{"version": 2, "width": 84, "height": 20}, *events]
    (tmp_path / "run.cast").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    command = [sys.executable, str(SCRIPT), "draw", "run.cast", "run.svg", "--screens", "3", "--label", "A run"]
    subprocess.run(command, cwd=tmp_path, check=True)
    root = ET.parse(tmp_path / "run.svg").getroot()  # noqa: S314 - our own file
    texts = [text.text for text in root.iterfind(".//svg:text", NAMES)]
    assert texts == ["one & only", "one & only", "green", "5/10", "one & only", "done"]
    assert [text.get("class") for text in root.iterfind(".//svg:text", NAMES)][2] == "green bold"
    assert root.findtext("svg:title", namespaces=NAMES) == "A run"


def test_a_command_is_recorded_with_its_exit_code(tmp_path: Path) -> None:
    code = "import sys; print(sys.stdout.isatty()); sys.exit(3)"
    command = [sys.executable, str(SCRIPT), "record", "run.cast", sys.executable, "-c", code]
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode == 3
    header, *events = map(json.loads, (tmp_path / "run.cast").read_text(encoding="utf-8").splitlines())
    assert header == {"version": 2, "width": 84, "height": 20}
    assert "".join(event[2] for event in events) == "True\r\n"
