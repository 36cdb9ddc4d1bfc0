"""The tracker `wandb`: a run's curves, measurements, samples and artefacts in Weights & Biases.

The tracker checks its settings, and sends events to a process that uses wandb. This process starts with a clean
environment, and the run never waits for it without a limit.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import kdtool
from kdtool import Field

__all__ = ["WandbTracker"]
_KEY = re.compile(r"\b[0-9a-f]{40}\b|wandb_v\d+_\w{20,}", re.IGNORECASE)
"""Forms of W&B's API keys."""
_SERVER = "https://api.wandb.ai"


class WandbTracker(kdtool.Tracker):
    """Logs a run to Weights & Biases: a W&B run for each arm and seed, all in one group.

    To send the files of offline mode to your account: `wandb sync runs/NAME/wandb/offline-run-*`.
    """

    class Config(kdtool.Config):
        """Project, mode and labels of W&B runs. The API key is read only from the environment variable WANDB_API_KEY."""

        mode: Literal["offline", "online"] = "offline"
        """`offline` writes files that `wandb sync` can upload later, and opens no connection; `online` uploads at once."""
        project: str = Field("kdtool", min_length=1, max_length=128)
        """W&B project."""
        entity: str | None = Field(None, min_length=1)
        """W&B user or team that owns the project; by default that of the API key."""
        tags: list[str] = Field(default=[], max_length=64)
        """Tags of all W&B runs."""
        notes: str = ""
        """Description of all W&B runs."""
        upload_exports: bool = False
        """Upload exported files whole; otherwise artefacts hold their hashes and the path in the run."""
        system_metrics: bool = False
        """Log W&B's own measurements of processor, memory, disk and GPU."""
        wait: int = Field(25, ge=1, le=86_400)
        """Seconds that the end of a run waits for W&B to finish."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._process: WandbProcess | None = None

    def kdtool_check(self, run: kdtool.RunInfo, when: Literal["start", "text", "student"]) -> Sequence[str]:
        problems = list(self._leaked_keys())
        if self.config.mode == "online" and not problems:
            if not os.environ.get("WANDB_API_KEY"):
                problems.append("mode 'online' needs an API key: set the environment variable WANDB_API_KEY")
            else:
                owner = f"{self.config.entity}/" if self.config.entity else ""
                server = os.environ.get("WANDB_BASE_URL", _SERVER)
                sent = "settings, curves, measurements, samples and report"
                run.say(f"wandb: mode is online: {sent} are sent to {server}, project {owner}{self.config.project}")
        return problems

    def _leaked_keys(self) -> Iterator[str]:
        for name, value in self.config.model_dump().items():
            if _KEY.search(str(value)):
                yield (
                    f"{name!r} holds what looks like an API key, and recipes are stored with the run: remove it, "
                    "and set the environment variable WANDB_API_KEY"
                )

    def kdtool_run_start(self, run: kdtool.RunInfo, stages: Sequence[kdtool.StageRecord]) -> None:
        # A run that was killed and resumed, whose events come one after the other, keeps its process.
        if self._process is None or self._process.folder != run.folder:
            self.kdtool_close()
            self._process = WandbProcess(run.folder, self._settings(run))
        self._send("run_start", stages=[{"name": stage.name, "fingerprint": stage.fingerprint} for stage in stages])

    def _settings(self, run: kdtool.RunInfo) -> dict[str, object]:
        settings = {"name": run.name, **self.config.model_dump()}
        if run.offline and self.config.mode == "online":
            run.say("wandb: the run uses no network, so nothing is sent: upload its files later with wandb sync")
            settings["mode"] = "offline"
        return settings

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        place = {"stage": run.stage, "label": run.label, "arm": run.arm, "seed": run.seed}
        time = datetime.fromtimestamp(run.time, UTC)
        self._send("step_end", **place, time=time, report=asdict(report))

    def kdtool_run_end(
        self, run: kdtool.RunInfo, status: Literal["done", "failed", "interrupted"], report: Path | None
    ) -> None:
        self._send("run_end", status=status, report=report)
        self.kdtool_close()

    def kdtool_close(self) -> None:
        """Wait until W&B has finished, for `wait` seconds at most; safe to call twice.

        Raises:
            ServiceError: it did not finish, or failed.
        """
        process, self._process = self._process, None
        if process is not None:
            process.finish(self.config.wait)

    def _send(self, event: str, **fields: object) -> None:
        process, self._process = self._process, None  # one that fails is not sent anything more
        if process is not None:
            process.send({"event": event, **fields})
            self._process = process


class WandbProcess:
    """Runs `_worker` for the run in `folder`. It gets the API key from the environment, and only in online mode."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        subfolder = folder / "wandb"
        subfolder.mkdir(parents=True, exist_ok=True)
        self._log = subfolder / "tracker.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "kdtool_report.wandb.worker"],
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
