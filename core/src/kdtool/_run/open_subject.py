"""Open a subject by the component that it belongs to."""

from __future__ import annotations

from dataclasses import replace

from kdtool._contract.evaluation import Subject
from kdtool._contract.language_model import Runtime
from kdtool._contract.run_info import Named, RunInfo
from kdtool._contract.teacher import Teacher

UNADAPTED = ".unadapted"
"""Suffix of a teacher's name: the subject is the teacher as it was before phases of the run trained it."""


def open_subject(run: RunInfo, subject: Subject) -> Named[Runtime] | None:
    """Open a subject and return (name, value): the component that opened it, and the runtime; None if none can.

    A teacher or reference is opened by its own component, which it is named after, perhaps with the suffix `UNADAPTED`. All
    other subjects are opened by the first component that can. For a model in memory the name is "". The caller closes the
    runtime.
    """
    if (runtime := subject.open_runtime()) is not None:
        return Named("", runtime)
    owner = run.hook.owner
    name = subject.name if owner(subject.name) else subject.name.removesuffix(UNADAPTED)
    if subject.role in ("teacher", "reference") and owner(name):
        runtime = run.component(name, Teacher).kdtool_open(run, replace(subject, role="teacher"))
        return None if runtime is None else Named(name, runtime)
    opened: Named[Runtime] | None = run.hook.kdtool_open(run, subject)
    return opened
