"""A gated model on the Hub is named as such, with the page of its terms and how to log in."""

from __future__ import annotations

import kdtool
import pytest
from kdtool_transformers.opening import explain

_NAME = "mistralai/Mistral-7B-v0.1"


def test_a_gated_model_is_refused_with_its_page_and_the_way_to_log_in() -> None:
    error = OSError("config.json cannot be loaded")
    error.__cause__ = OSError(f"You are trying to access a gated repo.\nMake sure to have access to it at {_NAME}.")
    page = rf"is gated .*https://huggingface\.co/{_NAME} .*`hf auth login`"
    with pytest.raises(kdtool.ServiceError, match=page), explain(_NAME, _NAME, offline=False):
        raise error


def test_other_failures_are_not_called_gated() -> None:
    with pytest.raises(kdtool.ServiceError, match="check the name"), explain(_NAME, _NAME, offline=False):
        raise OSError("not found")
