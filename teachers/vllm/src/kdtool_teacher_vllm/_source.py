"""Fetch files of hidden states: from a folder that is shared with the server, or from its companion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import kdtool
from kdtool_teacher_openai.client import local_addresses
from safetensors.torch import load
from torch import Tensor

__all__ = ["Companion", "Folder", "LostError", "Source"]

_DESCRIPTION = "server.json"


class LostError(Exception):
    """States are not available now; the same prompt can be sent again, here or to another server."""


class Folder:
    """A folder that this machine and the server share."""

    def __init__(self, folder: Path, timeout: float) -> None:
        self._folder = folder
        self._timeout = timeout

    def describe(self) -> Mapping[str, Any]:
        """Return the facts of the server. Raises as `take`."""
        try:
            return _facts((self._folder / _DESCRIPTION).read_bytes())
        except OSError as error:
            raise LostError(f"{self._folder / _DESCRIPTION} cannot be read ({error.strerror})") from None

    def take(self, name: str) -> Mapping[str, Tensor]:
        """Return the tensors of a file, which is deleted. Raises LostError if it is missing or incomplete."""
        from kdtool_teacher_vllm.server.kdtool_companion import wait_until_written  # needs flock, as vLLM does

        path = self._folder / name
        wait_until_written(path, self._timeout)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise LostError(f"{path} cannot be read ({error.strerror})") from None
        for file in (path, Path(f"{path}.lock")):
            file.unlink(missing_ok=True)
        return _tensors(content)

    def close(self) -> None:
        """Keep nothing open."""


class Companion:
    """The process that sends the files of a server on another machine."""

    def __init__(self, url: str, key: str, timeout: float, *, offline: bool) -> None:
        local_addresses(url, offline=offline)
        self._url = url
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=timeout, follow_redirects=False, trust_env=False)

    def describe(self) -> Mapping[str, Any]:
        """Return the facts of the server. Raises as `take`."""
        return _facts(self._get("/server"))

    def take(self, name: str) -> Mapping[str, Tensor]:
        """Return the tensors of a file, which the companion deletes.

        Raises:
            LostError: the companion does not answer, or the file is missing or incomplete.
            AuthenticationError: the key is refused.
        """
        return _tensors(self._get(f"/states/{name}"))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _get(self, path: str) -> bytes:
        try:
            answer = self._client.get(self._url + path)
        except httpx.HTTPError as error:
            raise LostError(f"the companion at {self._url} does not answer ({error})") from None
        if answer.status_code in {401, 403}:
            raise kdtool.AuthenticationError(
                f"the companion at {self._url} refuses the key: set `key_variable` to the variable that holds it"
            )
        if answer.status_code != 200:
            raise LostError(f"the companion at {self._url} has no {path} ({answer.status_code})")
        return answer.content


Source = Folder | Companion


def _facts(content: bytes) -> Mapping[str, Any]:
    try:
        facts = json.loads(content)
    except ValueError:
        raise LostError(f"{_DESCRIPTION} is not JSON") from None
    return facts if isinstance(facts, Mapping) else {}


def _tensors(content: bytes) -> Mapping[str, Tensor]:
    try:
        return load(content)
    except Exception as error:  # safetensors' own class, without a public base, of a file that was cut
        raise LostError(f"the file of states is incomplete ({error})") from None
