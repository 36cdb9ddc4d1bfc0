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
    from pydantic import Field as Field
    from kdtool._api import check as check
    from kdtool._api import plan as plan
    from kdtool._api import report as report
    from kdtool._api import run as run
    from kdtool._run.committed import commit as commit
    from kdtool._run.committed import discard_uncommitted as discard_uncommitted
    from kdtool._run.committed import seal_line as seal_line
    from kdtool._run.committed import uncommit as uncommit
    from kdtool._run.committed import unseal_line as unseal_line
    from kdtool._compare import Compared as Compared
    from kdtool._compare import ComparedRow as ComparedRow
    from kdtool._compare import compare as compare
    from kdtool._compatibility import CONTRACT as CONTRACT
    from kdtool._contract.component import Component as Component
    from kdtool._contract.component import Config as Config
    from kdtool._contract.component import does_not_affect_results as does_not_affect_results
    from kdtool._contract.hooks import Named as Named
    from kdtool._owner import Owner as Owner
    from kdtool._owner import blame as blame
    from kdtool._contract.kinds import Annotator as Annotator
    from kdtool._contract.kinds import Cache as Cache
    from kdtool._contract.kinds import Corpus as Corpus
    from kdtool._contract.kinds import Evaluator as Evaluator
    from kdtool._contract.kinds import Exporter as Exporter
    from kdtool._contract.kinds import Hooks as Hooks
    from kdtool._contract.kinds import Loss as Loss
    from kdtool._contract.kinds import Packer as Packer
    from kdtool._contract.kinds import Reporter as Reporter
    from kdtool._contract.kinds import Screen as Screen
    from kdtool._contract.kinds import Student as Student
    from kdtool._contract.kinds import Teacher as Teacher
    from kdtool._contract.kinds import Tracker as Tracker
    from kdtool._contract.kinds import Trainer as Trainer
    from kdtool._contract.kinds import Transform as Transform
    from kdtool._contract.kinds import Weighting as Weighting
    from kdtool._contract.models import Ability as Ability
    from kdtool._contract.models import Artifact as Artifact
    from kdtool._contract.models import LanguageModel as LanguageModel
    from kdtool._contract.models import LiveSubject as LiveSubject
    from kdtool._contract.models import ModelFacts as ModelFacts
    from kdtool._contract.models import Request as Request
    from kdtool._contract.models import Role as Role
    from kdtool._contract.models import Runtime as Runtime
    from kdtool._contract.models import Score as Score
    from kdtool._contract.models import Subject as Subject
    from kdtool._contract.models import TextAnswer as TextAnswer
    from kdtool._contract.models import Tokenizer as Tokenizer
    from kdtool._licences import Licensed as Licensed
    from kdtool._licences import published_name as published_name
    from kdtool._estimate.gpus import Gpu as Gpu
    from kdtool._estimate.gpus import assumed_gpu as assumed_gpu
    from kdtool._estimate.records import Estimate as Estimate
    from kdtool._estimate.records import PhaseAhead as PhaseAhead
    from kdtool._estimate.records import Prospect as Prospect
    from kdtool._estimate.records import Saving as Saving
    from kdtool._estimate.records import SignalsAhead as SignalsAhead
    from kdtool._estimate.other_work import OtherWork as OtherWork
    from kdtool._estimate.other_work import busy_cores as busy_cores
    from kdtool._estimate.other_work import is_busy as is_busy
    from kdtool._estimate.other_work import wait_passively as wait_passively
    from kdtool._opening import open_subject as open_subject
    from kdtool._alignment import meeting_points as meeting_points
    from kdtool._bodies import parts_of as parts_of
    from kdtool._layers import pair_layers as pair_layers
    from kdtool._syntax_classes import SYNTAX_CLASSES as SYNTAX_CLASSES
    from kdtool._vocabulary import Vocabularies as Vocabularies
    from kdtool._vocabulary import compare_vocabularies as compare_vocabularies
    from kdtool._run.plan import PlannedSignals as PlannedSignals
    from kdtool._run.plan import PlannedStage as PlannedStage
    from kdtool._sweep import sweep as sweep
    from kdtool._sweep.points import SweepPoint as SweepPoint
    from kdtool._sweep.record import SweepResults as SweepResults
    from kdtool._sweep.table import SweepCell as SweepCell
    from kdtool._sweep.table import SweepRow as SweepRow
    from kdtool._sweep.table import SweepTable as SweepTable
    from kdtool._run.arm_interval import interval_of as interval_of
    from kdtool._run.results import ArmResult as ArmResult
    from kdtool._run.results import Comparison as Comparison
    from kdtool._run.results import ComponentRecord as ComponentRecord
    from kdtool._contract.models import Measurement as Measurement
    from kdtool._run.results import Requirement as Requirement
    from kdtool._run.results import Results as Results
    from kdtool._run.results import StageRecord as StageRecord
    from kdtool._contract.signals import DenseTokens as DenseTokens
    from kdtool._contract.signals import Head as Head
    from kdtool._contract.signals import LazyLogits as LazyLogits
    from kdtool._contract.signals import ModelOutputs as ModelOutputs
    from kdtool._contract.signals import Offer as Offer
    from kdtool._contract.signals import PerSequence as PerSequence
    from kdtool._contract.signals import PerToken as PerToken
    from kdtool._contract.signals import Projections as Projections
    from kdtool._contract.signals import Signal as Signal
    from kdtool._contract.signals import SparseTokens as SparseTokens
    from kdtool._contract.signals import StepView as StepView
    from kdtool._contract.signals import TokenChunk as TokenChunk
    from kdtool._contract.signals import Want as Want
    from kdtool._contract.text import Batch as Batch
    from kdtool._contract.text import Completion as Completion
    from kdtool._contract.text import Example as Example
    from kdtool._contract.text import Messages as Messages
    from kdtool._contract.text import Preference as Preference
    from kdtool._contract.text import Rejection as Rejection
    from kdtool._contract.text import Row as Row
    from kdtool._contract.text import RowSource as RowSource
    from kdtool._contract.text import Split as Split
    from kdtool._contract.text import Text as Text
    from kdtool._contract.text import TextSource as TextSource
    from kdtool._contract.training import Phase as Phase
    from kdtool._contract.training import RunInfo as RunInfo
    from kdtool._contract.training import Schedule as Schedule
    from kdtool._contract.training import SignalSource as SignalSource
    from kdtool._contract.training import StepReport as StepReport
    from kdtool._contract.training import Term as Term
    from kdtool._contract.training import TermReport as TermReport
    from kdtool._contract.training import Terms as Terms
    from kdtool._contract.training import Trained as Trained
    from kdtool._contract.training import Transfer as Transfer
    from kdtool._eval import evaluate as evaluate
    from kdtool._errors import AuthenticationError as AuthenticationError
    from kdtool._errors import BudgetError as BudgetError
    from kdtool._errors import KdtoolError as KdtoolError
    from kdtool._errors import LockedError as LockedError
    from kdtool._errors import MemoryExceededError as MemoryExceededError
    from kdtool._errors import PluginError as PluginError
    from kdtool._errors import Problem as Problem
    from kdtool._errors import RecipeError as RecipeError
    from kdtool._errors import SandboxError as SandboxError
    from kdtool._errors import ServiceError as ServiceError
    from kdtool._errors import StorageError as StorageError
    from kdtool._errors import TargetMissedError as TargetMissedError
    from kdtool._errors import UsageError as UsageError

_HOMES = {
    "pydantic": ("Field",),
    "kdtool._api": ("check", "plan", "report", "run"),
    "kdtool._run.committed": ("commit", "discard_uncommitted", "seal_line", "uncommit", "unseal_line"),
    "kdtool._compare": ("Compared", "ComparedRow", "compare"),
    "kdtool._compatibility": ("CONTRACT",),
    "kdtool._contract.component": ("Component", "Config", "does_not_affect_results"),
    "kdtool._contract.hooks": ("Named",),
    "kdtool._owner": ("Owner", "blame"),
    "kdtool._contract.kinds": (
        "Annotator", "Cache", "Corpus", "Evaluator", "Exporter", "Hooks", "Loss", "Packer", "Reporter", "Screen", "Student",
        "Teacher", "Tracker", "Trainer", "Transform", "Weighting",
    ),
    "kdtool._contract.models": (
        "Measurement",
        "Ability", "Artifact", "LanguageModel", "LiveSubject", "ModelFacts", "Request", "Role", "Runtime", "Score",
        "Subject", "TextAnswer", "Tokenizer",
    ),
    "kdtool._licences": ("Licensed", "published_name"),
    "kdtool._eval": ("evaluate",),
    "kdtool._estimate.gpus": ("Gpu", "assumed_gpu"),
    "kdtool._estimate.records": ("Estimate", "PhaseAhead", "Prospect", "Saving", "SignalsAhead"),
    "kdtool._estimate.other_work": ("OtherWork", "busy_cores", "is_busy", "wait_passively"),
    "kdtool._opening": ("open_subject",),
    "kdtool._alignment": ("meeting_points",),
    "kdtool._bodies": ("parts_of",),
    "kdtool._layers": ("pair_layers",),
    "kdtool._syntax_classes": ("SYNTAX_CLASSES",),
    "kdtool._vocabulary": ("Vocabularies", "compare_vocabularies"),
    "kdtool._run.arm_interval": ("interval_of",),
    "kdtool._run.plan": ("PlannedSignals", "PlannedStage"),
    "kdtool._sweep": ("sweep",),
    "kdtool._sweep.points": ("SweepPoint",),
    "kdtool._sweep.record": ("SweepResults",),
    "kdtool._sweep.table": ("SweepCell", "SweepRow", "SweepTable"),
    "kdtool._run.results": (
        "ArmResult", "Comparison", "ComponentRecord", "Requirement", "Results", "StageRecord",
    ),
    "kdtool._contract.signals": (
        "DenseTokens", "Head", "LazyLogits", "ModelOutputs", "Offer", "PerSequence", "PerToken", "Projections", "Signal",
        "SparseTokens", "StepView", "TokenChunk", "Want",
    ),
    "kdtool._contract.text": (
        "Batch", "Completion", "Example", "Messages", "Preference", "Rejection", "Row", "RowSource", "Split", "Text",
        "TextSource",
    ),
    "kdtool._contract.training": (
        "Phase", "RunInfo", "Schedule", "SignalSource", "StepReport", "Term", "TermReport",
        "Terms", "Trained", "Transfer",
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
