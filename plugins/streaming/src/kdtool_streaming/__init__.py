"""Answers that are yielded while they are generated: by continuous batching, or by speculative decoding.

- `StreamedModels` are the models of a run, opened for streaming, and on demand with a draft
- `StreamingRuntime` generates several answers together; `_streamer` is its loop, `_row_cache` the keys and values
- `SpeculativeRuntime` verifies the tokens that a draft proposes: `_reading` is one model, `_rule` decides which tokens stay
- `end_naturally` ends an answer when its text repeats itself, or the function that it continues ends
"""

from __future__ import annotations

from kdtool_streaming._models import StreamedModels
from kdtool_streaming._natural_end import end_naturally
from kdtool_streaming._runtime import StreamingRuntime
from kdtool_streaming._speculative import Speculation, SpeculativeRuntime

__all__ = ["Speculation", "SpeculativeRuntime", "StreamedModels", "StreamingRuntime", "end_naturally"]
