"""`kdtool cloud`: the written jobs, what they send, and what the parser of `hf jobs` says of its command."""

from __future__ import annotations

import ast
import json
import os
import shlex
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import kdtool
import pytest
import yaml
from kdtool._cli import call
from kdtool_cloud.jobs.bundle import _MARK, write_bundle, write_wheel
from kdtool_cloud.jobs.command import GPUS, Job, cloud, estimate, forecast
from kdtool_testing import CommandConformance
from uv import find_uv_bin

SKY = ("--on", "sky", "--bucket", "s3://you-kdtool")
HF = ("--on", "hf-jobs", "--bucket", "you/kdtool")


class TestCloud(CommandConformance):
    command = cloud
    entry_point = "cloud"


def _command(shown: str) -> list[str]:
    """Return the words of the command that starts the job."""
    return next(line for line in shown.splitlines() if line.startswith("    cd ")).partition(" && ")[2].split()


def _make_bundle(folder: Path, mark: str) -> Path:
    """Make a folder as others may send one: it has links to a file, which is returned."""
    (victim := folder.absolute().parent / "victim").write_text("", encoding="utf-8")
    folder.mkdir()
    (folder / ".gitignore").write_text(mark, encoding="utf-8")
    for name in ("small.yaml", "task.yaml", ".skyignore", "toy.py", "key.env"):
        (folder / name).symlink_to(victim)
    return victim


def test_a_task_of_skypilot_resumes_on_spot_machines(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("cloud").mkdir()
    victim = _make_bundle(Path("cloud/toy"), _MARK.decode())
    assert call(["cloud", str(recipe), *SKY, "--gpu", "L4", "--price", "2", "--set", "train.steps=2"]) == 0
    shown = capsys.readouterr().out
    folder = Path("cloud/toy")
    task = yaml.safe_load((folder / "task.yaml").read_text(encoding="utf-8"))
    assert task["resources"]["accelerators"] == "L4:1"
    assert task["resources"]["use_spot"] is True
    assert task["file_mounts"]["/kdtool"]["mode"] == "MOUNT_CACHED"
    assert task["run"].endswith("run ./small.yaml --out /kdtool/runs --store /kdtool/store --set train.steps=2\n")
    assert "secrets" not in task
    names = {"small.yaml", "toy.py", "wheels", "task.yaml", ".gitignore", ".skyignore"}
    assert (victim.read_bytes(), {path.name for path in folder.iterdir()}) == (b"", names)
    assert {path.name for path in folder.parent.iterdir()} == {"toy", "victim"}
    assert [path.name.partition("-")[0] for path in (folder / "wheels").glob("*.whl")] == ["kdtool"]
    assert _command(shown)[:3] == ["sky", "jobs", "launch"]
    assert "aws s3 sync s3://you-kdtool/runs runs" in shown


def test_a_folder_that_is_not_a_bundle_is_not_replaced(recipe: Path) -> None:
    _make_bundle(other := recipe.parent / "other", "*\n")
    (recipe.parent / "link").symlink_to("other")
    (recipe.parent / ".gitignore").write_bytes(_MARK)
    for folder in (other, recipe.parent / "link", recipe.parent, recipe.parent / "wheels" / ".."):
        with pytest.raises(kdtool.UsageError, match=r"--to: .* has other files; expected a new folder"):
            write_bundle(recipe, {}, folder)
    assert (other / "key.env").exists()


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
    longer = recipe.with_name("longer.yaml")
    longer.write_text("extends: small.yaml\nname: toy\n", encoding="utf-8")
    assert call(["cloud", str(longer), *HF]) == 0
    assert {"longer.yaml", "small.yaml"} <= {path.name for path in Path("cloud/toy").iterdir()}
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
    assert _command(shown)[-2].partition("=")[2] == "THEIR_API_KEY"
    files = [path for path in Path("cloud").rglob("*") if path.is_file()]
    assert not [path for path in files if b"sk-not-in-a-file" in path.read_bytes()]
    assert "sk-not-in-a-file" not in shown


def test_costs_are_hours_times_price(recipe: Path) -> None:
    gpu, report = forecast(recipe, {}, "t4", ["t4"])
    unknown = "cost    unknown: give the machine's price per hour with --price"
    assert unknown in [*estimate(gpu, report["forecast"], None)]
    ahead = {**report["forecast"], "seconds": 5400.0, "picodollars": 2_500_000_000_000, "waiting_seconds": 86400.0}
    lines = [*estimate(gpu, ahead, 0.5)]
    assert any("1.5 h of training" in line for line in lines)
    assert "cost    $0.75 for training at $0.50 per hour" in lines
    assert "        $2.50 for the teacher's service" in lines
    assert "wait    up to 24 h for each batch of answers, while the machine is rented and idle ($12.00)" in lines
    assert "29h" in Job("toy", "hf://buckets/you/kdtool", gpu, ahead, [], [], lines).start()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--on", "sky", "--bucket", "you-kdtool"], "expected s3://NAME or gs://NAME"),
        (["--on", "hf-jobs", "--bucket", "s3://you"], "expected OWNER/NAME"),
        ([*HF, "--gpu", "a10"], "choose one of t4, l4, l40s, a100-80gb, h200"),
        ([*SKY, "--secret", "HF_TOKEN=hf_1"], "without values"),
        ([*HF, "--set", "name=a\nb"], "has a line break"),
        ([*HF, "--set", "name=\udc80"], "has a line break or a control character"),
    ],
)
def test_wrong_calls_say_what_is_expected(
    recipe: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["cloud", str(recipe), *arguments]) == kdtool.UsageError.exit_code
    assert message in capsys.readouterr().err
    assert not Path("cloud").exists()


def _make_odd(kind: str, outside: Path, path: Path) -> None:
    """Make what is not a file or folder below the recipe's, at or next to `path`."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link through a folder":
        (path.parent / "linked").symlink_to(outside.parent)
    else:
        path.symlink_to({"device": Path("/dev/zero"), "link in a circle": path}.get(kind, outside))


@pytest.mark.skipif(os.name == "nt", reason="no pipes there")
@pytest.mark.parametrize("kind", ["link", "link in a circle", "link through a folder", "device", "pipe"])
@pytest.mark.parametrize("named", ["data", "data/odd"])
def test_only_files_below_the_recipe_are_sent(recipe: Path, kind: str, named: str) -> None:
    (recipe.parent / "data").mkdir()
    (outside := recipe.parent.parent / "secret.txt").write_text("x", encoding="utf-8")
    _make_odd(kind, outside, recipe.parent / "data" / "odd")
    if "folder" in kind and named != "data":
        named = "data/linked/secret.txt"
    report = {"components": [], "files": {"corpus.folder": str(recipe.parent / named)}}
    with pytest.raises(kdtool.UsageError, match=r"corpus\.folder: only files below the recipe's folder are sent"):
        write_bundle(recipe, report, recipe.parent.parent / "bundle")
    assert not list((recipe.parent.parent / "bundle").rglob("secret.txt"))


def test_text_that_names_a_file_by_chance_or_a_variable_is_not_sent(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("python", "docs"):
        (recipe.parent / folder).mkdir()
        (recipe.parent / folder / "diary.txt").write_text("x", encoding="utf-8")
    (recipe.parent / "docs" / "link.txt").symlink_to("diary.txt")
    (recipe.parent / "sends.py").write_text(
        "import kdtool\n\n\nclass Sends(kdtool.Corpus):\n    'Text.'\n\n"
        "    class Config(kdtool.Config):\n        language: str\n        system: str\n"
        "        folder: kdtool.RecipePath\n        model: kdtool.RecipePathOrName\n\n"
        "    def kdtool_examples(self, run):\n        yield kdtool.Example('1', kdtool.Text('text'), 'train')\n",
        encoding="utf-8",
    )
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    content["corpus"] = {"use": "./sends.py:Sends", "language": "python", "system": "SOME_API_KEY", "folder": "docs"}
    recipe.write_text(yaml.safe_dump({**content, "corpus": {**content["corpus"], "model": "python"}}), encoding="utf-8")
    assert call(["cloud", str(recipe), *SKY, "--set", "corpus.model=owner/name"]) == 0
    assert "SOME_API_KEY" not in capsys.readouterr().out
    sent = {path.relative_to("cloud/toy").as_posix() for path in Path("cloud/toy").rglob("*.txt")}
    assert sent == {"docs/diary.txt", "docs/link.txt"}


@pytest.mark.parametrize("value", ["x # y: z", "'\"\\", "$(id)", "\U0001f600", "{0}", "%s: [1, &a"])
def test_values_are_quoted_as_their_file_needs(value: str, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    head = ("time\u2028import os\rname: x\nexit()",)
    needs = {"memory": {"peak": 1e9}, "disk_bytes": 1e9, "seconds": 1, "waiting_seconds": 0}
    for bucket in ("s3://2026-11-30", "hf://buckets/you/kdtool"):
        Job("toy", bucket, "T4", needs, ["run", value], ["HF_TOKEN"], head).write(tmp_path, ["x>=1"])
    task = yaml.safe_load((tmp_path / "task.yaml").read_text(encoding="utf-8"))
    assert shlex.split(task["run"])[-2:] == ["run", value]
    assert (task["name"], task["secrets"], task["workdir"]) == ("toy", {"HF_TOKEN": None}, ".")
    assert task["file_mounts"]["/kdtool"]["name"] == "2026-11-30"
    job = ast.parse((tmp_path / "job.py").read_text(encoding="utf-8"))
    assert [ast.literal_eval(node.value) for node in job.body if isinstance(node, ast.Assign)] == [["run", value]]
    assert len(job.body) == 4


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
