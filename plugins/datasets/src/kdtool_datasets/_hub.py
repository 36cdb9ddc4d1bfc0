"""A dataset of the Hub at one commit, read as a stream: only the records that are read are fetched."""

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
"""Seconds to wait for the Hub's first answer before it counts as unreachable."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass
class HubDataset:
    """A dataset by its name on the Hub. The newest commit of `revision` is looked up only once."""

    name: str
    config: str | None = None
    revision: str | None = None
    _commit: str = field(default="", init=False)

    def identity(self, *, offline: bool = False) -> dict[str, str]:
        """Return the commit that is read, with one request to the Hub; none if `revision` is a full commit hash.

        Raises:
            UsageError: there is no such dataset or revision, or it is not open to everybody.
            ServiceError: the Hub cannot be reached, or the run is offline.
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
        """Yield the records of one of the dataset's own splits. Raises as `identity`, and if the stream breaks off."""
        if Path(self.name).exists():  # `datasets` would read it instead of the dataset
            raise kdtool.UsageError(
                f"a folder or file {self.name} is here, too: run elsewhere, or name its files instead"
            )
        revision = self.identity(offline=offline)["commit"]
        source = f"dataset {self.name}" + (f" ({self.config})" if self.config else "")
        yield from read(source, self.name, shuffle_buffer, seed, name=self.config, split=split, revision=revision)

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
                    f"dataset {self.name}{at} is not on the Hub, or not open to you: check the name; if its owner asks for "
                    "consent, give it on its page and log in with `hf auth login`"
                ) from error
            raise self._unreachable(f"the Hub answers {status}") from error
        except ValueError as error:  # a malformed name, or an answer of the Hub that is not JSON
            raise kdtool.UsageError(f"{self.name!r} is not a dataset on the Hub: {error}") from error
        except Exception as error:  # requests, httpx: the library for HTTP below differs from version to version
            raise self._unreachable(str(error) or type(error).__name__) from error

    def _unreachable(self, reason: str) -> kdtool.ServiceError:
        where = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        return kdtool.ServiceError(
            f"dataset {self.name}: {where} cannot be reached ({reason}); try again with a connection, or fetch it elsewhere "
            f"(hf download --repo-type dataset {self.name} --local-dir FOLDER) and name its files instead"
        )
