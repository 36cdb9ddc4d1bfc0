"""The transform `qat`: a phase learns with weights rounded to a grid of few bits, and leaves weights that lie on it.

`_grid` puts torchao's fake-quantised layers into the model and takes them out again. The saved model is a plain one.
"""

from __future__ import annotations

from kdtool_transform_qat._transform import Qat

__all__ = ["Qat"]
