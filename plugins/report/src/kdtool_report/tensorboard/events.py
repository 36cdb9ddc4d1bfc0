"""Event files of TensorBoard, and their contents: scalars, measurements, texts and hyperparameters.

A file is a sequence of records: a size, its checksum, an `Event`, and its checksum. The name of a file holds the time
in seconds, so that readers open later files later; not, as usual, the machine's name.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from struct import pack, unpack_from

import kdtool
from kdtool_essentials.curves import samples_text
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c


class EventFile:
    """An event file that grows by steps. It continues the file of the same name that a killed process left."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._path: Path | None = None
        self._start = self._last = 0.0

    def add(self, step: int, seconds: float, values: Summary) -> None:
        """Write the values of a step, `seconds` after the curve began, in place of this step and all later ones.

        The event is in the file when this returns: a killed process loses none.
        """
        seconds = seconds if math.isfinite(seconds) else 0.0
        if self._path is None or step <= self._last:
            self._path = self._rewind(step, seconds)
        event = Event(wall_time=self._start + seconds, step=step, summary=values)
        with self._path.open("ab") as file:
            file.write(_record(event.SerializeToString()))
        self._last = step

    def _rewind(self, step: int, seconds: float) -> Path:
        """Return the path of the file with its events before `step`; without such events, the curve begins now."""
        old = _files(self._folder, self._name)
        events = list(_read(old[-1])) if old else []
        kept = [event for event in events[1:] if event.step < step]
        self._start = events[0].wall_time if kept else time.time() - seconds
        return _write(self._folder, self._name, kept, self._start)


def write_summaries(folder: Path, name: str, summaries: Iterable[Summary]) -> None:
    """Write summaries without a step as an event file, in place of those of the same name."""
    now = time.time()
    _write(folder, name, (Event(wall_time=now, summary=summary) for summary in summaries), now)


def _write(folder: Path, name: str, events: Iterable[Event], start: float) -> Path:
    """Write a whole event file in place of those of the same name, and return its path. The first event is at `start`.

    It gets a new path, since a reader that follows a file does not notice that it was replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    old = _files(folder, name)
    number = max([int(time.time()), *(_number(path) + 1 for path in old)])
    unread, path = folder / f"{name}.partial", folder / f"events.out.tfevents.{number:010}.{name}"
    whole = (Event(wall_time=start, file_version="brain.Event:2"), *events)
    kdtool.write_beside(unread, b"".join(_record(event.SerializeToString()) for event in whole))
    unread.replace(path)
    for other in old:
        other.unlink()
    return path


def _files(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"events.out.tfevents.{'[0-9]' * 10}.{name}"))


def _number(path: Path) -> int:
    return int(path.name.split(".")[3])


def _record(body: bytes) -> bytes:
    size = pack("<Q", len(body))
    return size + pack("<I", masked_crc32c(size)) + body + pack("<I", masked_crc32c(body))


def _read(path: Path) -> Iterator[Event]:
    """Yield the events of a file, the version first, up to what a killed process left of one."""
    with kdtool.open_regular(path, None) as file:
        data, at = file.read(), 0
    while at + 16 <= len(data):
        end = at + 16 + unpack_from("<Q", data, at)[0]
        body = data[at + 12 : end - 4]
        if data[at:end] != _record(body):
            return
        yield Event.FromString(body)
        at = end


def scalars(values: Mapping[str, float]) -> Summary:
    """Return the values, by tag; in single precision, as TensorBoard keeps them."""
    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])


def results(
    measurements: Sequence[kdtool.Measurement], settings: Mapping[str, bool | int | float | str]
) -> Iterator[Summary]:
    """Yield the measurements with their intervals, their texts, and the settings as hyperparameters."""
    values = {f"measurements/{measurement.name}": measurement.value for measurement in measurements}
    yield from summary.hparams(settings, values)
    yield scalars(values)
    for end in ("low", "high"):
        bounds = {f"measurements/{measurement.name}/{end}": getattr(measurement, end) for measurement in measurements}
        yield scalars({tag: value for tag, value in bounds.items() if value is not None})
    for measurement in measurements:
        if text := samples_text(measurement):
            yield summary.text(measurement.name, text)
