"""Stages of a run or a forecast in words, for people; records and folders have their short names."""

from __future__ import annotations

import re

_ARM = r"(?P<arm>student|control|control-time)-seed(?P<seed>\d+)"
_FORMS = (
    (r"text(?:/(?P<phase>.+))?", "text"),
    (r"students(?:/seed(?P<seed>\d+))?", "untrained student"),
    (r"rows(?:/(?P<label>.+))?", "tokenised rows"),
    (r"signals/(?P<of>.+)", "signals"),
    (rf"phases/{_ARM}-(?:train|(?P<phase>.+))", "training"),
    (r"phases/(?P<arm>student|control|control-time)/(?:train|(?P<phase>.+))", "training"),  # as in forecasts
    (r"phases/(?:train|(?P<phase>.+))", "training of student"),
    (r"teachers/(?P<label>.+)", "training of a teacher"),
    (r"exports(?:/(?P<format>.+))?", "export"),
    (rf"scores/(?P<what>.+?)-{_ARM}(?:-(?P<label>.+))?", "measuring"),
    (r"scores/(?P<what>.+?)-(?P<of>base|teachers?(?:\.[\w-]+)??)(?P<unadapted>\.unadapted)?", "measuring"),
    (r"scores(?:/(?P<what>.+))?", "measuring"),
)
_PARTS = {
    "what": " {}",
    "arm": " of {}",
    "of": " of {}",
    "unadapted": " before its training",
    "format": " as {}",
    "seed": ", seed {}",
    "phase": ", phase {}",
    "label": " ({})",
}


def stage_in_words(name: str) -> str:
    """Return "training of student, seed 0" for the stage `phases/student-seed0-train`; other text as it is.

    The stages of a forecast, such as `phases/train`, are those of all seeds: "training of student".
    """
    for pattern, words in _FORMS:
        if found := re.fullmatch(pattern, name):
            given = found.groupdict()
            parts = (form.format(given[part]) for part, form in _PARTS.items() if given.get(part))
            return (words + "".join(parts)).replace("control-time", "control at equal time")
    return name
