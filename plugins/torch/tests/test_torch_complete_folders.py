"""Folders of the user's cache: complete or absent, and damage that is found."""

from __future__ import annotations

from pathlib import Path

import kdtool
import pytest
from kdtool_torch import complete_folder, is_complete


def test_a_folder_is_complete_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "made"

    def fail_half_way() -> None:
        with complete_folder(target) as partial:
            assert partial is not None
            (partial / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert not target.exists()
    with complete_folder(target) as partial:
        assert partial is not None
        assert not list(partial.iterdir())
        (partial / "whole").touch()
    with complete_folder(target) as again:
        assert again is None
    assert sorted(file.name for file in target.iterdir()) == ["SHA256SUMS", "whole"]


def test_a_changed_byte_in_a_converted_model_is_found_and_named(tmp_path: Path) -> None:
    target = tmp_path / "made"
    assert not is_complete(target)
    with complete_folder(target) as partial:
        assert partial is not None
        (partial / "deep").mkdir()
        (partial / "deep" / "model.safetensors").write_bytes(b"weights")
        (partial / "config.json").write_bytes(b"{}")
    for name in ("deep/model.safetensors", "config.json", "SHA256SUMS"):
        whole = (target / name).read_bytes()
        for content in (bytes([whole[0] ^ 1]) + whole[1:], whole[:-1] + bytes([whole[-1] ^ 64])):
            (target / name).write_bytes(content)
            with pytest.raises(kdtool.StorageError, match=r"made\b.* is missing or damaged.*Delete the folder"):
                is_complete(target)
        (target / name).write_bytes(whole)
    (target / "config.json").unlink()
    with pytest.raises(kdtool.StorageError, match=r"config\.json is missing or damaged"):
        is_complete(target)
