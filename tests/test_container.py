"""containers/Dockerfile names files and commands that exist, and leaves no folder out that the installation reads."""

from __future__ import annotations

import re
from fnmatch import fnmatch

from packages import ROOT, folders

LINES = (ROOT / "containers" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()


def test_copied_folders_and_the_job_of_the_installation_exist() -> None:
    (job,) = [found[1] for line in LINES if (found := re.match(r"RUN python3 bootstrap\.py (\w+)", line))]
    assert f'"{job}": {job}' in (ROOT / "bootstrap.py").read_text(encoding="utf-8")
    copied = [line.split()[2:] for line in LINES if line.startswith("COPY --from=build")]
    assert len(copied) == 2
    for source, target in copied:
        assert source == target  # scripts of an environment contain its path
        assert source.startswith("/opt/kdtool/")
    assert (ROOT / "recipes").is_dir()


def test_no_package_is_left_out_of_the_build() -> None:
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    needed = [path for folder in folders() for path in folder.rglob("*.py") if "src" in path.parts]
    assert len(needed) > 400
    for path in needed:
        parts = path.relative_to(ROOT).parts
        assert not [pattern for pattern in patterns if fnmatch(parts[0], pattern)], path


def test_it_runs_as_an_ordinary_user() -> None:
    users = [line.split()[1] for line in LINES if line.startswith("USER")]
    assert users == ["kdtool"]
    assert any(f"useradd --create-home --uid 1000 {users[0]}" in line for line in LINES)
    assert LINES.index("USER kdtool") < LINES.index('ENTRYPOINT ["kdtool"]')
