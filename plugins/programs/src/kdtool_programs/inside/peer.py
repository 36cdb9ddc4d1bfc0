"""A conversation between two processes about objects that stay where they are.

Either side asks the other to do something with one of its objects: call it, iterate over it, read an attribute. Plain
values are copied; other objects are known to the other side by a number, as a `Remote`. Changes of arguments are copied
back after a call. A `Remote` equals only itself and has no arithmetic, so that the asking side makes every comparison,
with its own values.
"""

from __future__ import annotations

import marshal
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from kdtool_programs.inside.messages import (
    Raised,
    decode_json,
    encode_json,
    exception_of,
    read_frame,
    serialise_exception,
    write_frame,
)
from kdtool_programs.inside.values import from_plain, to_plain

_LARGEST = 2**20
"""Items, and characters of texts among them, of a sequence that is copied as a whole."""
_PIECE = 2**18
_BY_VALUE = 2
"""The version of marshal's format whose bytes depend only on values, not on which references are shared."""
_SEQUENCES: dict[str, type] = {"list": list, "tuple": tuple}
_HASHED = frozenset({str, bytes, int, float, bool, type(None)})


class Gone(BaseException):
    """The other side ended. Programs do not raise it, and `except Exception` does not catch it."""


class TimedOut(BaseException):
    """The tests' time is over."""


class Remote:
    """An object of the other side."""

    __slots__ = ("_number", "_peer")
    _number: int
    _peer: Peer

    def __init__(self, peer: Peer, number: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._peer.ask("call", self, *arguments, **named)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._peer.ask("iterate", self)
        while step := self._peer.ask("advance", iterator):
            yield step[0]

    def __next__(self) -> Any:
        if step := self._peer.ask("advance", self):
            return step[0]
        raise StopIteration

    def __len__(self) -> int:
        return int(self._peer.ask("length", self))

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key: Any) -> Any:
        return self._peer.ask("item", self, key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._peer.ask("attribute", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.ask("set", self, name, value)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._peer.ask("set item", self, key, value)

    def __str__(self) -> str:
        return str(self._peer.ask("text", self))

    def __repr__(self) -> str:
        return str(self._peer.ask("shown", self))


class Pieces(Remote):
    """A list or tuple of the other side that is too large to be copied as a whole. It can be compared, by pieces.

    The other side commits itself to each piece before it can know what it is compared with, by a hash of it or by the piece
    itself. After "unequal", there is no second try.
    """

    __slots__ = ("_hashes", "_key", "_kind", "_length", "_size", "_values")
    _hashes: dict[int, str]
    _values: dict[int, Any]
    _key: bytes
    _kind: type
    _length: int
    _size: int

    def __init__(self, peer: Peer, number: int, kind: str, length: int, size: int) -> None:
        super().__init__(peer, number)
        if type(length) is not int or type(size) is not int or size <= _LARGEST or length < 1:
            raise ValueError("no large sequence")
        state = {"_hashes": {}, "_values": {}, "_key": os.urandom(16), "_kind": _SEQUENCES[kind]}
        for name, value in {**state, "_length": length, "_size": size}.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return self._length

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (list, tuple)) or type(other) is not self._kind or len(other) != self._length:
            return self is other
        step = max(1, self._length * _PIECE // self._size)
        return all(self._equals(other[at : at + step], at) for at in range(0, self._length, step))

    def _equals(self, piece: Any, start: int) -> bool:
        stop = start + len(piece)
        if start not in self._hashes:
            told = self._peer.ask("digest", self, start, stop, self._key)
            self._hashes[start] = told if type(told) is str else ""
            if not self._hashes[start]:
                self._values[start] = self._piece(start, stop)
        if start in self._values:
            return bool(self._values[start] == piece)
        if self._hashes[start] == digest(piece, 0, len(piece), self._key):
            return True
        received = self._piece(start, stop)  # 1 and 1.0 are equal, and have different hashes
        if digest(received, 0, len(received), self._key) != self._hashes[start]:
            raise Raised("a list changed while it was compared")
        return bool(received == piece)

    def _piece(self, start: int, stop: int) -> Any:
        received: Any = self._peer.ask("item", self, slice(start, stop))
        if isinstance(received, (list, tuple)) and type(received) is self._kind and len(received) == stop - start:
            return received
        raise Raised("a list changed while it was compared")

    __hash__ = None  # type: ignore[assignment] # a list has none, and a tuple of this size needs none


class Peer:
    """One end. `actions` are what the other side may ask for, by name; each takes an object of this side first.

    If it `keeps_large`, large sequences that a call returns stay here, to be compared by pieces. `gone` is true after
    the other side has ended.
    """

    def __init__(
        self, reading: int, writing: int, actions: dict[str, Callable[..., Any]], *, keeps_large: bool = False
    ) -> None:
        self.gone = False
        self._keeps_large = keeps_large
        self._reading = reading
        self._writing = writing
        self._actions = actions
        self._shown: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._remotes: dict[int, Remote] = {}

    def ask(self, action: str, *arguments: Any, **named: Any) -> Any:
        """Ask the other side for an action and return its value, or raise its exception."""
        self._send(["ask", action, *(self._plain(part) for part in (arguments, named))])
        while True:
            what, *content = self._receive()
            if what == "ask":
                self._answer(*content)
                continue
            value, changed = content
            if changed is not None:
                _take_over([list(arguments[1:]), named], self._value(changed))
            if what == "raised":
                raise exception_of(*value)
            return self._value(value)

    def serve(self) -> None:
        """Answer until the other side ends."""
        while True:
            try:
                what, *content = self._receive()
            except Gone:
                return
            if what == "ask":
                self._answer(*content)

    def _answer(self, action: str, plain_arguments: Any, plain_named: Any) -> None:
        arguments: list[Any] = []
        named: dict[str, Any] = {}
        before = b""
        try:
            arguments, named = list(self._value(plain_arguments)), self._value(plain_named)
            before = self._dump(arguments[1:], named)
            value = self._actions[action](*arguments, **named)
            kept = self._keeps_large and action == "call" and _size(value) > _LARGEST
            message = ["value", self._large(value) if kept else self._plain(value)]
        except (Gone, TimedOut):
            raise
        except BaseException as error:
            message = ["raised", serialise_exception(error)]
        after = self._dump(arguments[1:], named)
        changed = decode_json(after) if after and after != before else None
        self._send([*message, changed])

    def _dump(self, arguments: list[Any], named: dict[str, Any]) -> bytes:
        if all(type(argument) in {int, str, float, bool, Remote} for argument in (*arguments, *named.values())):
            return b""
        try:
            return encode_json(self._plain([arguments, named]))
        except Exception:
            return b""

    def _plain(self, value: Any) -> Any:
        return to_plain(value, self._number)

    def _large(self, value: Any) -> Any:
        return {"pieces": [self._number(value)["mine"], type(value).__name__, len(value), _size(value)]}

    def _value(self, plain: Any) -> Any:
        return from_plain(plain, self._resolve)

    def _number(self, value: Any) -> Any:
        if isinstance(value, Remote):
            return {"yours": value._number}
        number = self._numbers.setdefault(id(value), len(self._shown))
        if number == len(self._shown):
            self._shown.append(value)
        return {"mine": number}

    def _resolve(self, tag: str, number: Any) -> Any:
        if tag == "yours" and type(number) is int and 0 <= number < len(self._shown):
            return self._shown[number]
        if tag == "mine" and type(number) is int:
            return self._remotes.setdefault(number, Remote(self, number))
        if tag == "pieces" and type(number) is list:
            return Pieces(self, *number)
        raise ValueError(f"an unknown value: {tag!r}")

    def _send(self, message: Any) -> None:
        try:
            write_frame(self._writing, encode_json(message))
        except OSError as error:
            self.gone = True
            raise Gone from error

    def _receive(self) -> Any:
        try:
            frame = read_frame(self._reading)
        except OSError:
            frame = None
        if frame is None:
            self.gone = True
            raise Gone
        return decode_json(frame)


def _size(value: Any) -> int:
    """Return the number of a sequence's items plus those of its items; 0 for other values."""
    if type(value) is not list and type(value) is not tuple:
        return 0
    return len(value) + sum(len(item) for item in value if type(item) in _SIZED)


_SIZED = frozenset({list, tuple, set, str, bytes, dict})


def digest(sequence: Any, start: int, stop: int, key: bytes) -> str:
    """Return a keyed hash of a piece of a sequence; "" if it is not made of scalars and of lists and tuples of scalars.

    Pieces with the same hash are equal; equal ones may have different hashes: 1 and 1.0, for example.
    """
    from hashlib import blake2b  # few need it, and every candidate would pay for it

    piece = sequence[start:stop]
    parts = [part for part in piece if type(part) is list or type(part) is tuple]
    for group in (*parts, [part for part in piece if type(part) is not list and type(part) is not tuple]):
        kinds = set(map(type, group))
        if not kinds <= _HASHED or (float in kinds and any(number != number for number in group)):  # noqa: PLR0124 (not a number)
            return ""
    return blake2b(marshal.dumps(piece, _BY_VALUE), key=key).hexdigest()


def _take_over(old: Any, new: Any) -> None:
    """Make `old` and its content equal to `new` in place."""
    if type(old) is not type(new):
        return
    if isinstance(old, list):
        same = len(old) == len(new)
        old[:] = [_merge(old_item, new_item) for old_item, new_item in zip(old, new, strict=True)] if same else new
    elif isinstance(old, dict):
        merged = {key: _merge(old[key], value) if key in old else value for key, value in new.items()}
        old.clear()
        old.update(merged)
    elif isinstance(old, (set, bytearray, deque)):
        old.clear()
        old.update(new) if isinstance(old, set) else old.extend(new)
    elif isinstance(old, tuple) and len(old) == len(new):
        for old_item, new_item in zip(old, new, strict=True):
            _take_over(old_item, new_item)


def _merge(old: Any, new: Any) -> Any:
    if type(old) is type(new) and isinstance(old, (list, dict, set, bytearray, deque, tuple)):
        _take_over(old, new)
        return old
    return new
