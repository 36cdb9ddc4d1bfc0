"""On which devices a model's weights come to lie when it is loaded: one, or as accelerate spreads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdtool_transformers._quantised import Quantisation, loading

if TYPE_CHECKING:
    import torch

__all__ = ["bring_head", "place", "placement"]


def placement(
    config: Any,
    dtype: torch.dtype | None,
    device: torch.device | str,
    quantise: Quantisation | None,
    device_map: str | None,
) -> dict[str, Any]:
    """Return what `from_pretrained` needs to put weights where they belong. Raises as `require_bitsandbytes`."""
    if quantise is None:
        return {} if device_map is None else {"device_map": device_map}
    import torch

    # Quantised weights are made where they will lie: they cannot be moved in every form.
    place = {"": torch.device(device)} if device_map is None else device_map
    return {"device_map": place, **loading(quantise, dtype or config.dtype or torch.float32)}


def place(model: Any, device: torch.device | str, quantise: Quantisation | None, device_map: str | None) -> Any:
    """Move a loaded model to `device`: only the head if it is spread; quantised weights are there already."""
    if device_map is not None:
        bring_head(model, device)
        return model
    return model if quantise is not None else model.to(device)


def bring_head(model: Any, device: torch.device | str) -> None:
    """Put the head of a model that accelerate spread onto `device`, for good: kdtool computes with its weight itself."""
    from accelerate.hooks import remove_hook_from_module

    head = model.get_output_embeddings()
    remove_hook_from_module(head)
    head.to(device)
