"""The key is in no written byte: neither in files nor in output, of runs that end, fail, or crash with a dump."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import kdtool
import pytest
from aiohttp import web
from claude_asking import Ask
from kdtool_testing.servers import claude_api
from kdtool_testing.servers.claude_api import Faults, MessagesServer

OWN_KEY = "sk-ant-9f%8+K/z_Q-AB=="
FORMS = [
    *(OWN_KEY, quote(OWN_KEY), quote(OWN_KEY, safe=""), repr(OWN_KEY)[1:-1], OWN_KEY.encode().hex()),
    *(base64.b64encode(before + OWN_KEY.encode() + b"!!!").decode()[4:-8] for before in (b"", b"x", b"Bearer ")),
]
ASK = """
import sys
from pathlib import Path
from claude_asking import opened, requests

with opened(sys.argv[1], Path(sys.argv[2]), retries=1) as teacher:
    print("asking", flush=True)
    list(teacher.kdtool_answer(requests(40)))
"""


def found_in(folder: Path, said: str) -> list[str]:
    written = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file()) + said.encode()
    return [form for form in FORMS if form.encode() in written]


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claude_api, "KEY", OWN_KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", OWN_KEY)


@pytest.mark.parametrize(
    ("faults", "end"),
    [
        (Faults(), None),
        (Faults(reset_after=0.5, broken_json=0.5), None),
        (Faults(delay=5.0), "SIGABRT"),
        (Faults(delay=5.0), "SIGINT"),
    ],
)
def test_no_process_writes_the_key(server: MessagesServer, tmp_path: Path, faults: Faults, end: str | None) -> None:
    server.faults = faults
    debugging = {"PYTHONFAULTHANDLER": "1", "ANTHROPIC_LOG": "debug", "PYTHONASYNCIODEBUG": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", ASK, server.url, str(tmp_path)],
        env={**os.environ, **debugging, "PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if end is not None:
        while not server.bill.under_way:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(getattr(signal, end))
    said, _ = process.communicate(timeout=120)
    assert "Request" in said, "the SDK logs what it sends"
    assert end != "SIGABRT" or "Fatal Python error: Aborted" in said, "the dump is there"
    assert found_in(tmp_path, said) == []


def test_a_service_that_repeats_the_key_is_not_quoted(ask: Ask, server: MessagesServer, tmp_path: Path) -> None:
    for form in FORMS[:4] + FORMS[5:]:
        error = {"type": "authentication_error", "message": f"wrong: {form}."}
        server._refuse = lambda request, error=error: (  # type: ignore[misc, method-assign]
            web.json_response({"type": "error", "error": error}, status=401)
        )
        with pytest.raises(kdtool.AuthenticationError) as stopped:
            ask(3)
        raised: BaseException | None = stopped.value
        said = ""
        while raised is not None:
            said += repr(raised) + str(vars(raised))
            raised = raised.__cause__ or raised.__context__
        assert found_in(tmp_path, said) == []
        assert "***" in str(stopped.value)
