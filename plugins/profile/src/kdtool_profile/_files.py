"""The files of a profile, each replaced at once, never left half written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdtool_profile._page import page
from kdtool_profile._recorder import Recorder
from kdtool_profile._speedscope import speedscope
from kdtool_profile._table import table

__all__ = ["write_files"]


def write_files(folder: Path, name: str, status: str, recorder: Recorder, stages: Sequence[Mapping[str, Any]]) -> None:
    """Write `profile.json`, `speedscope.json` and `profile.html` into `folder`."""
    record = {
        "run": name,
        "status": status,
        "seconds": recorder.home.seconds,
        "hooks": [asdict(row) for row in table(recorder)],
        "stages": stages,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "profile.json", json.dumps(record, indent=1))
    _replace(folder / "speedscope.json", json.dumps(speedscope(recorder, name)))
    reused = [stage["title"] for stage in stages if stage["reused"]]
    _replace(folder / "profile.html", page(recorder, name, status, reused))


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(text.encode(errors="backslashreplace"))  # halves of surrogates
    partial.replace(path)
