"""Opening folders in the compressed-tensors format as models that compute with the stored weights."""

from __future__ import annotations

import json
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from kdtool_transformers import TransformersModel

__all__ = ["is_compressed", "open_compressed"]


def is_compressed(folder: Path | None) -> bool:
    """Return whether a folder contains a model in the compressed-tensors format."""
    config = None if folder is None else folder / "config.json"
    if config is None or not config.is_file():
        return False
    settings = json.loads(config.read_text(encoding="utf-8")).get("quantization_config") or {}
    return bool(settings.get("quant_method") == "compressed-tensors")


def open_compressed(
    folder: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> TransformersModel:
    """Open a folder with its weights decompressed to `dtype` (None: as stored); in w8a8 it rounds inputs of layers, too.

    transformers would decompress in the model's first `forward`, which kdtool's backbone does not call.
    """
    from compressed_tensors.compressors.base import decompress_module
    from kdtool_transformers import open_model

    with redirect_stderr(StringIO()):  # the library's progress bars, which no setting turns off
        model = open_model(folder, dtype=dtype, device=device, offline=True)
    causal = model.model
    for module in causal.modules():
        if hasattr(module, "quantization_scheme"):
            decompress_module(module)
            for name in ("weight_scale", "weight_shape"):  # neither computes from here on, nor counts as parameters
                module._parameters.pop(name, None)
    causal.hf_quantizer.compressor.remove_decompression_hook(causal)
    return model
