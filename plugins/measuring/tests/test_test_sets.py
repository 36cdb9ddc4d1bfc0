"""Test sets are read, or refused with a reason; some of their items are chosen alike everywhere."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, NamedTuple, get_args

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_measuring import Kind, check_fields, choose, read_and_hash, records_of


class Named(NamedTuple):
    id: str


@given(st.lists(st.integers(), unique=True, max_size=30), st.integers(1, 40))
def test_the_choice_of_items_keeps_their_order_and_depends_on_ids_alone(numbers: list[int], most: int) -> None:
    items = [Named(str(number)) for number in numbers]
    found = choose(items, most)
    assert len(found) == min(most, len(items))
    assert [item for item in items if item in found] == list(found)
    assert {item.id for item in choose(items[::-1], most)} == {item.id for item in found}
    assert choose(items, None) == items


def test_files_are_read_packed_or_not(tmp_path: Path) -> None:
    content = '{"a": "x\u2028y"}\r\n\n{"a": 2, "b": 3}\n'.encode()
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(content))
    assert read_and_hash(plain, "key") == read_and_hash(packed, "key")
    found = list(records_of(packed, "key", {"a": "text or number"}, "a file"))
    assert found == [(f"key: {packed}, line 1", {"a": "x\u2028y"}), (f"key: {packed}, line 3", {"a": 2, "b": 3})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "key: .* contains no records; expected a file"),
        (b"{}\n", "line 1: not a record with a; expected a file"),
        (b'{"a": "1"}\n\n{', "line 3: not JSON"),
        (b'{"a": "1"}\n{"a": 1}', "line 2: a is 1, not a text; expected a file"),
        (b'{"a": null}', "line 1: a is null, not a text"),
        (b'{"a": {"b": "c"}}', r'line 1: a is \{"b": "c"\}, not a text'),
        (b"[" * 100_000, "line 1: not JSON"),
        (b"\x1f\x8b\x08", "key: .* cannot be read"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(kdtool.UsageError, match=message):
        list(records_of(file, "key", {"a": "text"}, "a file"))


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists),
    st.sampled_from(get_args(Kind)),
)
def test_a_field_is_what_it_is_to_be_or_refused_by_its_name(value: Any, kind: Kind) -> None:
    texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
    right = {"text": type(value) is str, "texts": texts, "text or number": type(value) in (str, int)}[kind]
    if right:
        check_fields({"field": value}, {"field": kind}, "key: file, line 1", "a file")
        return
    with pytest.raises(kdtool.UsageError, match=r"key: file, line 1: field is .*, not a .*; expected a file"):
        check_fields({"field": value}, {"field": kind}, "key: file, line 1", "a file")
