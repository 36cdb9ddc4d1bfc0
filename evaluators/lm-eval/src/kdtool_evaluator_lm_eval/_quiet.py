"""Keep the harness's progress bars, warnings and network off while a block runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any

__all__ = ["offline", "quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Hide what the block writes to stderr; errors are raised as usual."""
    with redirect_stderr(StringIO()):
        yield


@contextmanager
def offline(*, wanted: bool) -> Iterator[None]:
    """Have the Hub's libraries use only their caches during the block, if `wanted`."""
    import datasets.config
    import huggingface_hub.constants

    modules: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = module.HF_HUB_OFFLINE or wanted
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value
