"""The public names that run, check, measure and compare, and services of the engine for plugins."""

from kdtool._api import load as load
from kdtool._api import plan as plan
from kdtool._api import run as run
from kdtool._api import runs as runs
from kdtool._contract.run_info import Gpu as Gpu
from kdtool._estimate.check import check as check
from kdtool._evaluate import Models as Models
from kdtool._evaluate import evaluate as evaluate
from kdtool._evaluate import open_models as open_models
from kdtool._results.runs import compare as compare
from kdtool._run.answers import open_answers as open_answers
from kdtool._run.context import open_subject as open_subject
from kdtool._run.plan import PlannedStage as PlannedStage
from kdtool._run.plan import RecordedSignals as RecordedSignals
from kdtool._statistics import interval_of as interval_of
from kdtool._store.files import commit as commit
from kdtool._store.files import seal_line as seal_line
from kdtool._store.files import unseal_line as unseal_line
from kdtool._tokenizers import Vocabularies as Vocabularies
