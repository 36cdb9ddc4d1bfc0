"""Teacher plugin `smollm2`: SmolLM2-135M-Instruct, small enough to teach on a laptop.

`SmolLM2` is the teacher; `_fetch` finds or fetches its weights; `python -m kdtool_teacher_smollm2` fetches them ahead.
"""

from __future__ import annotations

from kdtool_teacher_smollm2._teacher import SmolLM2

__all__ = ["SmolLM2"]
