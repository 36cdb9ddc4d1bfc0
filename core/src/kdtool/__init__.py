"""kdtool: distil large code models into small ones, with plugins for every part.

Plugin authors import from here and from `kdtool.testing`; nothing else is promised. Names are loaded when they are first
used, so that `import kdtool` and the command line stay light.

Example, a loss in a file beside the recipe:

    import kdtool

    class Focal(kdtool.Loss):
        \"\"\"Cross-entropy that looks at hard tokens.\"\"\"

        def kdtool_token_loss(self, chunk: kdtool.TokenChunk):
            log_probability = chunk.student_logits.float().log_softmax(-1).gather(-1, chunk.labels[:, None])[:, 0]
            return -(1 - log_probability.exp()) ** 2 * log_probability
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import Field

    from kdtool._api import check, report, run
    from kdtool._contract.component import CONTRACT, Component, Config, does_not_affect_results
    from kdtool._contract.hooks import Named, Owner, blame
    from kdtool._contract.kinds import (
        Cache,
        Corpus,
        Evaluator,
        Exporter,
        Hooks,
        Loss,
        Packer,
        Reporter,
        Screen,
        Student,
        Teacher,
        Tracker,
        Trainer,
        Transform,
        Weighting,
    )
    from kdtool._contract.models import (
        Artifact,
        LanguageModel,
        ModelFacts,
        Request,
        Role,
        Runtime,
        Score,
        Subject,
        TextAnswer,
        Tokenizer,
    )
    from kdtool._contract.results import ArmResult, Comparison, ComponentRecord, Measurement, Results, StageRecord
    from kdtool._contract.signals import (
        DenseTokens,
        Head,
        LazyLogits,
        ModelOutputs,
        Offer,
        PerSequence,
        PerToken,
        Signal,
        SparseTokens,
        StepView,
        TokenChunk,
        Want,
    )
    from kdtool._contract.text import (
        Batch,
        Completion,
        Example,
        Messages,
        Rejection,
        Row,
        RowSource,
        Split,
        Text,
        TextSource,
    )
    from kdtool._contract.training import (
        Estimate,
        Phase,
        RunInfo,
        Schedule,
        SignalSource,
        StepReport,
        Term,
        TermReport,
        Terms,
        TermStats,
        Trained,
    )
    from kdtool._errors import (
        AuthenticationError,
        BudgetError,
        KdtoolError,
        LockedError,
        MemoryExceededError,
        PluginError,
        Problem,
        RecipeError,
        SandboxError,
        ServiceError,
        StorageError,
        TargetMissedError,
        UsageError,
    )

_HOMES = {
    "pydantic": ("Field",),
    "kdtool._api": ("check", "report", "run"),
    "kdtool._contract.component": ("CONTRACT", "Component", "Config", "does_not_affect_results"),
    "kdtool._contract.hooks": ("Named", "Owner", "blame"),
    "kdtool._contract.kinds": (
        "Cache", "Corpus", "Evaluator", "Exporter", "Hooks", "Loss", "Packer", "Reporter", "Screen", "Student", "Teacher",
        "Tracker", "Trainer", "Transform", "Weighting",
    ),
    "kdtool._contract.models": (
        "Artifact", "LanguageModel", "ModelFacts", "Request", "Role", "Runtime", "Score", "Subject", "TextAnswer",
        "Tokenizer",
    ),
    "kdtool._contract.results": (
        "ArmResult", "Comparison", "ComponentRecord", "Measurement", "Results", "StageRecord",
    ),
    "kdtool._contract.signals": (
        "DenseTokens", "Head", "LazyLogits", "ModelOutputs", "Offer", "PerSequence", "PerToken", "Signal", "SparseTokens",
        "StepView", "TokenChunk", "Want",
    ),
    "kdtool._contract.text": (
        "Batch", "Completion", "Example", "Messages", "Rejection", "Row", "RowSource", "Split", "Text", "TextSource",
    ),
    "kdtool._contract.training": (
        "Estimate", "Phase", "RunInfo", "Schedule", "SignalSource", "StepReport", "Term", "TermReport", "TermStats",
        "Terms", "Trained",
    ),
    "kdtool._errors": (
        "AuthenticationError", "BudgetError", "KdtoolError", "LockedError", "MemoryExceededError", "PluginError", "Problem",
        "RecipeError", "SandboxError", "ServiceError", "StorageError", "TargetMissedError", "UsageError",
    ),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        if name == "__version__":
            from importlib.metadata import version

            return version("kdtool")
        raise AttributeError(f"module 'kdtool' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF, "__version__"})
