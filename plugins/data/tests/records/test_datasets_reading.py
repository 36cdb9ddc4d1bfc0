"""Records of files in every format, and a Hub that is not there, is closed, or breaks off."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import kdtool
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kdtool_data.records import DataFiles, HubDataset

ROWS = [{"code": f"x = {number}", "licence": "MIT", "tags": ["a", "b"][: number % 3]} for number in range(40)]


def write(path: Path) -> Path:
    table = pa.Table.from_pylist(ROWS)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    else:
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.jsonl", "a.jsonl.gz"])
def test_records_come_in_order_whatever_the_format(tmp_path: Path, name: str) -> None:
    files = DataFiles([write(tmp_path / name)])
    assert list(files.records()) == ROWS
    assert list(files.identity()) == [name]


def test_what_is_wrong_with_files_is_a_user_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match="has an unknown suffix"):
        DataFiles([tmp_path / "a.bin"])
    with pytest.raises(kdtool.UsageError, match=r"a\.parquet and .*b\.jsonl differ"):
        DataFiles([tmp_path / "a.parquet", tmp_path / "b.jsonl"])
    with pytest.raises(kdtool.UsageError, match=r"no file .*a\.parquet"):
        list(DataFiles([tmp_path / "a.parquet"]).records())
    with pytest.raises(kdtool.UsageError, match=r"a\.parquet cannot be read"):
        DataFiles([tmp_path / "a.parquet"]).identity()
    for name in ("torn.parquet", "torn.jsonl"):
        (tmp_path / name).write_bytes(b'{"code": "x"}\n{"code": ')
        with pytest.raises(kdtool.UsageError, match=f"{name} cannot be read"):
            list(DataFiles([tmp_path / name]).records())


def _point_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setenv("HF_ENDPOINT", address)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_data_set_that_is_not_open_is_said_to_be_so(hub: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _point_to(hub, monkeypatch)
    message = f"dataset status/{status} at v1 is not on the Hub, or not open to you: check the name"
    with pytest.raises(kdtool.UsageError, match=message):
        HubDataset(f"status/{status}", revision="v1").identity()


def test_a_hub_that_fails_or_is_not_there_is_said_to_be_so_at_once(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = time.monotonic()
    _point_to(hub, monkeypatch)
    message = r"the Hub answers 500\); .*\(hf download --repo-type dataset status/500"
    with pytest.raises(kdtool.ServiceError, match=message):
        HubDataset("status/500").identity()
    _point_to("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(kdtool.ServiceError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        list(HubDataset("some/set").records("train"))
    assert time.monotonic() - begin < 20, "nothing is tried again and again"


def test_offline_nothing_is_asked(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _point_to(hub, monkeypatch)
    with pytest.raises(kdtool.ServiceError, match="the run is offline"):
        HubDataset("some/set", revision="0" * 40).identity(offline=True)
    assert HubDataset("some/set", revision="0" * 40).identity() == {"commit": "0" * 40}


def test_a_malformed_name_is_a_mistake_and_a_folder_of_that_name_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(kdtool.UsageError, match="is not a dataset on the Hub"):
        HubDataset("some//set").identity()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "set").mkdir(parents=True)
    with pytest.raises(kdtool.UsageError, match="a folder or file some/set is here, too"):
        list(HubDataset("some/set", revision="0" * 40).records("train"))
