"""The transform `liger`: fused kernels of liger-kernel in a student while a phase trains on a GPU.

`_kernels` puts them into the modules of one model and takes them out again. Liger's fused loss is not used: the trainers'
chunked head is that.
"""

from __future__ import annotations

from kdtool_transform_liger._transform import Liger

__all__ = ["Liger"]
