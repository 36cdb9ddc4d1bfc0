"""Every hook with its calling style."""

from __future__ import annotations

from kdtool._contract.component import Component
from kdtool._contract.corpus import Annotator, Corpus, Packer, Screen
from kdtool._contract.evaluation import Evaluator, Exporter
from kdtool._contract.loss import Loss, Weighting
from kdtool._contract.reporting import Reporter, Tracker
from kdtool._contract.student import Student, Transform
from kdtool._contract.teacher import Cache, Teacher
from kdtool._contract.trainer import Trainer
from kdtool._plugins.hooks import HooksBase, every, notify, one, tell


class Hooks(HooksBase):
    """Every hook with its calling style; `run.hook` is an instance bound to the components of one phase of one arm.

    `every` asks all and returns answers by component name; `.of(name)` asks one. `one` returns the first answer that is
    not None with the name of who gave it. `tell` calls all, and an exception reaches the caller. `notify` calls all, and one
    that raises is disabled for the rest of the run, unless the recipe says that it is required.
    """

    kdtool_identity = every(Component.kdtool_identity)
    kdtool_describe = every(Component.kdtool_describe)
    kdtool_estimate = every(Component.kdtool_estimate)
    kdtool_acknowledge = every(Component.kdtool_acknowledge)
    kdtool_missing = every(Component.kdtool_missing)
    kdtool_state = every(Component.kdtool_state)
    kdtool_restore = tell(Component.kdtool_restore)
    kdtool_close = tell(Component.kdtool_close)
    kdtool_examples = every(Corpus.kdtool_examples)
    kdtool_screen = every(Screen.kdtool_screen)
    kdtool_annotate = every(Annotator.kdtool_annotate)
    kdtool_rows = every(Packer.kdtool_rows)
    kdtool_tokenizer = every(Teacher.kdtool_tokenizer)
    kdtool_signal = every(Teacher.kdtool_signal)
    kdtool_answer = every(Teacher.kdtool_answer)
    kdtool_open = one(Teacher.kdtool_open)
    kdtool_trainable = every(Teacher.kdtool_trainable)
    kdtool_adapted = tell(Teacher.kdtool_adapted)
    kdtool_wanted = every(Cache.kdtool_wanted)
    kdtool_record = every(Cache.kdtool_record)
    kdtool_recall = every(Cache.kdtool_recall)
    kdtool_outline = every(Student.kdtool_outline)
    kdtool_outlined = every(Transform.kdtool_outlined)
    kdtool_build_student = every(Student.kdtool_build_student)
    kdtool_transform = every(Transform.kdtool_transform)
    kdtool_finish = every(Transform.kdtool_finish)
    kdtool_token_loss = every(Loss.kdtool_token_loss)
    kdtool_token_gradient = every(Loss.kdtool_token_gradient)
    kdtool_sequence_loss = every(Loss.kdtool_sequence_loss)
    kdtool_layers = every(Loss.kdtool_layers)
    kdtool_modules = every(Loss.kdtool_modules)
    kdtool_token_weight = every(Weighting.kdtool_token_weight)
    kdtool_balance = every(Weighting.kdtool_balance)
    kdtool_train = every(Trainer.kdtool_train)
    kdtool_measurable = tell(Evaluator.kdtool_measurable)
    kdtool_evaluate = every(Evaluator.kdtool_evaluate)
    kdtool_problems = every(Evaluator.kdtool_problems)
    kdtool_exportable = tell(Exporter.kdtool_exportable)
    kdtool_export = every(Exporter.kdtool_export)
    kdtool_run_start = notify(Tracker.kdtool_run_start)
    kdtool_stage_start = notify(Tracker.kdtool_stage_start)
    kdtool_progress = notify(Tracker.kdtool_progress)
    kdtool_step_end = notify(Tracker.kdtool_step_end)
    kdtool_measured = notify(Tracker.kdtool_measured)
    kdtool_checkpoint = notify(Tracker.kdtool_checkpoint)
    kdtool_said = notify(Tracker.kdtool_said)
    kdtool_stage_end = notify(Tracker.kdtool_stage_end)
    kdtool_run_end = notify(Tracker.kdtool_run_end)
    kdtool_report = every(Reporter.kdtool_report)
