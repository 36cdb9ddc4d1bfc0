"""The model's own states, computed by transformers in a separate process, which ends and frees the layers' memory.

Results are kept in the user's cache, so a model is opened once per set of rows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import kdtool
import psutil
from kdtool_torch import cache_folder, complete_folder
from kdtool_transformers import Source, open_model
from safetensors.torch import load_file, save_file

from kdtool_teacher_vllm._gate import Reference

_FILE = "reference.safetensors"


def fits_into_memory(parameters: int, itemsize: int) -> bool:
    """Return whether a model of that size can be opened while this process runs."""
    return bool(1.5 * parameters * itemsize < psutil.virtual_memory().available)


def reference_states(
    source: Source, identity: str, dtype: str, rows: Sequence[Sequence[int]], layers: Sequence[int]
) -> Reference:
    """Return the model's states of rows.

    Args:
        source: its folder, or its Hub name if all its files are on this machine.
        identity: names the content of its weights.
        dtype: the precision to compute in.
        rows: of token ids.
        layers: the layers whose outputs are kept, too.

    Raises:
        UsageError: the weights cannot be read.
    """
    asked: dict[str, Any] = {
        "place": str(source.place),
        "revision": source.revision,
        "dtype": dtype,
        "rows": [*map(list, rows)],
        "layers": sorted(layers),
    }
    content = json.dumps([identity, dtype, asked["rows"], asked["layers"]])
    target = cache_folder().parent / "references" / sha256(content.encode()).hexdigest()[:32]
    with complete_folder(target) as partial:
        if partial is not None:
            _compute({**asked, "file": str(partial / _FILE)})
    tensors = load_file(target / _FILE)
    numbers = range(len(rows))
    return Reference(
        final=[tensors[f"final.{row}"] for row in numbers],
        outputs={layer: [tensors[f"layer.{layer}.{row}"] for row in numbers] for layer in asked["layers"]},
    )


def _compute(asked: dict[str, Any]) -> None:
    command = [sys.executable, "-P", "-m", "kdtool_teacher_vllm._reference"]
    done = subprocess.run(  # noqa: S603 - this module
        command, input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise kdtool.UsageError(
            f"model: the weights of {asked['place']} cannot be opened for comparison ({lines[-1]}); set `reference: server`"
        )


def main() -> None:
    """Read a request from standard input, and write the file that it names."""
    import torch

    asked = json.load(sys.stdin)
    model = open_model(
        Path(asked["place"]) if Path(asked["place"]).is_dir() else asked["place"],
        dtype=getattr(torch, asked["dtype"]),
        revision=asked["revision"],
        offline=True,
    )
    want = kdtool.SignalRequest(frozenset({"hidden"}), layers=tuple(asked["layers"]))
    tensors = {}
    for number, row in enumerate(asked["rows"]):
        ids = torch.tensor([row])
        zeros = torch.zeros_like(ids)
        batch = kdtool.Batch(ids, torch.arange(len(row))[None], zeros, zeros.int(), (str(number),))
        with torch.no_grad():
            outputs = model.backbone(batch, want)
        tensors[f"final.{number}"] = outputs.last.contiguous()
        tensors |= {f"layer.{layer}.{number}": states.contiguous() for layer, states in outputs.hidden.items()}
    save_file(tensors, asked["file"])


if __name__ == "__main__":
    main()
