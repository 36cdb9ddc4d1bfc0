"""Teachers whose answers cost money."""

from __future__ import annotations

from pathlib import Path

import kdtool
from kdtool_measuring import Priced, priced_teacher
from kdtool_testing import make_run


class Free(kdtool.Teacher):
    """Costs nothing."""


class Paid(kdtool.Teacher, Priced):
    """Costs something."""


def test_only_teachers_with_a_price_are_found(tmp_path: Path) -> None:
    paid = Paid(Paid.Config())
    run = make_run(tmp_path, {"free": Free(Free.Config()), "paid": paid})
    found = priced_teacher(run, "paid")
    assert found is not None
    assert found.estimate_answers == paid.estimate_answers
    assert priced_teacher(run, "free") is None
    assert priced_teacher(run, "missing") is None
