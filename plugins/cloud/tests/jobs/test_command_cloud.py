"""`kdtool cloud`: the written jobs, what they send, and what the parser of `hf jobs` says of its command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import kdtool
import pytest
import yaml
from kdtool._cli import call
from kdtool_cloud.jobs.bundle import write_bundle, write_wheel
from kdtool_cloud.jobs.command import GPUS, cloud, estimate, forecast
from kdtool_testing import CommandConformance
from uv import find_uv_bin

SKY = ("--on", "sky", "--bucket", "s3://you-kdtool")
HF = ("--on", "hf-jobs", "--bucket", "you/kdtool")


class TestCloud(CommandConformance):
    command = cloud
    entry_point = "cloud"


def _command(shown: str) -> list[str]:
    """Return the words of the command that starts the job."""
    (line,) = [line for line in shown.splitlines() if line.startswith("start")]
    return line.partition(" && ")[2].split()


def test_a_task_of_skypilot_resumes_on_spot_machines(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["cloud", str(recipe), *SKY, "--gpu", "L4", "--price", "2", "--set", "train.steps=2"]) == 0
    shown = capsys.readouterr().out
    folder = Path("cloud/toy")
    task = yaml.safe_load((folder / "task.yaml").read_text(encoding="utf-8"))
    assert task["resources"]["accelerators"] == "L4:1"
    assert task["resources"]["use_spot"] is True
    assert task["file_mounts"]["/kdtool"]["mode"] == "MOUNT_CACHED"
    assert task["run"].endswith("run small.yaml --out /kdtool/runs --store /kdtool/store --set train.steps=2\n")
    assert "secrets" not in task
    assert {"small.yaml", "toy.py", "wheels", "task.yaml"} <= {path.name for path in folder.iterdir()}
    assert [path.name.partition("-")[0] for path in (folder / "wheels").glob("*.whl")] == ["kdtool"]
    assert _command(shown)[:3] == ["sky", "jobs", "launch"]
    assert "aws s3 sync s3://you-kdtool/runs runs" in shown


def test_hf_jobs_accepts_the_command(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub", minversion="2.4")
    assert call(["cloud", str(recipe), *HF, "--secret", "HF_TOKEN", "--no-sandbox"]) == 0
    words = _command(capsys.readouterr().out)
    assert words[:4] == ["hf", "jobs", "uv", "run"]
    program = "import sys; from huggingface_hub.cli.hf import main; sys.argv[0] = 'hf'; main()"
    command = [sys.executable, "-c", program, *words[1:4], "--dry-run", *words[4:]]
    done = subprocess.run(
        command, cwd="cloud/toy", capture_output=True, text=True, env={**os.environ, "HF_TOKEN": "x"}, check=False
    )
    assert done.returncode == 0, done.stderr
    found = {" ".join(line.split()) for line in done.stdout.splitlines()}
    assert {"flavor t4-medium", "volumes .:/bundle", "hf://buckets/you/kdtool:/kdtool", "script job.py"} <= found, found
    assert "args" not in done.stdout, (
        "an option that the parser does not know would be the script, and job.py an argument"
    )
    assert {*GPUS["hf-jobs"].values()} <= {flavor.value for flavor in huggingface_hub.JobHardware}


def test_the_script_of_hf_jobs_binds_every_package_of_kdtool_to_a_file(recipe: Path) -> None:
    assert call(["cloud", str(recipe), *HF]) == 0
    lines = Path("cloud/toy/job.py").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("# dependencies = ")]
    for requirement in json.loads(line.partition("= ")[2]):
        name, sign, url = requirement.partition(" @ file:///bundle/")
        assert sign, name
        assert Path("cloud/toy", url).is_file()


@pytest.mark.parametrize("service", [SKY, HF])
def test_keys_are_named_but_never_written(
    recipe: Path, service: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("THEIR_API_KEY", "sk-not-in-a-file")
    assert call(["cloud", str(recipe), *service, "--secret", "THEIR_API_KEY"]) == 0
    shown = capsys.readouterr().out
    assert "THEIR_API_KEY" in _command(shown)
    files = [path for path in Path("cloud").rglob("*") if path.is_file()]
    assert not [path for path in files if b"sk-not-in-a-file" in path.read_bytes()]
    assert "sk-not-in-a-file" not in shown


def test_costs_are_hours_times_price(recipe: Path) -> None:
    gpu, report = forecast(recipe, {}, "t4", ["t4"])
    unknown = "cost    unknown: give the machine's price per hour with --price"
    assert unknown in [*estimate(gpu, report["forecast"], None)]
    lines = [*estimate(gpu, {**report["forecast"], "seconds": 5400.0, "picodollars": 2_500_000_000_000}, 0.5)]
    assert any("1.5 h of training" in line for line in lines)
    assert "cost    $0.75 for training at $0.50 per hour" in lines
    assert "        $2.50 for the teacher's service" in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--on", "sky", "--bucket", "you-kdtool"], "expected s3://NAME or gs://NAME"),
        (["--on", "hf-jobs", "--bucket", "s3://you"], "expected OWNER/NAME"),
        ([*HF, "--gpu", "a10"], "choose one of t4, l4, l40s, a100-80gb, h200"),
        ([*SKY, "--secret", "HF_TOKEN=hf_1"], "without values"),
    ],
)
def test_wrong_calls_say_what_is_expected(
    recipe: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["cloud", str(recipe), *arguments]) == kdtool.UsageError.exit_code
    assert message in capsys.readouterr().err
    assert not Path("cloud").exists()


def test_a_link_in_a_folder_that_leads_elsewhere_is_refused(recipe: Path) -> None:
    (recipe.parent / "data").mkdir()
    (recipe.parent.parent / "secret.txt").write_text("x", encoding="utf-8")
    (recipe.parent / "data" / "link.txt").symlink_to(recipe.parent.parent / "secret.txt")
    components = [{"name": "corpus", "use": "toy.py:Toy", "config": {"folder": "data"}, "distribution": ""}]
    with pytest.raises(kdtool.UsageError, match="is on this machine only"):
        write_bundle(recipe, components, recipe.parent.parent / "bundle")


def test_a_recipe_is_sent_with_those_it_extends(recipe: Path) -> None:
    longer = recipe.with_name("longer.yaml")
    longer.write_text("extends: small.yaml\nname: longer\n", encoding="utf-8")
    assert call(["cloud", str(longer), *SKY]) == 0
    assert {"longer.yaml", "small.yaml"} <= {path.name for path in Path("cloud/longer").iterdir()}


def test_run_starts_the_tool_in_the_bundle_and_ends_with_its_exit_code(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(recipe.parent))
    assert call(["cloud", str(recipe), *SKY, "--run"]) == kdtool.UsageError.exit_code
    assert "sky is not installed; expected it on PATH; install it with `uv tool install" in capsys.readouterr().err
    tool = recipe.with_name("sky")
    tool.write_text('#!/bin/sh\necho "$PWD $@" > called\nexit 7\n', encoding="utf-8")
    tool.chmod(0o755)
    assert call(["cloud", str(recipe), *SKY, "--run"]) == 7
    assert Path("cloud/toy/called").read_text(encoding="utf-8").split() == [
        str(Path("cloud/toy").absolute()), "jobs", "launch", "--name", "toy", "task.yaml",
    ]  # fmt: skip


def test_a_package_without_a_folder_is_packed_from_its_installed_files(tmp_path: Path) -> None:
    write_wheel(distribution("click"), tmp_path)
    (wheel,) = tmp_path.glob("click-*.whl")
    site = tmp_path / "site"
    options = ["--quiet", "--no-deps", "--offline", "--target", str(site)]
    command = [find_uv_bin(), "pip", "install", *options, str(wheel)]
    subprocess.run(command, check=True)
    command = [sys.executable, "-c", "import click; print(click.__file__)"]
    shown = subprocess.check_output(command, env={**os.environ, "PYTHONPATH": str(site)}, text=True)
    assert Path(shown.strip()).is_relative_to(site)
