"""Count what would stop a GPU: operations after which the host waits for the device. On a CPU, where they cost nothing.

A GPU runs far behind the program that feeds it. Whenever the program needs a value, or a shape that depends on values, it
waits until the queue is empty. `CountedSyncs` counts such reads by the line that makes them; `excused` names functions whose
work stays in main memory on a machine with a GPU, too.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["CountedSyncs"]

_READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal")
_INDEXING = ("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put")
_COPIES = (Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__array__)
_MACHINERY = ("/site-packages/torch/", "/counted_syncs.py")


class CountedSyncs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts reads in this thread while the block runs: `lines` by "file:line function operation"."""

    def __init__(self, excused: Sequence[str] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lines: Counter[str] = Counter()
        self._excused = frozenset(excused)
        self._copies = _CountedCopies(self.count)

    @property
    def total(self) -> int:
        """Reads so far."""
        return self.lines.total()

    def count(self, operation: str) -> None:
        """Count one read, by the nearest line that is not PyTorch's, unless an excused function makes it."""
        frame: FrameType | None = sys._getframe(1)
        line = ""
        while frame is not None:
            code = frame.f_code
            if code.co_name in self._excused:
                return
            if not line and not any(part in code.co_filename for part in _MACHINERY):
                line = f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name} {operation}"
            frame = frame.f_back
        self.lines[line or f"backward {operation}"] += 1

    def __enter__(self) -> CountedSyncs:
        self._copies.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self._copies.__exit__(*raised)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, overload = func._schema.name.removeprefix("aten::"), func._overloadname
        booleans = name in _INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        repeats = name == "repeat_interleave" and overload == "Tensor" and not (kwargs or {}).get("output_size")
        if name in _READS or booleans or repeats:
            self.count(f"{name} by booleans" if booleans else name)
        return func(*args, **(kwargs or {}))


class _CountedCopies(TorchFunctionMode):
    """Counts copies into lists, arrays and main memory, which are no operations of their own on a CPU."""

    def __init__(self, count: Callable[[str], None]) -> None:
        super().__init__()
        self._count = count

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _COPIES:
            self._count(func.__name__)
        return func(*args, **(kwargs or {}))
