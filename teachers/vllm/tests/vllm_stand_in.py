"""A server with the part of vLLM's protocol that the teacher uses: a tiny model's real states, by files with locks.

`serving` runs it in this process, `main` in another one, so that tests can kill it.
"""

from __future__ import annotations

import base64
import fcntl
import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kdtool
import numpy as np
import torch
from kdtool_teacher_vllm import VLLM
from kdtool_transformers import TransformersModel, open_model
from safetensors.torch import save_file
from torch import Tensor

NAME = "tiny"


class StandIn:
    """The served model. `spoil` and `spoil_scores` change what it returns; `asked` lists the prompts that it read.

    Folders whose weights it loads, and requests for text, are lines of `requests.jsonl` in its folder. It keeps its weights
    while a file `stale` is there.
    """

    def __init__(self, model: TransformersModel, folder: Path, layer_ids: tuple[int, ...] = ()) -> None:
        self.model = model
        self.folder = folder
        self.layer_ids = layer_ids or (model.facts.layers,)
        self.facts: dict[str, Any] = {
            "dtype": str(next(model.model.parameters()).dtype).removeprefix("torch."),
            "quantization": None,
            "max_model_len": 513,
            "layer_ids": list(self.layer_ids),
        }
        self.spoil: Callable[[Tensor], Tensor] = lambda states: states
        self.spoil_scores: Callable[[Tensor], Tensor] = lambda scores: scores
        self.writes_states = True
        self.asked: list[list[int]] = []
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self.describe()

    def describe(self) -> None:
        """Write the facts, as the connector does."""
        (self.folder / "server.json").write_text(json.dumps(self.facts), encoding="utf-8")

    def load(self, path: str) -> None:
        """Read the weights in a folder, as `reload_weights` does."""
        with self._lock:
            self._note({"loaded": str(Path(path).resolve())})
            if not (self.folder / "stale").exists():
                self.model = open_model(path)
                self.layer_ids = (self.model.facts.layers,)

    def draw(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a request for new token ids."""
        with self._lock:
            self._note(body)
            (new,) = self.model.generate(
                [body["prompt"]], [body["max_tokens"]], body["temperature"], [body["seed"]], body["top_p"]
            )
        ended = new[-1] in body["stop_token_ids"]
        return {"choices": [{"index": 0, "token_ids": new, "finish_reason": "stop" if ended else "length"}]}

    def _note(self, request: dict[str, Any]) -> None:
        with (self.folder / "requests.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(request) + "\n")

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a completion of token ids."""
        ids = body["prompt"]
        with self._lock:  # a tiny model's hooks are not for several threads
            self.asked.append(ids)
            number = f"cmpl-{len(self.asked)}-{time.time_ns()}"
            last, states = self._states(ids)
        choice: dict[str, Any] = {"index": 0, "text": "a", "finish_reason": "length"}
        if "prompt_logprobs" in body:
            head = self.model.head
            found = head.logits(last).detach().log_softmax(-1)
            choice["prompt_logprobs"] = [None] + [
                {str(token): {"logprob": float(found[at, token])}} for at, token in enumerate(ids[1:])
            ]
        if not self.writes_states:
            return {"choices": [choice]}
        path = self.folder / f"{number}.safetensors"
        lock = Path(f"{path}.lock").open("w")  # noqa: SIM115 - closed by the thread that writes
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Thread(target=self._write, args=(path, lock, states, ids)).start()
        return {"choices": [choice], "kv_transfer_params": {"hidden_states_path": str(path)}}

    def score(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a request for the log-probabilities of chosen tokens."""
        ids, settings = body["token_ids"], body["sampling_params"]
        start, rows = settings["prompt_logprob_start"], settings["prompt_logprob_token_ids"]
        assert len(rows) == len(ids) - 1 - start
        with self._lock:
            self.asked.append(ids)
            last, _ = self._states(ids)
            logs = self.model.head.logits(last).detach().log_softmax(-1)
        scores = torch.full((len(rows), max(map(len, rows))), -torch.inf)
        for at, row in enumerate(rows):
            for column, token in enumerate(row):
                scores[at, column] = logs[start + at, token] if token >= 0 else -torch.inf
        file = io.BytesIO()
        np.save(file, self.spoil_scores(scores).numpy(), allow_pickle=False)
        text = base64.b64encode(file.getvalue()).decode()
        return {"choices": [{"index": 0, "token_ids": [1]}], "prompt_token_id_logprobs": text}

    def _states(self, ids: list[int]) -> tuple[Tensor, Tensor]:
        tokens = torch.tensor([ids])
        zeros = torch.zeros_like(tokens)
        batch = kdtool.Batch(tokens, torch.arange(len(ids))[None], zeros, zeros.int(), ("",))
        layers = tuple(layer - 1 for layer in self.layer_ids)
        with torch.no_grad():
            outputs = self.model.backbone(batch, kdtool.SignalRequest(frozenset({"hidden"}), layers))
        return outputs.last, torch.stack([outputs.hidden[layer] for layer in layers], 1)

    def _write(self, path: Path, lock: Any, states: Tensor, ids: list[int]) -> None:
        with lock:
            save_file({"hidden_states": self.spoil(states).contiguous(), "token_ids": torch.tensor(ids)}, path)


@dataclass
class Served:
    """A stand-in that runs, its model's folder, and teachers that ask it, which are closed after the test."""

    url: str
    stand_in: StandIn
    model: Path
    settings: dict[str, Any]
    built: list[VLLM] = field(default_factory=list)

    def build(self, **settings: Any) -> VLLM:
        given = {"url": self.url, "model": str(self.model), "dtype": "float32", "patience": 20}
        self.built.append(VLLM(VLLM.Config(**{**given, **self.settings, **settings})))
        return self.built[-1]


@contextmanager
def serving(stand_in: StandIn, port: int = 0) -> Iterator[str]:
    """Serve as long as the context lasts; gives the address for `url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send({"object": "list", "data": [{"id": NAME, "parent": None}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/collective_rpc":
                stand_in.load(body["kwargs"]["weights_path"])
                self._send({"results": [None]})
            elif self.path == "/inference/v1/generate":
                self._send(stand_in.score(body))
            elif self.path == "/v1/completions" and body.get("return_token_ids"):
                self._send(stand_in.draw(body))
            elif self.path == "/tokenize":
                ids = stand_in.model.tokenizer.encode(body["prompt"])
                self._send({"tokens": ids, "count": len(ids)})
            elif self.path == "/v1/chat/completions":
                if len(body["messages"][-1]["content"]) > 512:
                    self._send({"error": {"message": "maximum context length"}}, 400)
                    return
                choice = {"index": 0, "message": {"role": "assistant", "content": "pass"}, "finish_reason": "stop"}
                self._send({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1}})
            elif len(body["prompt"]) >= stand_in.facts["max_model_len"]:
                self._send({"error": {"message": "maximum context length"}}, 400)
            else:
                self._send(stand_in.complete(body))

        def _send(self, content: dict[str, Any], status: int = 200) -> None:
            answer = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main(model: str, folder: str, port: str, layer_ids: str) -> None:
    """Serve until standard input is closed: the process does not outlive the test that started it."""
    torch.set_num_threads(1)
    stand_in = StandIn(open_model(model), Path(folder), tuple(map(int, layer_ids.split(","))))
    with serving(stand_in, int(port)) as url:
        print(f"listening: {url}", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
