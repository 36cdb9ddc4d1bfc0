"""Lines on progress: how often, and the time left."""

from __future__ import annotations

from kdtool_measuring import Pace


class Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def test_the_time_left_is_that_of_the_speed_since_the_last_line() -> None:
    clock, said = Clock(), list[str]()
    pace = Pace(said.append, clock)
    assert not pace.is_due()
    clock.at += 30
    assert pace.is_due()
    pace.show("90 of 100", 0.9)  # found in a cache at once
    assert not pace.is_due()
    clock.at += 60
    pace.show("91 of 100", 0.91)
    clock.at += 3600
    pace.show("91 of 100", 0.91)
    clock.at += 3600
    pace.show("92 of 100", 0.92)
    clock.at += 30
    pace.show("110 of 100", 1.1)
    assert said == [
        "90 of 100, 0 min left at this speed",
        "91 of 100, 9 min left at this speed",
        "91 of 100",
        "92 of 100, 8 h 00 min left at this speed",
        "110 of 100, 0 min left at this speed",
    ]
