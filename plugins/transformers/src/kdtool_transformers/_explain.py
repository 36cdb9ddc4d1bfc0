"""Exceptions of transformers about a model's files, as errors for users."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kdtool

__all__ = ["NO_TOKENIZER", "explain"]

NO_TOKENIZER = "backend tokenizer"
"""Part of transformers' message if no file of a tokenizer is found."""


@contextmanager
def explain(source: str | Path, where: str | Path, offline: bool, part: str = "") -> Iterator[None]:
    """Convert exceptions of transformers into kdtool's errors: it raises any kind for a file that it cannot use.

    `where` is the folder or Hub name that `source` resolves to; `part` is the file that is read, as messages name it.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (kdtool.KdtoolError, MemoryError):
        raise
    except SafetensorError as error:
        raise kdtool.StorageError(
            f"the weights of {source} are damaged or cut off: {error}; fetch them again"
        ) from error
    except Exception as error:
        text = str(error).strip()
        if isinstance(error, RuntimeError) and "memory" in text:
            raise
        if "trust_remote_code" in text:
            raise kdtool.UsageError(
                f"{source} needs Python code from its own repository, which kdtool never runs; choose a model whose class "
                "is part of transformers"
            ) from error
        is_local = isinstance(where, Path)
        if is_local and NO_TOKENIZER in text:
            raise kdtool.UsageError(
                f"{source} has no tokenizer; copy tokenizer.json and tokenizer_config.json of its base model there"
            ) from error
        if offline and not is_local and isinstance(error, OSError | ValueError | KeyError):
            raise kdtool.ServiceError(
                f"{source} is neither a folder here nor in the local cache, and nothing is fetched now; fetch it first: "
                f"hf download {source}"
            ) from error
        if not is_local and _is_gated(error):
            raise kdtool.ServiceError(
                f"{source} is gated on the Hub: its owner wants terms to be accepted. Accept them at "
                f"https://huggingface.co/{source} and log in with `hf auth login`, or set HF_TOKEN; then run again"
            ) from error
        if isinstance(error, OSError) and not is_local:
            raise kdtool.ServiceError(
                f"{source} could not be downloaded from the Hub: {_reason(error)}; check the name and the connection, or "
                "give a local folder"
            ) from error
        raise kdtool.UsageError(
            f"{source}{part} cannot be opened: {_reason(error)}; expected a model as transformers saves it: download or "
            "save it again"
        ) from error


def _is_gated(error: BaseException | None) -> bool:
    """Return whether the Hub refuses a file until the user has accepted terms."""
    from huggingface_hub.errors import GatedRepoError

    while error is not None:
        if isinstance(error, GatedRepoError) or "access a gated repo" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: Exception) -> str:
    """Return the beginning of an exception's text in one line, with its kind if it was not raised for users."""
    text = " ".join(str(error).split())[:300]
    return text if text and isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {text}"
