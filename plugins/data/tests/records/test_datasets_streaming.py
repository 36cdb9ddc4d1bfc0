"""A dataset streamed from a Hub on this machine: configurations, splits and the commit, as `datasets` asks for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMIT = "a" * 40
READ = """
import json, sys
import kdtool
from kdtool_data.records import HubDataset

for name, config, split, settings in json.loads(sys.argv[1]):
    data = HubDataset(name, config)
    try:
        found = [record["content"] for record in data.records(split, **settings)]
        print(json.dumps({"found": found, **data.identity()}))
    except kdtool.KdtoolError as error:
        print(json.dumps({type(error).__name__: str(error)}))
"""


def test_a_stream_is_of_one_commit_configuration_and_split_and_runs_no_code(hub: str, tmp_path: Path) -> None:
    asked: list[Any] = [
        ["some/set", "full", "test", {}],
        ["some/set", "full", "train", {"shuffle_buffer": 10, "seed": 1}],
        ["some/set", "other", "train", {}],
        ["some/set", "none", "train", {}],
        ["some/set", "other", "test", {}],
        ["own/code", None, "train", {}],
        ["some/table", None, "train", {}],
        ["own/local", None, "train", {}],
    ]
    (tmp_path / "own.csv").write_text("content\nprivate\n", encoding="utf-8")
    proxies = {"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE"}
    surroundings = {name: value for name, value in os.environ.items() if name not in proxies}
    done = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(asked)],
        env={**surroundings, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    replies = map(json.loads, done.stdout.splitlines() or [done.stderr] * 8)
    test, train, other, none, without, code, table, local = replies
    assert test == {"found": [f"t{number}" for number in range(5)], "commit": COMMIT}
    assert sorted(train["found"]) == sorted(f"x{number}" for number in range(50)) != train["found"]
    assert other["found"] == [f"o{number}" for number in range(5)]
    assert "some/set (none) cannot be read: BuilderConfig 'none' not found" in none["UsageError"]
    assert "Bad split: test. Available splits: ['train']" in without["UsageError"]
    assert table["found"] == ["None", "NA", "", "007"], "cells of CSV are text"
    assert "Data files don't belong to own/local" in local["UsageError"]
    assert "dataset own/code cannot be read: " in code["UsageError"]
    assert "this has run" not in done.stdout + done.stderr
