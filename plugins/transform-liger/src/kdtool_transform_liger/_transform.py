"""The transform `liger`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import kdtool

__all__ = ["Liger"]


class Liger(kdtool.Transform):
    """Computes norms, rotary positions and SwiGLU with liger-kernel's Triton kernels (arXiv 2410.10989)."""

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> list[str]:
        from kdtool_torch import pick_device

        problems = []
        if find_spec("liger_kernel") is None:
            problems.append("liger-kernel is not installed: pip install liger-kernel, or leave `liger` out")
        if pick_device().type != "cuda":
            problems.append(
                "liger's kernels run on GPUs that Triton compiles for, and torch sees none here: run on a machine with one, "
                "or leave `liger` out"
            )
        elif find_spec("triton") is None:
            problems.append(
                "Triton, which compiles liger's kernels, is not installed: pip install triton, or leave `liger` out"
            )
        return problems

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Iterator[kdtool.LanguageModel]:
        from kdtool_transform_liger._kernels import FusedModules

        modules = FusedModules(student.model)
        yield student
        modules.restore()
