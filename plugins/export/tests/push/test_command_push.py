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
from finished_run import CARD, Push, exporter, write_run
from hub_stand_in import TOKEN, Hub
from kdtool._cli import call
from kdtool._results.files import write_results
from kdtool_export.push import check, command, plan_push
from kdtool_testing import CommandConformance

pytestmark = pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")  # of huggingface_hub

MODEL = "someone/small"


class TestPush(CommandConformance):
    command = command.push
    entry_point = "push"


def test_without_yes_it_shows_the_repository_and_sends_nothing(push: Push, hub: Hub) -> None:
    shown = push()
    assert shown.code == 0
    assert "OWNER/small (private), branch main" in shown.out
    assert "300,000  model-00001-of-00003.safetensors" in shown.out
    assert "note: overlap of the training text with benchmarks was not measured" in shown.out
    assert "nothing was uploaded" in shown.err
    plan = json.loads(push("--json").out)
    assert plan["repository"] == "OWNER/small"
    assert plan["files"]["model-00001-of-00003.safetensors"] == 300_000
    assert not any(one["stops"] for one in plan["checks"])
    assert not hub.requests


def test_publishing_is_one_commit_with_card_scores_and_files(push: Push, results: kdtool.Results, hub: Hub) -> None:
    known = kdtool.Measurement("humaneval.pass@1", "student-seed0", "fraction", 0.25, 164, True, 0.19, 0.32)
    write_results(replace(results, measurements=(*results.measurements, known)))
    assert f"published: {hub.url}/{MODEL} (commit " in push("--yes").out
    repository = hub.repositories[MODEL]
    assert repository.private
    assert len(repository.branches["main"]) == 2  # the Hub's own, and ours
    files = hub.files(MODEL)
    wanted = {"config.json", "model-00003-of-00003.safetensors", "small-q8_0.gguf", "README.md", "LICENSE.md"}
    assert wanted <= files.keys()
    assert not {"artifact.json", "manifest.json", "NOTICE"} & files.keys()
    assert files["Modelfile"].decode().startswith("FROM ./small-q8_0.gguf\n")
    card = files["README.md"].decode()
    data = yaml.safe_load(card.split("---\n")[1])
    assert data["library_name"] == "transformers"
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"]
    for line in (f"hf download {MODEL}", f"x('{MODEL}')", "llama-server -m small-q8_0.gguf"):
        assert line in card
    assert str(results.folder) not in card
    assert sorted(json.loads(files["kdtool-run.json"])["files"]) == sorted(files)
    assert json.loads(files["kdtool.json"]) == {"copied_layers": [0, 3]}, "a downloaded student knows its layers"


def test_publishing_again_changes_nothing_or_deletes_what_the_run_no_longer_has(push: Push, hub: Hub) -> None:
    push("--yes")
    sent = hub.uploads()
    assert "nothing changed" in push("--yes").out
    assert hub.uploads() == sent
    assert len(hub.repositories[MODEL].branches["main"]) == 2
    push("--yes", "--file", "gguf")
    files = hub.files(MODEL)
    assert "small-q8_0.gguf" in files
    assert "config.json" not in files
    assert len(hub.repositories[MODEL].branches["main"]) == 3


@pytest.mark.parametrize(("request_", "nth"), [("PUT /lfs/", 1), ("PUT /lfs/", 2), ("PUT /lfs/", 4), ("/commit/", 1)])
def test_a_killed_upload_shows_no_half_model_and_continues(
    push: Push, hub: Hub, tmp_path: Path, request_: str, nth: int
) -> None:
    reached, seen = Event(), []

    def stop(method: str, path: str) -> int | None:
        if request_ in f"{method} {path}" and not reached.is_set():
            seen.append(path)
            if len(seen) == nth:
                reached.set()
                Event().wait(1)  # the client waits for the answer while it is killed
                return 503
        return None

    hub.answer = stop
    process = _start(hub, tmp_path)
    assert reached.wait(120)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert hub.files(MODEL) == {}
    kept = set(hub.contents)
    hub.answer = lambda _, __: None
    hub.requests.clear()
    assert push("--yes").code == 0
    assert {"model-00001-of-00003.safetensors", "small-q8_0.gguf", "README.md"} <= hub.files(MODEL).keys()
    sent = {path.rpartition("/")[2] for method, path in hub.requests if method == "PUT"}
    assert not sent & kept, "a file that arrived whole is not sent again"
    assert sent | kept == set(hub.contents)


def _start(hub: Hub, tmp_path: Path) -> subprocess.Popen[bytes]:
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN}
    command = [sys.executable, "-m", "kdtool", "push", "small", "--yes"]
    return subprocess.Popen(command, env={**os.environ, **own}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_the_token_is_nowhere(results: kdtool.Results, hub: Hub, tmp_path: Path) -> None:
    shown = b""
    for code in (0, 4):
        process = _start(hub, tmp_path)
        out, error = process.communicate(timeout=120)
        assert process.returncode == code, error
        shown += out + error
        hub.answer = lambda _, path: 403 if "/commit/" in path else None
        write_results(replace(results, verdict="another"))
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    published = b"".join(hub.files(MODEL).values())
    assert TOKEN.encode() not in shown + written + published
    assert not any(TOKEN in path for _, path in hub.requests)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RuntimeError(f"cannot send Bearer {TOKEN}"), 5, "cannot send Bearer [token]"),
        (OSError(28, "No space left on device"), 8, "make room"),
    ],
)
def test_other_errors_are_told_apart_and_quote_no_token(
    push: Push, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, said: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", fail)
    assert TOKEN not in push.refuses("--yes", said=said, code=code).err


@pytest.mark.parametrize(
    ("status", "where", "code", "said"),
    [
        (401, "/api/repos/create", 4, "does not accept the token"),
        (403, "/commit/", 4, "may not write to someone/small"),
        (412, "/commit/", 2, "was changed meanwhile"),
        (400, "/commit/", 2, "refuses the content"),
        (500, "/api/whoami-v2", 5, "cannot be reached or failed"),
        (503, "/commit/", 5, "the same command continues"),
    ],
)
def test_refusals_of_the_hub_are_sentences_with_a_remedy(
    push: Push, hub: Hub, status: int, where: str, code: int, said: str
) -> None:
    hub.answer = lambda _, path: status if where in path else None
    to = () if where == "/api/whoami-v2" else ("--to", MODEL)
    assert "Traceback" not in push.refuses("--yes", *to, said=said, code=code).err
    hub.answer = lambda _, __: None
    assert push("--yes", "--to", MODEL).code == 0


def test_without_a_network_or_a_token_it_says_what_to_do(push: Push, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    push.refuses("--yes", "--to", MODEL, said="the Hub cannot be reached", code=5)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    push.refuses("--yes", said="hf auth login", code=4)
    assert not hub.requests


def test_a_repository_of_others_is_left_alone(push: Push, hub: Hub) -> None:
    write_run(Path("runs/other"), name="other")
    assert call(["push", "other", "--yes", "--to", MODEL]) == 0
    before = hub.files(MODEL)
    push.refuses("--yes", "--to", MODEL, said="holds files that are not from the run 'small'")
    assert hub.files(MODEL) == before
    assert push("--yes", "--to", MODEL, "--replace").code == 0
    assert json.loads(hub.files(MODEL)["kdtool-run.json"])["run"] == "small"


def test_a_commit_of_someone_else_in_between_is_not_overwritten(push: Push, hub: Hub) -> None:
    def interfere(_: str, path: str) -> None:
        commits = hub.repositories[MODEL].branches["main"] if "/preupload/" in path else []
        if len(commits) == 1:
            commits.append({"theirs.txt": b"1"})

    hub.answer = interfere
    push.refuses("--yes", said="was changed meanwhile")
    assert hub.files(MODEL) == {"theirs.txt": b"1"}


def test_nothing_becomes_public_by_accident(push: Push, hub: Hub) -> None:
    push("--yes", "--public")
    assert not hub.repositories[MODEL].private
    before = len(hub.repositories[MODEL].branches["main"])
    push.refuses("--yes", "--file", "gguf", said="add --public")
    assert len(hub.repositories[MODEL].branches["main"]) == before


def test_a_branch_leaves_main_as_it_is(push: Push, hub: Hub) -> None:
    assert f"{MODEL}/tree/candidate" in push("--yes", "--branch", "candidate").out
    assert hub.files(MODEL) == {}
    assert "config.json" in hub.files(MODEL, "candidate")


def _licensed(**terms: Any) -> kdtool.Licensed:
    known = {"licence": "Llama 3.2 Community License", "url": "https://example.org/terms", **terms}
    forbidden = tuple(known.get("forbids", ()))
    return kdtool.Licensed("teacher", kdtool.LicenceTerms(**known), ("signals",), forbidden, "said")


def test_a_prescribed_name_is_taken_by_default_and_demanded_otherwise(
    push: Push, results: kdtool.Results, hub: Hub
) -> None:
    write_results(replace(results, licences=(_licensed(name_prefix="Llama 3", restrictions=("pass it on",)),)))
    shown = push.refuses("--yes", "--to", MODEL, said="use --to someone/Llama-3-small")
    bound = "note: teacher: Llama 3.2 Community License, which binds everyone who gets the model: pass it on"
    assert bound in shown.out
    assert not hub.requests
    assert push("--yes").code == 0
    files = hub.files("someone/Llama-3-small")
    assert b"pass it on" in files["LICENSE.md"]
    assert b"\n# Llama-3-small\n" in files["README.md"]


def test_a_key_in_a_file_or_what_a_licence_forbids_stops_it(push: Push, results: kdtool.Results, hub: Hub) -> None:
    write_results(replace(results, licences=(_licensed(licence="Anthropic terms", forbids=("signals",)),)))
    push.refuses("--yes", said="add --permitted")
    config = results.arms[0].artifacts[0].path / "config.json"
    before = config.read_bytes()
    config.write_text(json.dumps({"key": "hf_" + "a" * 30}), encoding="utf-8")
    push.refuses("--yes", "--permitted", said="config.json holds what looks like a key")
    assert not hub.requests
    config.write_bytes(before)
    assert push("--yes", "--permitted").code == 0


_PEM = "-----BEGIN {}PRIVATE KEY-----"


@pytest.mark.parametrize(
    "text",
    [
        _PEM.format(""),
        _PEM.format("OPENSSH "),
        _PEM.format("RSA "),
        "-----BEGIN PGP PRIVATE KEY " + "BLOCK-----",
        "PuTTY-User-Key-File" + "-3: ssh-ed25519",
        "AKIA" + "IOSFODNN7EXAMPLE",
        "ASIA" + "IOSFODNN7EXAMPLE",
        "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "ghp_" + "a" * 36,
    ],
)
def test_keys_of_all_kinds_stop_it(push: Push, results: kdtool.Results, hub: Hub, text: str) -> None:
    (results.arms[0].artifacts[0].path / "notes.txt").write_text(f"first\n{text}\n", encoding="utf-8")
    push.refuses("--yes", said="notes.txt holds what looks like a key")
    assert not hub.requests


@pytest.mark.skipif(os.name == "nt", reason="no pipes there")
@pytest.mark.parametrize("kind", ["link", "pipe", "device", "folder"])
@pytest.mark.parametrize("place", ["model", "gguf", "NOTICE", "LICENSE"])
def test_only_files_of_their_folders_are_published(
    cut: Path, push: Push, hub: Hub, tmp_path: Path, kind: str, place: str
) -> None:
    model, gguf = (artifact.path for artifact in kdtool.load("small").arms[0].artifacts)
    (outside := tmp_path / "outside").mkdir()
    (outside / "id_rsa").write_text("x" * 200_000, encoding="utf-8")
    path = {"model": model / "extra", "gguf": gguf, "NOTICE": gguf.with_name("NOTICE"), "LICENSE": cut / "LICENSE"}[
        place
    ]
    path.unlink(missing_ok=True)
    if kind == "folder":
        rest = [*path.parent.iterdir()]
        for file in rest:
            shutil.move(file, outside)
        (outside / "id_rsa").rename(outside / path.name)
        path.parent.rmdir()
        path.parent.symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"link": outside / "id_rsa", "device": Path("/dev/zero")}[kind])
    if (kind, place) == ("folder", "LICENSE"):  # the recipe names that folder
        assert push("--yes").code == 0
        return
    push.refuses("--yes", said="leads out of" if kind != "pipe" else "is a pipe or a device", code=8)
    assert not hub.requests


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


def test_licence_texts_beside_the_weights_go_along(cut: Path, push: Push, results: kdtool.Results, hub: Hub) -> None:
    for name in ("LICENSE", "NOTICE.txt", "USE_POLICY.md", "licensed.py", "LICENSE.md"):
        (cut / name).write_text(f"text of {name}", encoding="utf-8")
    (results.arms[0].artifacts[1].path.parent / "NOTICE").write_text("of the exporter", encoding="utf-8")
    (cut / "NOTICE").write_text("of the base", encoding="utf-8")
    shown = push("--yes").out
    assert "  LICENSE\n" in shown
    assert "--licence" not in shown
    files = hub.files(MODEL)
    for place in ("LICENSE", "NOTICE.txt", "USE_POLICY.md", "teacher/LICENSE.md"):
        assert files[place].decode() == f"text of {place.removeprefix('teacher/')}"
    assert (files["NOTICE"], files["teacher/NOTICE"]) == (b"of the exporter", b"of the base")
    assert "licensed.py" not in files
    assert b"Apache-2.0" in files["LICENSE.md"], "the terms of all that the model was made from"


def test_a_licence_without_its_text_is_noted_with_the_way_out(cut: Path, push: Push, hub: Hub, tmp_path: Path) -> None:
    (cut / "NOTICE").touch()
    assert "note: teacher: weights that come from it need the text of the Apache-2.0, but" in push().out
    push.refuses("--licence", str(tmp_path / "LICENSE"), said="LICENSE is not a file")
    (tmp_path / "LICENSE").write_text("all of it", encoding="utf-8")
    assert "need the text" not in push("--licence", str(tmp_path / "LICENSE"), "--yes").out
    assert hub.files(MODEL)["LICENSE"] == b"all of it"


def test_licence_texts_of_a_hub_name_are_those_in_the_cache(
    cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "cache" / "models--someone--base"
    for file, text in (("config.json", "{}"), ("../../blobs/b", "{}"), ("../../refs/main", "a" * 40)):
        path = model / "snapshots" / ("a" * 40) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (model / "snapshots" / ("a" * 40) / "LICENSE").symlink_to("../../blobs/b")
    results = kdtool.load("small")
    for name, place in (("someone/base", ["LICENSE"]), ("someone/other", []), (str(tmp_path / "no where"), [])):
        teacher = replace(results.components[0], config={"weights": name})
        assert teacher.name == "teacher"
        write_results(replace(results, components=(teacher, *results.components[1:])))
        assert [file for file in plan_push("small").files if "LICEN" in file] == place


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
        (["--to", "abc"], "expected owner/name"),
        (["--to", "a/b/c"], "the Hub does not accept"),
        (["--file", "onnx"], "choose from: safetensors, gguf, model, small-q8_0.gguf"),
        (["--space"], "--space: the run exported no page; expected one, of the exporter web: add"),
    ],
)
def test_a_wrong_argument_is_named(push: Push, arguments: list[str], said: str) -> None:
    push.refuses(*arguments, said=said)


def test_runs_that_cannot_be_published_say_why(push: Push, results: kdtool.Results) -> None:
    (results.arms[0].artifacts[0].path / "model-00002-of-00003.safetensors").unlink()
    push.refuses(said="was changed after its export: 600,048 of 900,048 bytes", code=8)
    write_results(replace(results, arms=(replace(results.arms[0], artifacts=()),)))
    push.refuses(said="exported nothing; add `exporters:")
    (results.folder / "results.json").rename(results.folder / "graph.json")
    push.refuses(said="is not finished")


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


@pytest.fixture
def page(results: kdtool.Results) -> Path:
    """The folder of a page that the run exported, too."""
    folder = results.folder / "exports" / "web-3" / "web"
    (folder / "onnx").mkdir(parents=True)
    for name in ("index.html", "config.json", "onnx/model_q4.onnx"):
        (folder / name).write_bytes(name.encode() * 100)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    made = kdtool.Artifact(folder, "web", size, "q4", f"kdtool serve --static {folder}", CARD.format("onnxruntime"))
    student = replace(results.arms[0], artifacts=(*results.arms[0].artifacts, made))
    components = (*results.components, exporter("web"))
    write_results(replace(results, arms=(student, *results.arms[1:]), components=components))
    return folder


def test_a_space_is_one_commit_with_the_page_and_its_headers(page: Path, push: Push, hub: Hub) -> None:
    assert "onnx/model_q4.onnx" in json.loads(push("--space", "--json").out)["files"]
    assert not hub.requests
    shown = push("--space", "--to", "someone/page", "--yes").out
    assert "static Space someone/page (private)" in shown
    assert f"published: {hub.url}/spaces/someone/page (commit " in shown
    files = hub.files("someone/page")
    assert files["index.html"] == (page / "index.html").read_bytes()
    assert files["onnx/model_q4.onnx"] == (page / "onnx" / "model_q4.onnx").read_bytes()
    assert not [path for path in files if "safetensors" in path or "gguf" in path], "the page only"
    front = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert (front["sdk"], front["app_file"], front["title"]) == ("static", "index.html", "page")
    headers = front["custom_headers"]
    assert headers["cross-origin-embedder-policy"] == "require-corp"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert front["license"]
    assert "# page" in files["README.md"].decode()
    assert "nothing changed" in push("--space", "--to", "someone/page", "--yes").out
