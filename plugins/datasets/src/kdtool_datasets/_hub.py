"""A data set of the hub at one commit, read as a stream: nothing but what is read is fetched."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import kdtool

from kdtool_datasets._stream import Record, read

__all__ = ["HubDataset"]

_PATIENCE = 10.0
"""Seconds to wait for the hub's first answer: who cannot be reached then is said to be so."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass
class HubDataset:
    """A data set by its hub name. The newest commit of `revision` is looked up once and stays for the object's life."""

    name: str
    config: str | None = None
    revision: str | None = None
    _commit: str = field(default="", init=False)

    def identity(self, *, offline: bool = False) -> dict[str, str]:
        """Return the commit that is read, by one question to the hub; none is needed for a commit in full.

        Raises:
            UsageError: there is no such data set or revision, or it is not open to everybody.
            ServiceError: the hub cannot be reached, or must not be.
        """
        if offline:
            raise self._unreachable("the run is offline")
        if not self._commit:
            revision = self.revision or ""
            self._commit = revision if _COMMIT.fullmatch(revision) else self._ask()
        return {"commit": self._commit}

    def records(
        self, split: str, *, shuffle_buffer: int | None = None, seed: int = 0, offline: bool = False
    ) -> Iterator[Record]:
        """Yield the records of one of the data set's own splits. Raises as `identity`, and as the stream breaks off."""
        if Path(self.name).exists():  # `datasets` would take it for the data set
            raise kdtool.UsageError(
                f"a folder or file {self.name} is here, too: run elsewhere, or name its files instead"
            )
        revision = self.identity(offline=offline)["commit"]
        place = f"data set {self.name}" + (f" ({self.config})" if self.config else "")
        yield from read(place, self.name, shuffle_buffer, seed, name=self.config, split=split, revision=revision)

    def _ask(self) -> str:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return str(HfApi().dataset_info(self.name, revision=self.revision, timeout=_PATIENCE).sha)
        except HfHubHTTPError as error:
            status = getattr(error.response, "status_code", 0)
            if status in {401, 403, 404}:
                at = f" at {self.revision}" if self.revision else ""
                raise kdtool.UsageError(
                    f"the hub has no data set {self.name}{at} that is open to you: check the name; where its owner asks for "
                    "consent, give it on its page and log in with `hf auth login`"
                ) from error
            raise self._unreachable(f"the hub answers {status}") from error
        except ValueError as error:  # a malformed name; also what the hub says is no JSON
            raise kdtool.UsageError(f"{self.name!r} is not a data set on the hub: {error}") from error
        except Exception as error:  # requests, httpx: the library for HTTP below differs from version to version
            raise self._unreachable(str(error) or type(error).__name__) from error

    def _unreachable(self, reason: str) -> kdtool.ServiceError:
        where = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        return kdtool.ServiceError(
            f"data set {self.name}: {where} cannot be asked ({reason}); try again with a connection, or fetch it elsewhere "
            f"(hf download --repo-type dataset {self.name} --local-dir FOLDER) and name its files instead"
        )
