"""Rows of tokens as batches of tensors: labels are shifted and positions counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_torch._moved import move

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["NO_LABEL", "collate"]

NO_LABEL = -100
"""The label of a position that predicts nothing, as in `torch.nn.functional.cross_entropy`."""


def collate(rows: Sequence[kdtool.Row], device: str | torch.device | None = None) -> kdtool.Batch:
    """Make a batch of B rows of L tokens each.

    `labels[b, i]` is token i + 1 where that token is labelled and belongs to the document of token i; elsewhere, such as at
    a document's last token and on padding, it is `NO_LABEL`. `positions` restart at 0 with each document and with padding.
    `columns` describe the predicted token, as labels do: `columns[name][b, i]` is the row's entry i + 1, and 0
    where there is no label.

    Args:
        rows: at least one; all of one length, with the same columns.
        device: where the tensors go; None leaves them on the CPU.

    Raises:
        kdtool.PluginError: rows differ in length or columns, or a row's sequences differ in length.
    """
    import torch

    _check(rows)
    ids = _tensor([row.input_ids for row in rows], torch.int64)
    document = _tensor([row.document for row in rows], torch.int32)
    labelled = _tensor([row.labelled for row in rows], torch.bool)
    same_document = (document[:, 1:] == document[:, :-1]) & (document[:, 1:] >= 0)
    predicts = torch.zeros_like(labelled)
    predicts[:, :-1] = labelled[:, 1:] & same_document
    columns = {name: _tensor([row.columns[name] for row in rows], torch.int64) for name in rows[0].columns}
    batch = kdtool.Batch(
        input_ids=ids,
        positions=_positions(document),
        labels=_of_next_token(ids, predicts, NO_LABEL),
        document=document,
        row_keys=tuple(row.key for row in rows),
        columns={name: _of_next_token(column, predicts, 0) for name, column in columns.items()},
        turns=tuple(row.turn for row in rows),
    )
    return batch if device is None else move(batch, torch.device(device))


def _check(rows: Sequence[kdtool.Row]) -> None:
    if not rows:
        raise ValueError("a batch needs at least one row")
    first = rows[0]
    for row in rows:
        lengths = {len(row.input_ids), len(row.labelled), len(row.document), *map(len, row.columns.values())}
        if lengths != {len(first.input_ids)}:
            raise kdtool.PluginError(
                f"row '{row.key}' has sequences of {sorted(lengths)} tokens, row '{first.key}' of the same batch has "
                f"{len(first.input_ids)}: a packer must give all sequences of all rows one length"
            )
        if set(row.columns) != set(first.columns):
            raise kdtool.PluginError(
                f"row '{row.key}' has columns {sorted(row.columns)}, row '{first.key}' of the same batch has "
                f"{sorted(first.columns)}: a packer must give all rows the same columns"
            )


def _tensor(sequences: list[Any], dtype: torch.dtype) -> Tensor:
    import torch

    return torch.stack([torch.tensor(sequence, dtype=dtype) for sequence in sequences])


def _positions(document: Tensor) -> Tensor:
    """Count tokens since the last change of document, [B, L] int64."""
    import torch

    index = torch.arange(document.shape[1]).expand(document.shape)
    begins = torch.ones_like(document, dtype=torch.bool)
    begins[:, 1:] = document[:, 1:] != document[:, :-1]
    return index - torch.where(begins, index, 0).cummax(dim=1).values


def _of_next_token(values: Tensor, predicts: Tensor, otherwise: int) -> Tensor:
    import torch

    return torch.where(predicts, values.roll(-1, dims=1), otherwise)
