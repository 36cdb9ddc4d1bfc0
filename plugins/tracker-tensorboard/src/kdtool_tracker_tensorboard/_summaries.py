"""Contents of event files: scalars, measurements, texts and hyperparameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import kdtool
from kdtool_curves import samples_text
from tensorboardX import summary
from tensorboardX.proto.summary_pb2 import Summary

__all__ = ["results", "scalars"]


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
    yield scalars(
        {
            f"measurements/{measurement.name}/low": measurement.low
            for measurement in measurements
            if measurement.low is not None
        }
    )
    yield scalars(
        {
            f"measurements/{measurement.name}/high": measurement.high
            for measurement in measurements
            if measurement.high is not None
        }
    )
    for measurement in measurements:
        if text := samples_text(measurement):
            yield summary.text(measurement.name, text)
