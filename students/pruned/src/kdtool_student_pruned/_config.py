"""Settings of the student `pruned`."""

from __future__ import annotations

import kdtool
import pydantic
from kdtool_transformers.sizes import ParameterCount

_WIDTHS = ("hidden", "heads", "kv_heads", "feed_forward")


class PrunedConfig(kdtool.Config):
    """Settings of the student `pruned`."""

    parameters: ParameterCount | None = None
    """Number of parameters that stay, embeddings included: `350M`, `1.2B`, or a whole number. The shape is found, within
    2 %. Give this, or the sizes to reduce: layers or keep, hidden, heads, kv_heads, feed_forward."""
    layers: int | None = kdtool.Field(default=None, ge=1, le=1000)
    """Number of decoder layers that stay: the most important ones. Absent, and no `keep`: all."""
    keep: tuple[int, ...] | None = None
    """The teacher's layers to keep, counted from 0, in ascending order."""
    hidden: int | None = kdtool.Field(default=None, ge=1, le=65536)
    """Number of channels of the states between layers that stay. Absent: all."""
    heads: int | None = kdtool.Field(default=None, ge=1, le=1024)
    """Number of attention heads that stay in a layer. Alone: with their KV heads. Absent: all of the KV heads that stay."""
    kv_heads: int | None = kdtool.Field(default=None, ge=1, le=1024)
    """Number of heads of keys and values that stay in a layer. Absent: as many as `heads` ask for, else all."""
    feed_forward: int | None = kdtool.Field(default=None, ge=1, le=262144)
    """Number of neurons of a feed-forward layer that stay. Absent: all."""
    source: str = "teacher"
    """The component to cut: a teacher's name in the recipe (`teacher`, or `teachers.NAME`)."""
    calibration_rows: int = kdtool.Field(default=16, ge=1, le=4096)
    """Rows of training text that importance is measured on: layers stay that change their input most (ShortGPT, arXiv
    2403.03853), and widths with the largest activations."""
    calibration_length: int = kdtool.Field(default=512, ge=8, le=8192)
    """Tokens in a calibration row."""
    context: int | None = kdtool.Field(default=None, ge=1)
    """Context of the student in tokens, at most its source's. Absent: that of the source."""
    base: bool = False
    """Also measure the student before its training, as the subject `base`."""

    @pydantic.model_validator(mode="after")
    def _one_way(self) -> PrunedConfig:
        shape = ("layers", "keep", *_WIDTHS)
        given = [key for key in shape if getattr(self, key) is not None]
        if self.parameters is not None and given:
            raise ValueError(f"parameters finds the shape: leave out {', '.join(given)}, or parameters")
        if self.parameters is None and not given:
            raise ValueError(f"give parameters (how many stay), or sizes to reduce: {', '.join(shape)}")
        if self.layers is not None and self.keep is not None:
            raise ValueError("give either layers (how many stay) or keep (which stay)")
        if self.keep is not None and (not self.keep or list(self.keep) != sorted(set(self.keep)) or self.keep[0] < 0):
            raise ValueError("keep must name at least one layer, each once, in ascending order from 0")
        if self.heads is not None and self.kv_heads is not None and self.heads % self.kv_heads:
            below = self.heads // self.kv_heads * self.kv_heads
            fitting = f"heads: {below} or {below + self.kv_heads}" if below else f"heads: {self.kv_heads}"
            raise ValueError(
                f"kv_heads: {self.kv_heads} does not divide heads: {self.heads}, and each is shared by equally many: "
                f"give {fitting}, or other kv_heads"
            )
        return self

    @property
    def count(self) -> int | None:
        """Number of layers that stay, None if the settings do not give it."""
        return self.layers if self.keep is None else len(self.keep)

    @property
    def width_keys(self) -> tuple[str, ...]:
        """The settings given that cut more than layers."""
        return tuple(key for key in ("parameters", *_WIDTHS) if getattr(self, key) is not None)
