"""A connector for `vllm serve`: writes hidden states for kdtool, on GPUs and on CPUs, and describes the server.

vLLM imports this file by PYTHONPATH, in an environment without kdtool; so it imports only the standard library, torch and
vLLM. `kdtool teacher serve` prints the command that uses it.
"""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

DESCRIPTION = "server.json"
_CONNECTOR = "vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector"
example: Any = import_module(_CONNECTOR)  # kdtool does not depend on vLLM


class KdtoolStates(example.ExampleHiddenStatesConnector):  # type: ignore[misc]
    """vLLM's example connector with writing on CPUs, a limit of disk, and a file that describes the server."""

    def __init__(self, vllm_config: Any, *args: Any, **keywords: Any) -> None:
        super().__init__(vllm_config, *args, **keywords)
        self._folder = Path(self._storage_path)
        extra = self._kv_transfer_config.get_from_extra_config
        self._limit = int(extra("disk_bytes", 8 << 30))
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        content = json.dumps(_description(vllm_config), indent=1)
        partial = self._folder / f"{DESCRIPTION}.{os.getpid()}"
        partial.write_text(content, encoding="utf-8")
        partial.replace(self._folder / DESCRIPTION)

    def _submit_async_write(self, pending: Any) -> None:
        _keep_below(self._folder, self._limit)
        if self._kv_cache is None or self._kv_cache.device.type != "cpu":
            super()._submit_async_write(pending)
            return
        if not self._is_tp_rank_zero:
            return
        slots = (torch.tensor(pending.block_ids)[:, None] * self._block_size + torch.arange(self._block_size)).flatten()
        states = example.extract_from_kv_cache(self._kv_cache, slots, len(pending.token_ids)).contiguous()
        tensors = {"hidden_states": states, "token_ids": pending.token_ids.clone()}
        # In place of a CUDA event: on a CPU a copy is complete when it returns.
        done = SimpleNamespace(synchronize=lambda: None, query=lambda: True)
        future = self._executor.submit(
            self._write_tensors, tensors, done, pending.filename, self._lock_fds.pop(pending.req_id, None)
        )
        self._req_copy_events[pending.req_id] = done
        self._req_futures[pending.req_id] = future
        future.add_done_callback(lambda ended: self._on_write_done(pending.req_id, ended))


def _description(config: Any) -> dict[str, Any]:
    """Return the facts of a server that decide what its states are."""
    model, draft = config.model_config, config.speculative_config.draft_model_config.hf_config
    lora = getattr(config, "lora_config", None)
    return {
        "vllm": import_module("vllm").__version__,
        "model": model.model,
        "revision": model.revision,
        "tokenizer": model.tokenizer,
        "tokenizer_revision": model.tokenizer_revision,
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": model.quantization,
        "lora": lora is not None,
        "max_model_len": model.max_model_len,
        "layer_ids": sorted(draft.eagle_aux_hidden_state_layer_ids),
    }


def _keep_below(folder: Path, limit: int) -> None:
    """Delete the oldest files of states that were not fetched, until the rest takes at most `limit` bytes."""
    files = []
    for file in folder.glob("*.safetensors"):
        try:
            about = file.stat()
        except FileNotFoundError:  # fetched meanwhile
            continue
        files.append((about.st_mtime, about.st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= limit:
            break
        file.unlink(missing_ok=True)
        Path(f"{file}.lock").unlink(missing_ok=True)
        total -= size
