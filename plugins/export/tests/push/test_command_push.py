"""`kdtool push`: what is published, what stops it, and what a reader of the repository sees at any time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import kdtool
import pytest
import yaml
from finished_run import exporter, write_run
from hub_stand_in import TOKEN, Hub
from kdtool._cli import call, cli
from kdtool._results.files import write_results
from kdtool_export.push import check, plan_push, upload
from kdtool_export.push.command import push
from kdtool_testing import CommandConformance

pytestmark = pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")  # of huggingface_hub

MODEL = "someone/small"


class TestPush(CommandConformance):
    command = push
    entry_point = "push"


def _run(*arguments: str) -> int:
    return call(["push", *arguments])


def test_without_yes_it_shows_the_repository_and_sends_nothing(
    results: kdtool.Results, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("small") == 0
    shown = capsys.readouterr()
    assert "OWNER/small (private), branch main" in shown.out
    assert "300,000  model-00001-of-00003.safetensors" in shown.out
    assert "note: overlap of the training text with benchmarks was not measured" in shown.out
    assert "nothing was uploaded" in shown.err
    assert not hub.requests


def test_publishing_is_one_commit_with_card_scores_and_files(
    results: kdtool.Results, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("small", "--yes") == 0
    assert f"published: {hub.url}/{MODEL} (commit " in capsys.readouterr().out
    repository = hub.repositories[MODEL]
    assert repository.private
    assert len(repository.branches["main"]) == 2  # the Hub's own, and ours
    files = hub.files(MODEL)
    assert {
        "config.json",
        "model-00003-of-00003.safetensors",
        "small-q8_0.gguf",
        "README.md",
        "LICENSE.md",
    } <= files.keys()
    assert not {"artifact.json", "manifest.json", "NOTICE"} & files.keys()
    assert files["Modelfile"].decode().startswith("FROM ./small-q8_0.gguf\n")
    card = files["README.md"].decode()
    data = yaml.safe_load(card.split("---\n")[1])
    assert data["library_name"] == "transformers"
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"]
    assert f"hf download {MODEL}" in card
    assert f"x('{MODEL}')" in card
    assert "llama-server -m small-q8_0.gguf" in card
    assert str(results.folder) not in card
    assert sorted(json.loads(files["kdtool-run.json"])["files"]) == sorted(files)
    assert json.loads(files["kdtool.json"]) == {"copied_layers": [0, 3]}, "a downloaded student knows its layers"


def test_scores_of_known_benchmarks_are_in_the_newer_form_too(results: kdtool.Results, hub: Hub) -> None:
    one = kdtool.Measurement("humaneval.pass@1", "student-seed0", "fraction", 0.25, 164, True, 0.19, 0.32)
    write_results(replace(results, measurements=(*results.measurements, one)))
    assert _run("small", "--yes") == 0
    (entry,) = yaml.safe_load(hub.files(MODEL)[".eval_results/kdtool.yaml"])
    assert entry["dataset"] == {"id": "openai/openai_humaneval", "task_id": "openai_humaneval"}
    assert entry["value"] == 0.25
    assert "0.19 to 0.32" in entry["notes"]


def test_publishing_again_changes_nothing(
    results: kdtool.Results, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("small", "--yes") == 0
    sent = hub.uploads()
    assert _run("small", "--yes") == 0
    assert "nothing changed" in capsys.readouterr().out
    assert hub.uploads() == sent
    assert len(hub.repositories[MODEL].branches["main"]) == 2


def test_files_that_the_run_no_longer_has_are_deleted_in_the_same_commit(results: kdtool.Results, hub: Hub) -> None:
    assert _run("small", "--yes") == 0
    assert _run("small", "--yes", "--file", "gguf") == 0
    files = hub.files(MODEL)
    assert "small-q8_0.gguf" in files
    assert "config.json" not in files
    assert len(hub.repositories[MODEL].branches["main"]) == 3


@pytest.mark.parametrize("die_at", [1, 2, 4])
def test_a_killed_upload_shows_no_half_model_and_continues(
    results: kdtool.Results, hub: Hub, tmp_path: Path, die_at: int
) -> None:
    reached, seen = Event(), []

    def stop(method: str, path: str) -> int | None:
        if method == "PUT" and not reached.is_set():
            seen.append(path)
            if len(seen) == die_at:
                reached.set()
                Event().wait(1)  # the client waits for the answer while it is killed
                return 503
        return None

    hub.answer = stop
    process = _start(hub, tmp_path, "small", "--yes")
    assert reached.wait(120)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert hub.files(MODEL) == {}
    kept = set(hub.contents)
    hub.answer = lambda _, __: None
    hub.requests.clear()
    assert _run("small", "--yes") == 0
    assert {"model-00001-of-00003.safetensors", "small-q8_0.gguf", "README.md"} <= hub.files(MODEL).keys()
    sent = {path.rpartition("/")[2] for method, path in hub.requests if method == "PUT"}
    assert not sent & kept, "a file that arrived whole is not sent again"
    assert sent | kept == set(hub.contents)


def test_a_kill_before_the_commit_costs_no_file_again(results: kdtool.Results, hub: Hub, tmp_path: Path) -> None:
    reached = Event()

    def stop(method: str, path: str) -> int | None:
        if "/commit/" in path and not reached.is_set():
            reached.set()
            Event().wait(1)
            return 503
        return None

    hub.answer = stop
    process = _start(hub, tmp_path, "small", "--yes")
    assert reached.wait(120)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert hub.files(MODEL) == {}
    hub.requests.clear()
    assert _run("small", "--yes") == 0
    assert hub.uploads() == 0
    assert "config.json" in hub.files(MODEL)


def _start(hub: Hub, tmp_path: Path, *arguments: str) -> subprocess.Popen[bytes]:
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN}
    command = [sys.executable, "-m", "kdtool", "push", *arguments]
    return subprocess.Popen(command, env={**os.environ, **own}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_the_token_is_nowhere(results: kdtool.Results, hub: Hub, tmp_path: Path) -> None:
    process = _start(hub, tmp_path, "small", "--yes")
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    hub.answer = lambda _, path: 403 if "/commit/" in path else None
    shutil.rmtree(results.folder)
    write_run(results.folder, verdict="another")
    failed = _start(hub, tmp_path, "small", "--yes")
    more, shown = failed.communicate(timeout=120)
    assert failed.returncode == 4, shown
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    published = b"".join(hub.files(MODEL).values())
    assert TOKEN.encode() not in out + error + more + shown + written + published
    assert not any(TOKEN in path for _, path in hub.requests)


def test_an_error_that_quotes_the_token_is_shown_without_it(
    results: kdtool.Results, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"cannot send Bearer {TOKEN}")

    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", fail)
    assert _run("small", "--yes") == 5
    shown = capsys.readouterr().err
    assert "cannot send Bearer [token]" in shown
    assert TOKEN not in shown


@pytest.mark.parametrize(
    ("status", "where", "code", "said"),
    [
        (401, "/api/repos/create", 4, "does not accept the token"),
        (403, "/api/repos/create", 4, "may not write to someone/small"),
        (403, "/commit/", 4, "may not write to someone/small"),
        (412, "/commit/", 2, "was changed meanwhile"),
        (400, "/commit/", 2, "refuses the content"),
        (500, "/api/whoami-v2", 5, "cannot be reached or failed"),
        (503, "/commit/", 5, "the same command continues"),
        (500, "/lfs/", 5, "the same command continues"),
    ],
)
def test_refusals_of_the_hub_are_sentences_with_a_remedy(
    results: kdtool.Results, hub: Hub, capsys: pytest.CaptureFixture[str], status: int, where: str, code: int, said: str
) -> None:
    hub.answer = lambda _, path: status if where in path else None
    arguments = ["small", "--yes"] if where == "/api/whoami-v2" else ["small", "--yes", "--to", MODEL]
    assert _run(*arguments) == code
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown
    hub.answer = lambda _, __: None
    assert _run("small", "--yes", "--to", MODEL) == 0


def test_without_a_network_it_says_so(
    results: kdtool.Results, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert _run("small", "--yes", "--to", MODEL) == 5
    assert "the Hub cannot be reached" in capsys.readouterr().err


def test_without_a_token_it_says_where_to_get_one(
    results: kdtool.Results, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert _run("small", "--yes") == 4
    assert "hf auth login" in capsys.readouterr().err
    assert not hub.requests


def test_a_repository_of_others_is_left_alone(
    results: kdtool.Results, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(Path("runs/other"), name="other")
    assert _run("other", "--yes", "--to", MODEL) == 0
    before = hub.files(MODEL)
    assert _run("small", "--yes", "--to", MODEL) == 2
    assert "holds files that are not from the run 'small'" in capsys.readouterr().err
    assert hub.files(MODEL) == before
    assert _run("small", "--yes", "--to", MODEL, "--replace") == 0
    assert json.loads(hub.files(MODEL)["kdtool-run.json"])["run"] == "small"


def test_a_commit_of_someone_else_in_between_is_not_overwritten(
    results: kdtool.Results, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    def interfere(_: str, path: str) -> None:
        commits = hub.repositories[MODEL].branches["main"] if "/preupload/" in path else []
        if len(commits) == 1:
            commits.append({"theirs.txt": b"1"})

    hub.answer = interfere
    assert _run("small", "--yes") == 2
    assert "was changed meanwhile" in capsys.readouterr().err
    assert hub.files(MODEL) == {"theirs.txt": b"1"}


def test_nothing_becomes_public_by_accident(
    results: kdtool.Results, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("small", "--yes", "--public") == 0
    assert not hub.repositories[MODEL].private
    before = len(hub.repositories[MODEL].branches["main"])
    assert _run("small", "--yes", "--file", "gguf") == 2
    assert "add --public" in capsys.readouterr().err
    assert len(hub.repositories[MODEL].branches["main"]) == before


def test_a_branch_leaves_main_as_it_is(results: kdtool.Results, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("small", "--yes", "--branch", "candidate") == 0
    assert hub.files(MODEL) == {}
    assert "config.json" in hub.files(MODEL, "candidate")
    assert f"{MODEL}/tree/candidate" in capsys.readouterr().out


def _licensed(**terms: Any) -> kdtool.Licensed:
    known = {"licence": "Llama 3.2 Community License", "url": "https://example.org/terms", **terms}
    forbidden = tuple(known.get("forbids", ()))
    return kdtool.Licensed("teacher", kdtool.LicenceTerms(**known), ("signals",), forbidden, "said")


def test_a_prescribed_name_is_taken_by_default_and_demanded_otherwise(
    results: kdtool.Results, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(replace(results, licences=(_licensed(name_prefix="Llama 3", restrictions=("pass it on",)),)))
    assert _run("small", "--yes", "--to", MODEL) == 2
    shown = capsys.readouterr()
    assert "use --to someone/Llama-3-small" in shown.err
    assert (
        "note: teacher: Llama 3.2 Community License, which binds everyone who gets the model: pass it on" in shown.out
    )
    assert not hub.requests
    assert _run("small", "--yes") == 0
    files = hub.files("someone/Llama-3-small")
    assert b"pass it on" in files["LICENSE.md"]
    assert b"\n# Llama-3-small\n" in files["README.md"]


@pytest.fixture
def cut(results: kdtool.Results, tmp_path: Path) -> Path:
    """The folder of a model under Apache-2.0 from which the run's student has weights."""
    folder = tmp_path / "base"
    folder.mkdir()
    teacher = kdtool.ComponentRecord("teacher", "teacher", "causal-lm", "x", "0.1", {"model": str(folder)})
    terms = kdtool.LicenceTerms("Apache-2.0", "https://example.org/apache")
    licensed = kdtool.Licensed("teacher", terms, ("weights",))
    rest = [one for one in results.components if one.name != "teacher"]
    write_results(replace(results, components=(teacher, *rest), licences=(licensed,)))
    return folder


def test_licence_texts_beside_the_weights_go_along(
    cut: Path, hub: Hub, results: kdtool.Results, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("LICENSE", "NOTICE.txt", "USE_POLICY.md", "licensed.py", "LICENSE.md"):
        (cut / name).write_text(f"text of {name}", encoding="utf-8")
    (results.arms[0].artifacts[1].path.parent / "NOTICE").write_text("of the exporter", encoding="utf-8")
    (cut / "NOTICE").write_text("of the base", encoding="utf-8")
    assert _run("small") == 0
    shown = capsys.readouterr().out
    assert "  LICENSE\n" in shown
    assert "--licence" not in shown
    assert _run("small", "--yes") == 0
    files = hub.files(MODEL)
    for place in ("LICENSE", "NOTICE.txt", "USE_POLICY.md", "teacher/LICENSE.md"):
        assert files[place].decode() == f"text of {place.removeprefix('teacher/')}"
    assert (files["NOTICE"], files["teacher/NOTICE"]) == (b"of the exporter", b"of the base")
    assert "licensed.py" not in files
    assert b"Apache-2.0" in files["LICENSE.md"], "the terms of all that the model was made from"


def test_a_licence_without_its_text_is_noted_with_the_way_out(
    cut: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cut / "NOTICE").touch()
    assert _run("small") == 0
    assert "note: teacher: weights that come from it need the text of the Apache-2.0, but" in capsys.readouterr().out
    assert _run("small", "--licence", str(tmp_path / "LICENSE")) == 2
    assert "LICENSE is not a file" in capsys.readouterr().err
    (tmp_path / "LICENSE").write_text("all of it", encoding="utf-8")
    assert _run("small", "--licence", str(tmp_path / "LICENSE"), "--yes") == 0
    assert "need the text" not in capsys.readouterr().out
    assert hub.files(MODEL)["LICENSE"] == b"all of it"


def test_licence_texts_of_a_hub_name_are_those_in_the_cache(
    cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshot = tmp_path / "cache" / "models--someone--base" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    for name in ("config.json", "LICENSE"):
        (snapshot / name).write_text("{}", encoding="utf-8")
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("a" * 40, encoding="utf-8")
    results = kdtool.load("small")
    for model, place in (("someone/base", ["LICENSE"]), ("someone/other", []), (str(tmp_path / "no where"), [])):
        teacher = replace(results.components[0], config={"weights": model})
        assert teacher.name == "teacher"
        write_results(replace(results, components=(teacher, *results.components[1:])))
        assert [name for name in plan_push("small").files if "LICEN" in name] == place


def test_what_a_licence_forbids_needs_a_statement(
    results: kdtool.Results, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(replace(results, licences=(_licensed(licence="Anthropic terms", forbids=("signals",)),)))
    assert _run("small", "--yes") == 2
    assert "add --permitted" in capsys.readouterr().err
    assert not hub.requests
    assert _run("small", "--yes", "--permitted") == 0


def test_a_key_in_a_file_stops_it(results: kdtool.Results, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    config = results.arms[0].artifacts[0].path / "config.json"
    config.write_text(json.dumps({"key": "hf_" + "a" * 30}), encoding="utf-8")
    assert _run("small", "--yes") == 2
    assert "config.json holds what looks like a key" in capsys.readouterr().err
    assert not hub.requests


def test_folders_of_this_machine_and_known_overlaps_are_noted(results: kdtool.Results) -> None:
    config = results.arms[0].artifacts[0].path / "config.json"
    config.write_text(json.dumps({"_name_or_path": f"{results.folder}/student"}), encoding="utf-8")
    one = kdtool.Measurement("contamination.humaneval", "student-seed0", "fraction", 0.125, 164, False)
    write_results(replace(results, measurements=(*results.measurements, one)))
    texts = [found.text for found in check(plan_push("small"))]
    assert any("config.json names a folder of this machine" in text for text in texts)
    assert any("12.5% of the problems of humaneval" in text for text in texts)
    assert any("requirement missed: quality.own-score" in text for text in texts)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["smaller"], "did you mean 'small'"),
        (["small", "--to", "abc"], "expected owner/name"),
        (["small", "--to", "a/b/c"], "the Hub does not accept"),
        (["small", "--to", "a/b c"], "the Hub does not accept"),
        (["small", "--file", "onnx"], "choose from: safetensors, gguf, model, small-q8_0.gguf"),
    ],
)
def test_a_wrong_argument_is_named(
    results: kdtool.Results, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert _run(*arguments) == 2
    assert said in capsys.readouterr().err


def test_runs_that_cannot_be_published_say_why(results: kdtool.Results, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(replace(results, arms=(replace(results.arms[0], artifacts=()),)))
    assert _run("small") == 2
    assert "exported nothing; add `exporters:" in capsys.readouterr().err
    (results.folder / "results.json").rename(results.folder / "graph.json")
    assert _run("small") == 2
    assert "is not finished" in capsys.readouterr().err


def test_an_export_with_a_missing_file_is_refused(results: kdtool.Results, capsys: pytest.CaptureFixture[str]) -> None:
    (results.arms[0].artifacts[0].path / "model-00002-of-00003.safetensors").unlink()
    assert _run("small") == 8
    assert "was changed after its export: 600,048 of 900,048 bytes" in capsys.readouterr().err


def test_a_full_disk_is_not_taken_for_the_hub(
    results: kdtool.Results, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", fail)
    with pytest.raises(kdtool.StorageError, match="make room"):
        upload(plan_push("small"))


def test_a_run_that_was_moved_is_published_the_same(results: kdtool.Results, hub: Hub, tmp_path: Path) -> None:
    here = plan_push("small", to=MODEL).content("someone")
    shutil.move("runs", "elsewhere")
    there = plan_push("small", to=MODEL, out="elsewhere").content("someone")
    assert here["README.md"] == there["README.md"]


def test_the_plan_is_available_as_json(results: kdtool.Results, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("small", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["repository"] == "OWNER/small"
    assert plan["files"]["model-00001-of-00003.safetensors"] == 300_000
    assert not any(one["stops"] for one in plan["checks"])


def test_two_files_of_one_name_get_places_of_their_own(results: kdtool.Results) -> None:
    first = results.arms[0].artifacts[1]
    other = first.path.parent.with_name("gguf-3") / first.path.name
    shutil.copytree(first.path.parent, other.parent)
    artifacts = (*results.arms[0].artifacts, replace(first, path=other))
    arms = (replace(results.arms[0], artifacts=artifacts),)
    write_results(replace(results, arms=arms, components=(*results.components, exporter("second"))))
    assert {"small-q8_0.gguf", "second-small-q8_0.gguf"} <= plan_push("small").files.keys()


def test_the_folder_for_transformers_is_the_repository_and_others_are_below_it(results: kdtool.Results) -> None:
    model, gguf = results.arms[0].artifacts
    other = replace(model, path=model.path.parent.with_name("packed-3") / "packed", format="compressed-tensors")
    shutil.copytree(model.path, other.path)
    arms = (replace(results.arms[0], artifacts=(other, model, gguf)),)
    others = [one for one in results.components if one.kind != "exporter"]
    named = (exporter("packed"), exporter("safetensors"), exporter("gguf"))
    write_results(replace(results, arms=arms, components=(*others, *named)))
    files = plan_push("small").files
    assert files["config.json"].parent == model.path
    assert files["packed/config.json"].parent == other.path


def test_help_names_the_command() -> None:
    assert "push" in cli.list_commands(None)  # type: ignore[arg-type]
