"""The process that uses wandb: started with a clean environment, fed with events, and never waited for without a limit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kdtool

__all__ = ["WandbProcess"]


class WandbProcess:
    """Runs `_worker` for the run in `folder`. It gets the API key from the environment, and only in online mode."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        subfolder = folder / "wandb"
        subfolder.mkdir(parents=True, exist_ok=True)
        self._log = subfolder / "tracker.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "kdtool_tracker_wandb._worker"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                bufsize=0,
                cwd=subfolder,
                env=_environment(subfolder, online=settings["mode"] == "online"),
                start_new_session=True,  # Ctrl-C is for the run, which tells this process how it ended
            )
        self.send({"folder": folder, **settings})

    def send(self, line: Mapping[str, Any]) -> None:
        """Send an event.

        Raises:
            ServiceError: the process has ended.
        """
        from pydantic_core import to_json

        left = memoryview(to_json(line, inf_nan_mode="strings") + b"\n")
        try:
            while left:
                left = left[self._pipe.write(left) :]
        except OSError as error:
            self._kill()
            raise kdtool.ServiceError(f"wandb stopped: {self._last_words()}") from error

    def finish(self, seconds: float) -> None:
        """End the process: wait up to `seconds` for it, then kill it.

        Raises:
            ServiceError: the process did not finish in time, or failed.
        """
        self._pipe.close()
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            self._kill()
            raise kdtool.ServiceError(f"wandb did not finish in {seconds:g} s; raise 'wait', its limit") from error
        if code:
            raise kdtool.ServiceError(f"wandb failed: {self._last_words()}")

    def _kill(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.wait()

    @property
    def _pipe(self) -> Any:
        return self._process.stdin

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "without a message")


def _environment(folder: Path, *, online: bool) -> dict[str, str]:
    """Return the environment without W&B's variables, which override settings; all its files are in `folder`."""
    kept = {"WANDB_API_KEY", "WANDB_BASE_URL"} if online else set()
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_") or key in kept}
    folders = {f"WANDB_{name}_DIR": str(folder / ".wandb" / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
    return {**inherited, **folders, "WANDB_ERROR_REPORTING": "false", "PYTHONUTF8": "1"}
