"""`kdtool serve --static`: a folder's page on this machine, with the headers that several threads need."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from kdtool._cli import call


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Windows end the process at once")
def test_it_serves_the_page_until_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "runtime").mkdir()
    (tmp_path / "index.html").write_text("<title>student</title>", encoding="utf-8")
    (tmp_path / "runtime" / "ort.mjs").write_text("export {};", encoding="utf-8")
    (tmp_path / "runtime" / "ort.wasm").write_bytes(b"\0asm")
    command = [sys.executable, "-m", "kdtool", "serve", "--static", str(tmp_path), "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        url = process.stdout.readline().removeprefix("page  ").split()[0]
        assert url.startswith("http://127.0.0.1:")
        page = httpx.get(url, timeout=60)
        assert page.text == "<title>student</title>"
        for path, kind in {
            "": "text/html",
            "runtime/ort.mjs": "text/javascript",
            "runtime/ort.wasm": "application/wasm",
        }.items():
            answer = httpx.get(url + path, timeout=60)
            assert answer.headers["content-type"].partition(";")[0] == kind
            assert answer.headers["cross-origin-opener-policy"] == "same-origin"
            assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
        assert httpx.get(url + "../secret", timeout=60).status_code == 404
        assert httpx.get(url, headers={"Host": "evil.example"}, timeout=60).status_code == 400
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_a_folder_without_a_page_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["serve", "--static", str(tmp_path)]) == 2
    assert f"--static: {tmp_path} has no index.html; expected a folder that the exporter web" in capsys.readouterr().err


def test_other_machines_are_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "index.html").write_text("", encoding="utf-8")
    assert call(["serve", "--static", str(tmp_path), "--host", "0.0.0.0"]) == 2  # noqa: S104
    assert "--host 0.0.0.0: --static serves this machine only; expected 127.0.0.1" in capsys.readouterr().err
