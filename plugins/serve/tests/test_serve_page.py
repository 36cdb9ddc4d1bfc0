"""The page at `/`: only its own scripts and styles run, and it may ask nobody but the server."""

from __future__ import annotations

from pathlib import Path

import pytest
from kdtool_serve import app
from running import Running


def test_the_page_runs_nothing_but_its_own_elements(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "files", lambda _: tmp_path)
    (tmp_path / "page.html").write_text("<style>p {}</style><script>alert(1)</script>é", encoding="utf-8")
    page = server.get("/")
    assert page.text.endswith("é")
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["script-src"] == "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='"
    assert policy["style-src"].startswith("'sha256-")
    assert page.headers["x-content-type-options"] == "nosniff"
