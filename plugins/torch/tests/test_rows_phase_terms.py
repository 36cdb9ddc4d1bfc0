"""The terms of a phase on rows: values, weights and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import kdtool
import pytest
import torch
from kdtool_testing import ListSource, make_run
from kdtool_testing.phase import companions, make_phase
from kdtool_testing.toy.runtime import toy_model
from kdtool_torch import PhaseTerms


def terms_of(folder: Path, **changes: object) -> PhaseTerms:
    phase = replace(make_phase(folder, 8), **changes)  # type: ignore[arg-type]
    return PhaseTerms(make_run(folder / "run", companions(), say=lambda _: None), phase, toy_model(1))


def test_a_row_without_labels_has_no_terms_and_no_nan(tmp_path: Path) -> None:
    phase = make_phase(tmp_path, 8)
    none = [replace(phase.rows[0], labelled=[False] * phase.rows.length)]
    terms = terms_of(tmp_path, rows=ListSource(none))
    loss, tokens = terms.loss([0], 1)
    assert (loss.item(), tokens, terms.reports) == (0.0, 0, {})
    assert not torch.isnan(loss)


def test_a_phase_without_rows_is_refused(tmp_path: Path) -> None:
    rows = ListSource([make_phase(tmp_path, 8).rows[0]])
    rows.rows = []
    with pytest.raises(kdtool.UsageError, match="has no rows"):
        terms_of(tmp_path, rows=rows)
