"""The base of every plugin class: a light class with a nested `Config`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pydantic

from kdtool._contract.estimates import Estimate, Prospect
from kdtool._contract.language_model import ModelFacts
from kdtool._contract.licences import Terms, Transfer
from kdtool._contract.run_info import RunInfo


class Config(pydantic.BaseModel):
    """Base of a component's `Config`: frozen, unknown keys refused, fields described by the string below each.

    A field marked with `does_not_affect_results()` is left out of fingerprints: changing it redoes nothing.
    """

    model_config = pydantic.ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


def does_not_affect_results() -> dict[str, Any]:
    """Mark a field (`json_schema_extra=does_not_affect_results()`) that changes speed or display, never a result."""
    return {"affects_results": False}


class Component:
    """Base of all kinds.

    The class lives in a light module: torch and other heavy libraries are imported inside methods. It is built with its
    validated config and nothing else; whatever takes time or can fail waits until a hook is called. A component must not
    override equality, and only plain methods named `kdtool_…` are hooks.

    Hooks of all kinds are declared here; each kind's own hooks are in its base class.
    """

    kind: ClassVar[str] = ""
    config: Any
    """The instance of the nested `Config`; redeclare it as `config: Config` to have it typed."""
    takes: Mapping[str, Transfer] = {}
    """What it takes of other components, by their names in the recipe, and passes on to the student: a student that is cut
    from a teacher takes its weights, a corpus of a teacher's answers its text. Decides which terms bind the student. They
    must be there, and a teacher whose text is taken offers text. A text's fingerprint holds those that it was taken of; a
    corpus whose text another one takes gives none itself."""
    columns: frozenset[str] = frozenset()
    """Columns of tokens, by name: those that an annotator gives, or a packer by itself; those that a loss or a weighting
    reads, which are then to be given in each of its phases. May depend on the config."""

    class Config(Config):
        """No settings."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def kdtool_identity(self, run: RunInfo) -> Mapping[str, str] | None:
        """Say what the config does not: hashes of files, of weights, an interpreter's version.

        Called by the engine on every component before any stage, once a run, on rank 0. Cheap: no weights are loaded.
        The result enters the fingerprint of all that the component takes part in. An exception stops the run.
        Since 0.1.
        """

    def kdtool_describe(self, run: RunInfo) -> ModelFacts | None:
        """Tell a model's shapes from its configuration alone (teachers and students).

        Called by `kdtool check` and before training, on rank 0, no weights loaded. None where the component is no model.
        Since 0.1.
        """

    def kdtool_estimate(self, run: RunInfo, ahead: Prospect) -> Iterator[Estimate] | None:
        """Yield the parts of what this component will take: memory by stage, disk, downloads, tokens, time, money.

        Called by `kdtool check`, on rank 0; a component of a phase is asked in each phase, told as `ahead.phase`. It takes
        seconds at most, and nothing is loaded or fetched. What cannot be known is left out or said in a note; one that
        raises leaves its part unknown. Raise a `UsageError` to refuse a recipe that would fail once the run is under way.
        Since 0.1.
        """

    def kdtool_acknowledge(self) -> Terms | None:
        """Give the licence or terms of use of what the component brings (weights, data, a service).

        Called once before a run, on rank 0; nothing is fetched. Shown to the user, compared with what the student takes of
        the component (its signals, its weights, its text), and recorded in results and model card. Since 0.1.
        """

    def kdtool_missing(self, run: RunInfo) -> Sequence[str] | None:
        """Say what this machine lacks for the component to work (a library, a GPU, a compiler), each with its remedy.

        Called on every component, the phases' own too, by `kdtool check` and before a run makes anything, on rank 0; what
        all of them lack is shown at once, and nothing is made. No weights are loaded and nothing is fetched. Empty or None
        where nothing is missing. Since 0.1.
        """

    def kdtool_state(self) -> Mapping[str, Any] | None:
        """Give what a component of a phase remembers from step to step, such as a running mean; None if nothing.

        Called by the trainer with each checkpoint, on rank 0, and stored as JSON: text, whole and finite numbers, booleans,
        None, lists, and mappings with text as keys. Tensors that train along are `kdtool_modules` instead. Since 0.1.
        """

    def kdtool_restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `kdtool_state` gave, so that a killed phase goes on as if nothing had happened.

        Called by the trainer when it resumes from a checkpoint, on every rank, before the first step. Since 0.1.
        """

    def kdtool_close(self) -> None:
        """Let go of memory, processes and files. Called once at the end of each instance's life, also after errors.

        Every instance is closed, on every rank, in reverse order, also one that no other hook was called on. An exception is
        reported and does not stop the others.
        Since 0.1.
        """
