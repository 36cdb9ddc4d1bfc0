"""The public names that run, check, measure and compare, and services of the engine for plugins."""

from kdtool._api import load as load
from kdtool._api import plan as plan
from kdtool._api import run as run
from kdtool._api import runs as runs
from kdtool._estimate.check import check as check
from kdtool._estimate.gpus import Gpu as Gpu
from kdtool._evaluate.evaluate import evaluate as evaluate
from kdtool._evaluate.open_models import Models as Models
from kdtool._evaluate.open_models import open_models as open_models
from kdtool._results.compare_runs import compare as compare
from kdtool._run.answer_cache import open_answers as open_answers
from kdtool._run.open_subject import open_subject as open_subject
from kdtool._run.plan import PlannedStage as PlannedStage
from kdtool._run.plan import RecordedSignals as RecordedSignals
from kdtool._statistics.arm_interval import interval_of as interval_of
from kdtool._store.committed import commit as commit
from kdtool._store.committed import seal_line as seal_line
from kdtool._store.committed import unseal_line as unseal_line
from kdtool._tokenizers.vocabulary import Vocabularies as Vocabularies
