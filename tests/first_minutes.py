"""Run README's first commands as printed, in a fresh clone of HEAD, with fewer steps and items.

    python tests/first_minutes.py

`python tests/check.py ci` calls it. No other test sees an environment with the packages and extras of the quickstart only.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory

from packages import ROOT

SHORT = {
    "train.steps": 2,
    "rows.maximum_tokens": 8192,
    "evaluators.perplexity.limit": 2,
    "evaluators.line-completion.limit": 2,
    "evaluators.efficiency.turns": 1,
}


def main(clone: Path) -> int:
    """Run the commands in a new folder; return 1 if one of them fails."""
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    start = (clone / "README.md").read_text(encoding="utf-8").partition("\n## Start\n")[2]
    quickstart, activate, generate, serve = re.findall(r"^    (\S.*)$", start, re.MULTILINE)[:4]
    settings = "".join(f" --set {key}={value}" for key, value in SHORT.items())
    commands = [quickstart + settings, f"{activate} && {generate}"]
    if any(subprocess.run(["bash", "-c", command], cwd=clone, check=False).returncode for command in commands):
        return 1
    with subprocess.Popen(
        ["bash", "-c", f"{activate} && exec {serve}"],
        cwd=clone,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        assert server.stdout is not None
        found = next(filter(None, (re.search(r"http://(127\.0\.0\.1:\d+)", line) for line in server.stdout)))
        try:
            connection = HTTPConnection(found[1], timeout=120)
            body = json.dumps({"prompt": "def mean(numbers):", "max_tokens": 8})
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            text = json.load(connection.getresponse())["choices"][0]["text"]
        finally:
            server.send_signal(signal.SIGINT)
        print(f"served: {text!r}")
        rest = server.stdout.read()
    if server.returncode or not text:
        print(rest)
    return int(server.returncode != 0 or not text)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        sys.exit(main(Path(folder, "kdtool")))
