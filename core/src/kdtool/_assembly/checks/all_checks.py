"""All checks of whether the components of a recipe fit together."""

from __future__ import annotations

from collections.abc import Iterator

from kdtool._assembly.built import BuiltRecipe
from kdtool._assembly.checks.corpus_shares import check_shares
from kdtool._assembly.checks.dependencies import check_dependencies
from kdtool._assembly.checks.loss_weights import check_weights
from kdtool._assembly.checks.on_policy import check_on_policy
from kdtool._assembly.checks.optimizers import check_optimizers
from kdtool._assembly.checks.requirements import check_requirements
from kdtool._assembly.checks.teacher_signals import check_signals
from kdtool._assembly.checks.teacher_training import check_teacher_training
from kdtool._assembly.checks.token_columns import check_columns
from kdtool._assembly.checks.validation import check_validation
from kdtool._assembly.checks.weightings import check_weightings
from kdtool._errors import Problem

_CHECKS = (
    check_teacher_training,
    check_signals,
    check_on_policy,
    check_optimizers,
    check_dependencies,
    check_shares,
    check_columns,
    check_weightings,
    check_weights,
    check_requirements,
    check_validation,
)


def check_components(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield the problems that every check finds."""
    for check in _CHECKS:
        yield from check(parts)
