"""`kdtool data signals inspect` on real recordings of a tiny teacher: whole, killed, damaged, of a foreign cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool._cli import call
from kdtool_data.command import data
from kdtool_data.command.recorded import sample_lines, take_sample
from kdtool_testing import ByteTokenizer, CommandConformance
from kdtool_testing.tiny_models import save_tiny
from kdtool_torch.shards import save
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

ROWS, LENGTH, A_SHARD = 10, 48, 4

OWN = '''
import json
from pathlib import Path

import kdtool


class Likeliest(kdtool.Cache):
    """Keeps the likeliest token of each position, in one file that knows nothing of shards."""

    offers = frozenset({"top-k"})

    def records(self, want, offers):
        return kdtool.SignalRequest(frozenset({"logits"}))

    def kdtool_record(self, run, rows, source, folder):
        from kdtool_torch import collate

        kept = {}
        for number in range(len(rows)):
            lazy = source.signal(collate([rows[number]])).lazy
            likeliest = lazy.head.logits(lazy.hidden).float().softmax(-1).max(-1)
            kept[rows[number].key] = [likeliest.indices.tolist(), likeliest.values.tolist()]
        (folder / "kept.json").write_text(json.dumps(kept), encoding="utf-8")
        return len(rows)

    def kdtool_recall(self, batch, want, folder):
        import torch

        kept = json.loads((folder / "kept.json").read_text(encoding="utf-8"))
        ids, weights = zip(*(kept[key] for key in batch.row_keys))
        ids = torch.tensor(sum(ids, []), dtype=torch.int32)[:, None]
        return kdtool.Signal("own", sparse=kdtool.SparseTokens(ids, torch.tensor(sum(weights, []))[:, None], "top-k", 1.0))


class Idle(kdtool.Trainer):
    """Trains nothing: signals are recorded before."""

    def kdtool_train(self, run, phase, student):
        history = phase.checkpoints / "history.jsonl"
        history.write_text("", encoding="utf-8")
        return kdtool.Trained(phase.steps, 0, 0.0, history, "float32")
'''


class TestData(CommandConformance):
    command = data
    entry_point = "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher, a recipe, and a store with signals of three caches, two whole and one killed."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("recorded")
    save_tiny(folder / "teacher", layers=3)
    (folder / "own.py").write_text(OWN, encoding="utf-8")
    texts = [f"# {number}\n" + "x = [f(y) for y in z]\n" * 3 for number in range(20)]
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    recipe = {
        "name": "tiny",
        "corpus": {"use": "jsonl", "files": [str(folder / "text.jsonl")]},
        "rows": {"use": "packed", "length": LENGTH, "maximum_tokens": ROWS * LENGTH},
        "teacher": {"use": "causal-lm", "model": str(folder / "teacher"), "dtype": "float32"},
        "signals": {"use": "sampled", "rows_per_shard": A_SHARD, "batch": 1},
        "student": {"use": "pruned", "layers": 2},
        "trainer": {"use": str(folder / "own.py:Idle")},
        "train": {"losses": {"forward-kl": {"temperature": 2.0}}, "steps": 1},
        "control": False,
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    for cache in ("sampled", "states"):
        record(folder, {"signals.use": cache, "name": cache})
    return folder


def record(folder: Path, settings: Mapping[str, Any]) -> None:
    kdtool.run(folder / "recipe.yaml", settings, out=folder / "runs", store=folder / "store")


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KDTOOL_STORE", str(folder / "store"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


Inspect = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Inspect:
    """Return a function that calls the command and gives exit code, output and errors."""

    def inspected(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = call(["data", "signals", "inspect", *words])
        return code, *capsys.readouterr()

    return inspected


def plain(found: tuple[int, str, str], code: int = 0) -> dict[str, Any]:
    """Return the JSON that was printed."""
    assert found[0] == code, found[2]
    printed: dict[str, Any] = json.loads(found[1])
    return printed


def stored_rows(folder: Path) -> list[list[list[int]]]:
    """Return the documents of each row as tokens, read without kdtool; all of them are labelled."""
    (file,) = (folder / "store" / "rows").glob("*/*.safetensors")
    with safe_open(file, framework="pt") as opened:
        assert opened.get_tensor("labelled").all()
        ids, document = opened.get_tensor("input_ids"), opened.get_tensor("document")
    return [
        [row[numbers == number].tolist() for number in numbers.unique()]
        for row, numbers in zip(ids, document, strict=True)
    ]


def labels(rows: list[list[list[int]]]) -> int:
    """Count what is predicted: all tokens of a document but its first."""
    return sum(len(document) - 1 for row in rows for document in row)


def expectations(
    folder: Path, row: list[list[int]], temperature: float
) -> dict[int, tuple[list[int], int, torch.Tensor]]:
    """Return, by position, tokens so far, the next one, and the teacher's probabilities, by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(folder / "teacher")
    found: dict[int, tuple[list[int], int, torch.Tensor]] = {}
    begin = 0
    for ids in row:
        with torch.no_grad():
            told = (model(torch.tensor([ids])).logits[0].double() / temperature).softmax(-1)
        found |= {begin + i: (ids[: i + 1], ids[i + 1], told[i]) for i in range(len(ids) - 1)}
        begin += len(ids)
    return found


def signals_of(folder: Path, **settings: str) -> Path:
    """Return the folder of signals."""
    stages = kdtool.plan(folder / "recipe.yaml", settings)
    return next(stage.path for stage in stages if stage.name == "signals/teacher")


def test_draws_are_shown_as_the_teacher_s_probabilities_rounded(inspect: Inspect, folder: Path) -> None:
    found = plain(inspect("recipe.yaml", "--row", "3", "--positions", "99", "--json"))
    assert (found["signals"], found["whole"], found["damaged"]) == ("signals/teacher", True, [])
    assert (found["rows"], found["recorded"], found["row_length"]) == (ROWS, ROWS, LENGTH)
    assert (found["kinds"], found["temperature"], found["checked"]) == (["sampled"], 2.0, "sizes")
    assert (found["cache"]["use"], found["cache"]["config"]["samples"]) == ("sampled", 20)
    assert found["teacher"]["config"]["model"] == str(folder / "teacher")
    sample, row = found["sample"], stored_rows(folder)[3]
    assert (sample["form"], sample["temperature"], sample["row"]) == ("sampled", 2.0, 3)
    assert sample["labels"] == len(sample["positions"]) == labels([row])
    text = AutoTokenizer.from_pretrained(folder / "teacher")
    for position, (place, (before, label, true)) in zip(
        sample["positions"], expectations(folder, row, 2.0).items(), strict=True
    ):
        assert (position["position"], position["label"]["id"]) == (place, label)
        assert position["label"]["text"] in {text.decode([label]), "<|endoftext|>"}
        assert position["before"] == text.decode(before[-12:])
        shares = {token["id"]: token["probability"] for token in position["tokens"]}
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        assert sum(shares.values()) + position["rest"] == pytest.approx(1, abs=1e-6)
        assert all(abs(share - true[token]) < 0.05 + 1e-4 for token, share in shares.items())
        assert len(shares) == 8 or position["label"]["probability"] == shares.get(label)


def test_tokens_files_and_bytes_are_those_on_disk(inspect: Inspect, folder: Path) -> None:
    found = plain(inspect("recipe.yaml", "--json"))
    where = signals_of(folder)
    sizes = {file.name: file.stat().st_size for file in where.iterdir()}
    assert Path(found["folder"]) == where
    assert (found["files"], found["bytes"]) == (len(sizes), sum(sizes.values()))
    assert found["tokens"] == labels(stored_rows(folder)) < ROWS * (LENGTH - 1)
    shards = [size for name, size in sizes.items() if name.startswith("shard") and name.endswith(".safetensors")]
    assert len(shards) == -(-ROWS // A_SHARD)
    assert found["bytes_a_token"] == pytest.approx(sum(shards) / found["tokens"])


def test_states_are_shown_as_what_the_teacher_says(inspect: Inspect, folder: Path) -> None:
    found = plain(inspect("recipe.yaml", "--set", "signals.use=states", "--row", "9", "--json", "--verify"))
    assert (found["kinds"], found["checked"], found["sample"]["form"]) == (["logits"], "hashes", "logits")
    assert len(found["sample"]["positions"]) == 8
    expected = expectations(folder, stored_rows(folder)[9], 1.0)
    for position in found["sample"]["positions"]:
        _, label, true = expected[position["position"]]
        likeliest, tokens = true.topk(8)
        assert [token["id"] for token in position["tokens"]] == tokens.tolist()
        assert [token["probability"] for token in position["tokens"]] == pytest.approx(likeliest.tolist(), abs=1e-5)
        assert position["label"]["id"] == label
        assert position["label"]["probability"] == pytest.approx(float(true[label]), abs=1e-5)
        assert position["rest"] == pytest.approx(1 - float(likeliest.sum()), abs=1e-5)


@pytest.mark.parametrize("cache", ["sampled", "states"])
def test_people_get_a_table(inspect: Inspect, cache: str) -> None:
    code, out, _ = inspect("recipe.yaml", "--set", f"signals.use={cache}", "--positions", "40")
    assert code == 0
    overview, _, table = out.partition("\n\n")
    assert overview.startswith("signals/teacher: complete\n")
    assert f"{cache} (kdtool-torch " in overview
    assert f"{ROWS} of {LENGTH} tokens, all recorded" in overview
    assert "all sizes match" in overview
    lines = table.splitlines()
    assert [line[:8].strip().isdigit() for line in lines] == [False] * 3 + [True] * 40


def test_a_finished_run_s_folder_stands_for_its_recipe_and_store(
    inspect: Inspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KDTOOL_STORE")
    assert plain(inspect("runs/states", "--json"))["cache"]["use"] == "states"
    assert plain(inspect("runs/sampled", "--json", "--row", "2"))["cache"]["use"] == "sampled"


def test_a_killed_recording_says_what_is_missing_and_shows_what_is_there(
    inspect: Inspect, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: Path, name: str, *content: Any) -> None:
        if name == "shard-00001":
            (folder / f".{name}.writing").write_bytes(b"half a file")
            raise KeyboardInterrupt
        save(folder, name, *content)

    monkeypatch.setattr("kdtool_torch.recording.save", killed)
    with pytest.raises(KeyboardInterrupt):
        record(folder, {"signals.samples": 7})
    (partial,) = (folder / "store" / "signals").glob("*.partial")
    words = ["--set", "signals.samples=7"]
    found = plain(inspect("recipe.yaml", *words, "--row", "3", "--verify", "--json"))
    assert (found["whole"], found["recorded"], found["rows"]) == (False, A_SHARD, ROWS)
    assert (found["tokens"], found["damaged"]) == (labels(stored_rows(folder)[:A_SHARD]), [])
    assert Path(found["folder"]) == partial
    assert found["sample"]["positions"][0]["label"]["id"] == stored_rows(folder)[3][0][1]
    before = sorted(path.name for path in partial.iterdir())
    code, out, _ = inspect("recipe.yaml", *words)
    assert code == 0
    assert out.startswith("signals/teacher: incomplete")
    assert f"{A_SHARD} recorded; {ROWS - A_SHARD} missing: {A_SHARD} to {ROWS - 1}" in out
    code, _, told = inspect("recipe.yaml", *words, "--row", str(A_SHARD))
    assert code == 2
    assert f"not recorded yet; choose from 0 to {A_SHARD - 1}" in told
    assert sorted(path.name for path in partial.iterdir()) == before


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> Callable[[str], tuple[Path, str]]:
    """Return a function that copies the store and gives a file of its signals, with the words that name the store."""

    def copied(name: str) -> tuple[Path, str]:
        store = tmp_path / "store"
        shutil.copytree(folder / "store", store)
        return store / signals_of(folder).relative_to(folder / "store") / name, str(store)

    return copied


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def spoil(path: Path) -> None:
    path.write_text("{", encoding="utf-8")


def test_a_flipped_byte_is_found_by_verify_and_named(inspect: Inspect, damaged: Any) -> None:
    file, store = damaged("shard-00001.safetensors")
    flip(file)
    assert plain(inspect("recipe.yaml", "--store", store, "--json"))["damaged"] == []
    found = inspect("recipe.yaml", "--store", store, "--json", "--verify")
    (damage,) = plain(found, code=8)["damaged"]
    assert damage["file"] == "shard-00001.safetensors"
    assert "shard-00001.safetensors" in found[2]
    assert f"delete the folder {file.parent}" in found[2]
    code, out, _ = inspect("recipe.yaml", "--store", store, "--verify")
    assert code == 8
    assert "1 damaged" in out


@pytest.mark.parametrize(
    ("name", "damage", "words", "told"),
    [
        ("shard-00001.safetensors", flip, ("--row", str(A_SHARD)), "{file}"),
        ("shard-00002.safetensors", cut_short, (), "bytes instead of"),
        ("teacher.safetensors", Path.unlink, (), "teacher.safetensors is missing"),
        ("manifest.json", spoil, (), "{file}"),
        ("../../rows", shutil.rmtree, (), "the rows of the signals of teacher are not there"),
    ],
    ids=["the row's shard", "a shorter shard", "a missing file", "the manifest", "the rows"],
)
def test_damage_is_named_and_nothing_is_shown(
    inspect: Inspect, damaged: Any, name: str, damage: Callable[[Path], None], words: tuple[str, ...], told: str
) -> None:
    file, store = damaged(name)
    damage(file)
    code, out, error = inspect("recipe.yaml", "--store", store, *words)
    assert code == 8
    assert told.format(file=file) in error
    assert "text so far" not in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--set", "signals=false"), "the teacher runs with the student"),
        (("--set", "signals.samples=3"), "record them with: kdtool run recipe.yaml --set signals.samples=3"),
        (("--store", "other place"), "kdtool run recipe.yaml --store 'other place'"),
        (("--row", str(ROWS)), f"choose from 0 to {ROWS - 1}"),
        (("--signals", "teachers.big"), "no signals called 'teachers.big'; choose with --signals: signals/teacher"),
    ],
)
def test_what_cannot_be_shown_is_a_sentence(inspect: Inspect, words: tuple[str, ...], told: str) -> None:
    code, out, error = inspect("recipe.yaml", *words)
    assert (code, out) == (2, "")
    assert told in error
    assert not Path("other place").exists()


@pytest.mark.parametrize(("name", "told"), [("teacher", "holds no finished run"), ("no.yaml", "not found")])
def test_what_is_neither_recipe_nor_run_is_refused(inspect: Inspect, name: str, told: str) -> None:
    code, _, error = inspect(name)
    assert (code, told in error) == (2, True), error


def test_of_several_caches_one_is_chosen(inspect: Inspect, folder: Path) -> None:
    recipe = json.loads(Path("recipe.yaml").read_text(encoding="utf-8"))
    train, cache = recipe.pop("train"), recipe.pop("signals")
    recipe["train"] = {"one": {**train, "signals": cache}, "two": {**train, "signals": {"use": "states"}}}
    Path("two.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    code, _, told = inspect("two.yaml")
    assert code == 2
    names = told.partition("--signals: ")[2].strip().split(", ")
    assert len(names) == 2
    for name, use in zip(names, ("sampled", "states"), strict=True):
        assert plain(inspect("two.yaml", "--json", "--signals", name))["cache"]["use"] == use
        assert plain(inspect("two.yaml", "--json", "--signals", name.removeprefix("signals/")))["signals"] == name


def test_of_another_cache_what_can_be_known_is_shown(inspect: Inspect, folder: Path) -> None:
    settings = {"signals.use": str(folder / "own.py:Likeliest")}
    words = ["--set", f"signals.use={folder / 'own.py:Likeliest'}"]
    record(folder, settings)
    found = plain(inspect("recipe.yaml", *words, "--verify", "--json"))
    assert (found["whole"], found["recorded"], found["tokens"], found["bytes_a_token"]) == (True, ROWS, None, None)
    assert (found["files"], found["damaged"], found["sample"]["form"]) == (2, [], "top-k")
    expected = expectations(folder, stored_rows(folder)[0], 1.0)
    for position in found["sample"]["positions"]:
        (token,) = position["tokens"]
        assert token["id"] == int(expected[position["position"]][2].argmax())
        assert token["probability"] + position["rest"] == pytest.approx(1)
    flip(Path(found["folder"]) / "kept.json")
    assert inspect("recipe.yaml", *words, "--verify")[0] == 8


class States:
    """Signals of hidden states alone."""

    want = kdtool.SignalRequest(frozenset({"hidden"}), (0,))

    def signal(self, batch: kdtool.Batch, chosen: object = None) -> kdtool.Signal:
        return kdtool.Signal("t", hidden={0: torch.zeros(3, 4)})


def test_states_without_tokens_show_nothing_of_a_row() -> None:
    row = kdtool.Row("k", [1, 2, 3, 4], [True] * 4, [0] * 4)
    assert take_sample(row, 0, 8, ByteTokenizer(), States()) is None
    assert "no tokens to show" in next(sample_lines(None))
