"""Settings of the exporter `web`."""

from __future__ import annotations

from typing import Literal

import kdtool


class WebConfig(kdtool.Config):
    """Settings of the exporter `web`."""

    dtypes: tuple[Literal["int8", "q4", "q4f16"], ...] = kdtool.Field(default=("q4", "int8"), min_length=1)
    """Weights to write, the page's default first. `int8`: 8 bits; `q4`: 4 bits, with embedding and output in 8;
    `q4f16`: as `q4`, with activations in float16, which on WebGPU has never been measured."""
    context: int = kdtool.Field(default=2048, ge=64, le=131_072)
    """Tokens that the page reads at most, unless the student reads fewer."""
    runtime: str = "npm"
    """Source of the browser's runtime. `npm`: fetched by `npm pack`, with pinned versions and hashes, and kept in the
    user's cache. Otherwise a folder with its files."""
    browser: str = "auto"
    """Chromium that measures the page. `auto`: the installed one; without one, ONNX Runtime measures in Python, which
    the model card notes. `none`: as without one. Otherwise the path of a Chromium."""
