"""Open a subject by the component that it belongs to."""

from __future__ import annotations

from dataclasses import replace

from kdtool._contract.evaluation import Subject
from kdtool._contract.language_model import Runtime
from kdtool._contract.run_info import Named, RunInfo
from kdtool._contract.teacher import Teacher
from kdtool._run.divided import divide

UNADAPTED = ".unadapted"
"""Suffix of a teacher's name: the subject is the teacher as it was before phases of the run trained it."""


def open_subject(run: RunInfo, subject: Subject) -> Named[Runtime] | None:
    """Open a subject and return (name, value): the component that opened it, and the runtime; None if none can.

    A teacher or reference is opened by its own component, which it is named after, perhaps with the suffix `UNADAPTED`. All
    other subjects are opened by the first component that can. For a model in memory the name is "". The caller closes the
    runtime. While several processes measure (`run.world`), all of them answer its requests and score its texts.
    """
    if (runtime := subject.open_runtime()) is not None:
        return Named("", runtime)
    opened = open_here(run, subject)
    if opened is None or run.world == 1 or run.stage != "scores":
        return opened
    return Named(opened.name, divide(opened.value, subject, run.folder, run.world))


def open_here(run: RunInfo, subject: Subject) -> Named[Runtime] | None:
    """Open a subject for this process only."""
    owner = run.hook.owner
    name = subject.name if owner(subject.name) else subject.name.removesuffix(UNADAPTED)
    if subject.role in ("teacher", "reference") and owner(name):
        runtime = run.component(name, Teacher).kdtool_open(run, replace(subject, role="teacher"))
        return None if runtime is None else Named(name, runtime)
    opened: Named[Runtime] | None = run.hook.kdtool_open(run, subject)
    return opened
