"""Write files beside wheels, so that pip and uv install them before their names are on a package index.

    python tests/wheel_index.py WHEELS                                # links relative to the page, for a folder or mirror
    python tests/wheel_index.py WHEELS --url https://HOST/RELEASE     # absolute links, for the files of a release

`index.html` is a page for `--find-links`. `quickstart.txt` and `everything.txt` are for `--requirement`: they bind each of
our names to a file, so that pip asks no index for them, where somebody else could have registered them. All have the SHA-256
of every wheel, which installers check.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Collection, Mapping
from html import escape
from pathlib import Path
from urllib.parse import quote

from packages import ROOT, declared

sys.path.insert(0, str(ROOT))
from bootstrap import needed_by

__all__ = ["SETS", "write_index"]

SETS = {"quickstart": "kdtool[quickstart]", "everything": "kdtool[all]"}
"""The files of requirements, and the package whose requirements each of them lists."""
_PAGE = """\
<!doctype html>
<meta charset="utf-8">
<meta name="pypi:repository-version" content="1.0">
<title>Wheels of kdtool</title>
{}
"""


def write_index(wheels: Path, sets: Mapping[str, Collection[str]], url: str = "") -> None:
    """Write a page of links to all wheels in a folder, and a file of requirements for each set of packages.

    Args:
        wheels: the folder.
        sets: names of packages by the name of the file, without its suffix.
        url: the address below which the wheels are published; the folder itself if empty.
    """
    files = {wheel.name.partition("-")[0].replace("_", "-"): wheel for wheel in sorted(wheels.glob("*.whl"))}
    hashes = {wheel: f"sha256={hashlib.sha256(wheel.read_bytes()).hexdigest()}" for wheel in files.values()}
    links = [
        f'<a href="{escape(f"{url}/" * bool(url) + f"{quote(wheel.name)}#{digest}")}">{escape(wheel.name)}</a><br>'
        for wheel, digest in hashes.items()
    ]
    (wheels / "index.html").write_text(_PAGE.format("\n".join(links)), encoding="utf-8")
    base = url or wheels.absolute().as_uri()
    for title, names in sets.items():
        if absent := set(names) - set(files):
            raise SystemExit(f"{wheels} has no wheel of {', '.join(sorted(absent))}; build it: tox run -e wheels")
        lines = [f"{name} @ {base}/{quote(files[name].name)}#{hashes[files[name]]}\n" for name in sorted(names)]
        (wheels / f"{title}.txt").write_text("".join(lines), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Write the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheels", type=Path, metavar="WHEELS")
    parser.add_argument("--url", default="", help="where the wheels are published")
    options = parser.parse_args(arguments)
    sets = {
        title: [declared(folder)["project"]["name"] for folder in needed_by(requirement)]
        for title, requirement in SETS.items()
    }
    write_index(options.wheels, sets, options.url.rstrip("/"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
