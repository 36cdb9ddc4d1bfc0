"""The base of every plugin class, with a nested `Config`: types of settings, and declarations of hooks.

A plugin's class must import fast. Types of settings with a meaning for the engine are here: files and folders, which are
resolved against the folder of the recipe that holds them, and services with their keys, so that a recipe cannot send a key
elsewhere by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import pluggy
import pydantic
from pydantic import BeforeValidator, Field, ValidationInfo

from kdtool._contract.language_model import LanguageModel, ModelFacts
from kdtool._contract.licences import LicenceTerms, Transfer
from kdtool._contract.run_info import Estimate, RunForecast, RunInfo


class Config(pydantic.BaseModel):
    """Base of a component's `Config`: frozen, unknown keys refused, fields described by the string below each.

    A field marked with `does_not_affect_results()` is left out of fingerprints: changing it redoes nothing.
    """

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )


def does_not_affect_results() -> dict[str, Any]:
    """Mark a field (`json_schema_extra=does_not_affect_results()`) that changes speed or display, never a result."""
    return {"affects_results": False}


class Component:
    """Base of all kinds.

    Import torch and other heavy libraries inside methods, not in the module. The constructor receives the validated config
    and nothing else; do everything that takes time or can fail in hooks. A component must not override equality, and only
    plain methods named `kdtool_…` are hooks.

    Hooks of all kinds are declared here; each kind's own hooks are in its base class.
    """

    kind: ClassVar[str] = ""
    config: Any
    """The instance of the nested `Config`; redeclare it as `config: Config` to have it typed."""
    derives_from: Mapping[str, Transfer] = {}
    """Components whose weights, signals or text end up in the student, by their names in the recipe. A student cut from a
    teacher takes its weights, a corpus of a teacher's answers its text, a teacher made of others their signals. Decides
    which licence terms apply to the student. The components must exist, and a teacher whose text is taken must offer text.
    A text's fingerprint includes these components; a corpus whose text another one takes contributes none itself."""
    columns: frozenset[str] = frozenset()
    """Columns of tokens, by name: those that a packer or a component with `kdtool_annotate` provides, or that a loss or a
    weighting reads. The latter must be provided in each of its phases. May depend on the config."""

    extra = ""
    """The extra of the component's package with the third-party packages that it imports; "" if the package requires all of
    them. A recipe is refused where they are not installed, with the command that installs them. May depend on the config.
    Since 0.1."""
    needs_sandbox = False
    """True for an evaluator or filter that runs generated programs: `--no-sandbox` leaves it out. Since 0.1."""
    needs_hook = ""
    """For an evaluator or filter that is useless unless an evaluator implements this hook, such as `kdtool_problems`:
    `--no-sandbox` leaves it out if all of those need a sandbox. Since 0.1."""

    class Config(Config):
        """No settings."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def licence_terms(self) -> LicenceTerms | None:
        """The licence or terms of use of the weights, data or service that the component provides; None if it provides none.

        Override it as a property, or as an attribute of the class. Read once before a run, on rank 0; fetch nothing. Shown
        to the user, compared with the student's use of the component (its signals, its weights, its text), and recorded in
        results and model card. Since 0.1.
        """
        return None

    def kdtool_identity(self, run: RunInfo) -> Mapping[str, str] | None:
        """Return the identity beyond the config: hashes of files, of weights, an interpreter's version.

        Called by the engine on every component before any stage, once per run, and by `kdtool check`, which fetches nothing.
        Cheap: no weights are loaded. The result enters the fingerprint of every artefact that depends on the component. An
        exception stops the run. Since 0.1.
        """

    def kdtool_describe(self, run: RunInfo) -> LanguageModel | ModelFacts | None:
        """Return a model's shapes, read only from its configuration (teachers and students).

        Called by `kdtool check` and before training, on rank 0, no weights loaded. None if the component is not a
        neural network, such as a teacher that counts or a service: losses of layers then refuse it.

        A student may return an outline: itself, with weights that have shapes, but no values or memory (in PyTorch on the
        device "meta"), and with the student's `facts`. `kdtool check` then applies the transforms of each phase to a new
        outline, and estimates the memory of training from the result. Since 0.1.
        """

    def kdtool_estimate(self, run: RunInfo, ahead: RunForecast) -> Iterator[Estimate] | None:
        """Yield estimates of this component's needs: memory by stage, disk, downloads, tokens, time, money.

        Called by `kdtool check`, on rank 0; for a component of a phase once in each phase (`ahead.phase`). Must take
        seconds at most, and load or fetch nothing. Leave unknown parts out, or mention them in a note; after an exception
        the part is unknown. Without this hook, models are estimated from `kdtool_describe`, evaluators as holding a student.
        Raise a `UsageError` to refuse a recipe that would fail during the run. Since 0.1.
        """

    def kdtool_check(self, run: RunInfo, when: Literal["start", "text", "student"]) -> Sequence[str] | None:
        """Return problems that would stop the run later, each with its remedy; empty or None if there are none.

        The problems of all components are shown at once, each at its component's key, and nothing is trained. A `UsageError`
        counts as a problem, too. Must be cheap: load no weights, fetch and write nothing. Called on rank 0:

        - "start": of every component, those of phases too, by `kdtool check` and before a run makes anything. Look for
          what this machine lacks: a library, a GPU, a compiler, a file.
        - "text": of evaluators, once `run.texts` exists, except for those of a teacher that the text comes from. Refuse
          text and files that leave nothing to measure on, with the errors that `kdtool_evaluate` would raise.
        - "student": of exporters, once the untrained student exists in folder `run.untrained`. Refuse a student that cannot
          be exported, with the errors that `kdtool_export` would raise. Read only its configuration and tokenizer.

        Since 0.1.
        """

    def kdtool_account(self, run: RunInfo) -> Mapping[str, Any] | None:
        """Return plain data on what the component asked, paid and rejected, for `Results.data["accounts"]` and the report.

        Called at the end of a run for each of its texts, on every rank; read files, since the text may be of an earlier run.
        `run.folder` is the text's folder. Numbers called `requests`, `rows` (accepted), `tokens_in`, `tokens_out` and
        `picodollars` are shown as costs, `rejected` (a mapping of reasons to counts) and `samples` (of `reason`, `id` and
        `text`) as rejections; `unknown_requests` and `unknown_picodollars` are those that may have been charged. A teacher's
        account covers all runs that share its money. Since 0.1.
        """

    def kdtool_close(self) -> None:
        """Release memory, processes and files. Called once at the end of each instance's life, also after errors.

        Every instance is closed, on every rank, in reverse order, even if no other hook was called. An exception is
        reported and does not prevent the others from closing. Since 0.1.
        """


F = TypeVar("F", bound=Callable[..., Any])
hookimpl = pluggy.HookimplMarker("kdtool")
"""Marks a method `kdtool_…` of a component: with `wrapper=True` it wraps that hook of every component of its scope, of any
kind; `tryfirst=True` and `trylast=True` change its place. Hooks of a component's own kind need no mark. Since 0.1."""


@dataclass(frozen=True)
class Calling:
    """The way in which a hook is called.

    `needed`: every component of the kind must implement it. `first`: a call of all components ends with the first answer.
    `tolerant`: a component that raises is disabled for the rest of the run, unless the recipe marks it `required`.
    """

    needed: bool = False
    first: bool = False
    tolerant: bool = False


def hook(*, needed: bool = False, first: bool = False, tolerant: bool = False) -> Callable[[F], F]:
    """Declare how a method of a kind's base class is called; see `Calling`. Without it none of these holds."""

    def declare(function: F) -> F:
        vars(function)["kdtool_calling"] = Calling(needed, first, tolerant)
        return function

    return declare


def calling_of(function: Callable[..., Any]) -> Calling:
    """Return how a hook is called, from its declaration."""
    found = getattr(function, "kdtool_calling", None)
    return found if isinstance(found, Calling) else Calling()


def _path(value: Any, info: ValidationInfo) -> Any:
    """Return text as a path from the folder that the context holds for it; unchanged from the working directory."""
    folder = (info.context or {}).get(value) if isinstance(value, str) else None
    if folder is None:
        return value
    path = os.path.expanduser(value)  # noqa: PTH111 - unlike Path's, it never raises
    path = path if folder.absolute() == Path.cwd() else str(Path(folder.absolute(), path))
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):  # noqa: PTH110, PTH112, PTH113
        raise ValueError("names a pipe or a device, which may never end; name a file or a folder")
    return path


def _path_or_name(value: Any, info: ValidationInfo) -> Any:
    path = _path(value, info)
    is_path = isinstance(value, str) and (value.startswith(("./", "../", "~/")) or os.path.exists(path))  # noqa: PTH110
    return path if is_path else value


RecipePath = Annotated[Path, BeforeValidator(_path)]
"""A `Config` field for a file or folder. Relative paths start at the folder of the recipe file that names them, those of
`--set`, of recipes in Python and of defaults at the working directory. Records and fingerprints hold the path as written:
let `kdtool_identity` hash the content. Pipes and devices are refused: reading them may never end. Since 0.1."""
PATH_OR_NAME = "kdtool: path or name"
"""Marks a field in `Annotated`."""
RecipePathOrName = Annotated[str, BeforeValidator(_path_or_name), PATH_OR_NAME]
"""A `Config` field for a path or a name, such as a model's on the Hub. It is a path, as in `RecipePath`, if it begins with
`./`, `../` or `~/`, or if it exists in the recipe's folder. Since 0.1."""
SERVICE_URL = "kdtool: URL of a service"
"""Marks a field in `Annotated`."""
KEY_VARIABLE = "kdtool: environment variable with a key"
"""Marks a field in `Annotated`."""
ServiceUrl = Annotated[str, SERVICE_URL]
"""A `Config` field for the address of a service, `https://HOST` or `HOST:PORT`, also next to a `Literal` of words. The
field's default is the service's own address. A recipe may name another one only on the command line (`--set`)
or if its origin is listed in KDTOOL_TRUST_URL; a server on this machine needs neither if the config names no `KeyVariable`.
Checked with the recipe, not where a config is made by code. Since 0.1."""
KeyVariable = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+_API_KEY$"), KEY_VARIABLE]
"""A `Config` field for the environment variable that holds a service's key. Its name ends in `_API_KEY`, so that a recipe
cannot send other secrets. A recipe may name another one than the field's default only on the command line (`--set`) or if it
is listed after the origin of the config's `ServiceUrl`: KDTOOL_TRUST_URL=https://HOST=NAME_API_KEY. Since 0.1."""
