"""The kinds of plugin: one base class each, whose methods declare the kind's hooks, and `Hooks`, the list of them all.

A hook's docstring is its contract: when it is called, by whom and how often, on which rank, shapes and units, whether
gradients flow, what the result means, and what an exception does. Unless it says otherwise, an exception stops the stage
with a note that names the component; finished artefacts are kept. A method may take fewer arguments than declared,
never others. A declaration has no body: a hook that is not implemented answers None. Whatever depends on chance is drawn
from `run.seed`, never from the generators that a process shares (but for `kdtool_modules`, before which the trainer seeds
torch). The suites of `kdtool.testing` hold components to this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdtool._contract.component import Component
from kdtool._contract.hooks import HooksBase, every, notify, one, tell

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    import kdtool


class Corpus(Component):
    """Examples: text, prompt with completion, or messages, each with its split, language, licence and source."""

    kind = "corpus"

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example] | None:
        """Yield the corpus's examples, the same ones in the same order for the same config and identity.

        Called once when the text artefact is made, on rank 0. Ids are unique, and no example is empty; the split of an
        example never depends on the others that are there. Several iterators may be read in turns. Whoever it asks by
        `run.hook` is named in `takes`; what it commits below `run.folder` (`kdtool.commit`) is there again after the process
        was killed. Since 0.1.
        """


class Screen(Component):
    """Keeps or rejects examples."""

    kind = "screen"

    def kdtool_screen(self, examples: Sequence[kdtool.Example]) -> Sequence[kdtool.Rejection | None] | None:
        """Judge a batch of examples: one entry each, None to keep it.

        Called batch by batch (some hundred) in the order of the recipe, on rank 0; survivors go on to the next screen. A
        judgement may depend on the examples before (near-duplicates), never on where batches begin. Since 0.1.
        """


class Annotator(Component):
    """Says of every character of a text what it is: the numbers that packers carry to tokens as `Row.columns`."""

    kind = "annotator"

    def kdtool_annotate(self, example: kdtool.Example) -> Mapping[str, Sequence[int]] | None:
        """Return for each of `columns` one whole number from 0 a character of the example's text; 0 where nothing is known.

        The text is all parts of the body one behind the other, without anything between (`kdtool.parts_of`). Called once an
        example for each tokenizer, when rows are made, on rank 0, on examples that the screens kept. An answer depends on
        its example alone, whatever that holds. Since 0.1.
        """


class Packer(Component):
    """Turns examples into rows of tokens for one tokenizer."""

    kind = "packer"
    row_length: int = 0
    """Tokens in a row, 0 where it is not known beforehand; may depend on the config."""
    carries_annotations: bool = False
    """Whether it gives `Example.annotations` to its tokens, as columns of the rows; if not, annotators are refused."""

    def kdtool_rows(
        self, run: kdtool.RunInfo, examples: Iterable[kdtool.Example], tokenizer: kdtool.Tokenizer
    ) -> Iterator[kdtool.Row] | None:
        """Yield rows of equal length.

        Called once for each tokenizer when the rows artefact is made, on rank 0. `examples` are of one split and may be
        endless: rows come as soon as they are full. Row keys are unique and depend on the content, not on the machine.
        Called with no examples before a run makes anything, so that a tokenizer that does not suit is refused. Since 0.1.
        """


class Teacher(Component):
    """A model to learn from."""

    kind = "teacher"
    offers: frozenset[kdtool.Offer] = frozenset()
    """What `kdtool_signal` and `kdtool_answer` can give; may depend on the config."""
    speaks_as: Mapping[str, str] | None = None
    """What its answers follow from besides the request, such as the name of a server's model; may depend on the config.

    Answers are kept by it: with other settings or code, but the same `speaks_as`, nothing is asked again. None: they follow
    from all its settings, its code and `kdtool_identity`. Since 0.1.
    """

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer | None:
        """Return the tokenizer, without loading weights. Called often, and before any other hook of a model: keep it.

        Since 0.1.
        """

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.Want) -> kdtool.Signal | None:
        """Tell what is wanted about a batch, and nothing else, without gradient, on the batch's device.

        Called for every micro-batch while signals are taken or, without a cache, while training; every rank calls its
        own. Weights load at the first call and stay until `kdtool_close`. What a row is told depends on that row alone, up
        to rounding, and the same batch is told the same again; documents of a row do not see each other. Tensors are
        ordinary ones, not of inference mode: losses keep them for backward. Since 0.1.
        """

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer] | None:
        """Answer prompts in any order; answers carry the request's id. On rank 0.

        An answer ends before the first of the request's stops. At temperature 0 the same prompt gets the same answer,
        whatever is asked beside it. Since 0.1.
        """

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        """Open the teacher itself (role "teacher") for measurement or as the source of a student; None for others.

        Callers go through `kdtool.open_subject`, which asks a teacher by its name. On rank 0; the caller closes the
        runtime. Since 0.1.
        """

    def kdtool_trainable(self, run: kdtool.RunInfo) -> kdtool.Runtime | None:
        """Open a copy of the model that it speaks with, to be trained: the teacher itself stays as it is.

        Its parameters learn (a trainer holds those of half precision in float32), and its facts are those described. Called
        when a phase `trains` this teacher, on every rank; the caller closes the runtime. Together with `kdtool_adapted`, or
        neither. Since 0.1.
        """

    def kdtool_adapted(self, run: kdtool.RunInfo, folder: Path | None) -> None:
        """Speak from now on with the model in `folder`, as `LanguageModel.save` left it; None: with the teacher's own.

        Signals, answers, `kdtool_open`, `kdtool_trainable` and `kdtool_identity` are then that model's; tokenizer, settings
        such as precision, and shapes stay. Called between stages, also several times, on every rank. Nothing needs to load
        before it is asked for. Since 0.1.
        """


class Cache(Component):
    """Records a teacher's signals and recalls them row by row."""

    kind = "cache"
    offers: frozenset[kdtool.Offer] = frozenset()
    """What `kdtool_recall` gives; may depend on the config."""
    every_rank_records: bool = False
    """Whether `kdtool_record` is called on every rank, each with a copy of the teacher, or on rank 0 alone."""

    def kdtool_wanted(self, want: kdtool.Want, offers: frozenset[kdtool.Offer]) -> kdtool.Want | None:
        """Return what to record, so that `want`, the need of all the losses, can be met by a teacher that `offers` this.

        A teacher that does not offer what is returned is refused. Since 0.1.
        """

    def kdtool_record(
        self, run: kdtool.RunInfo, rows: kdtool.RowSource, source: kdtool.SignalSource, folder: Path
    ) -> int | None:
        """Take the teacher's signals of all rows, write them below `folder`, and return the number of rows.

        Called once when the signals artefact is made, on rank 0. A teacher computes where the batch is that it is asked
        about, so batches belong where students train. A killed process finds in `folder` the files that it committed
        (`kdtool.commit`) and goes on from them. Report progress by `run.hook.kdtool_progress`. With `every_rank_records`
        each rank of `run.world` writes a part, rank 0 returns when all is there, and nobody writes after that. Since 0.1.
        """

    def kdtool_recall(self, batch: kdtool.Batch, want: kdtool.Want, folder: Path) -> kdtool.Signal | None:
        """Return the signal of a batch from `folder`, found by row key, on the batch's device.

        Called for every micro-batch, on every rank, read-only. A row that is not there is an error. Since 0.1.
        """


class Student(Component):
    """The model that learns, as it is before training."""

    kind = "student"
    uses_seed: bool = True
    """Whether `kdtool_build_student` depends on `run.seed`; if not, all seeds share one build."""

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer | None:
        """Return the tokenizer, without loading weights. Since 0.1."""

    def kdtool_outline(self, run: kdtool.RunInfo) -> kdtool.LanguageModel | None:
        """Give the student as it will be built, with weights that have shapes and no values or memory.

        Its backbone cannot be run; `facts` are those of the student. Called for `kdtool check`, anew for each phase. In
        PyTorch such weights are on the device "meta". Since 0.1.
        """

    def kdtool_build_student(self, run: kdtool.RunInfo) -> kdtool.LanguageModel | None:
        """Build the untrained student, as `kdtool_describe` said it would be.

        Called once a seed (or once, see `uses_seed`), on rank 0, and saved: it opens again with the same logits. Since 0.1.
        """

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        """Open a saved student (its folder in `subject.path`) for training or measurement; None for what it is not.

        On every rank; the caller closes the runtime. Since 0.1.
        """


class Transform(Component):
    """Changes a student at a phase's start and finishes at its end: adapters, quantisation-aware training, compile."""

    kind = "transform"
    saves_memory: kdtool.Saving | None = None
    """Its settings and what they cost, where `kdtool check` may propose it for a run that does not fit."""

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> kdtool.LanguageModel | None:
        """Change the student before a phase; in the order of the recipe, each gets the result of the one before.

        None leaves it as it is. A killed phase does this anew and then reads its checkpoint: the parameters' names and
        shapes are the same each time. What stays as it is has `requires_grad` off. On every rank. Since 0.1.
        """

    def kdtool_outlined(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> kdtool.LanguageModel | None:
        """Do to the outline of a student what `kdtool_transform` does to a student: freeze, add, switch on.

        Called for `kdtool check`. None where nothing changes of shapes, of what learns, or of what is kept for backward.
        Since 0.1.
        """

    def kdtool_finish(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> kdtool.LanguageModel | None:
        """Finish after the phase (merge adapters, convert), in reverse order. None leaves it as it is.

        The result can be saved, knows what was learnt, and learns again in a next phase what learnt before. Since 0.1.
        """


class Loss(Component):
    """One term of the training objective. Implement `kdtool_token_loss` or `kdtool_sequence_loss`, not both."""

    kind = "loss"
    needs: tuple[frozenset[kdtool.Offer], ...] = ()
    """What it needs of a teacher: alternatives, best first; () for a loss that needs none. May depend on the config."""
    softened: Literal[0, 1, 2] = 0
    """With which power of its temperature T its gradient shrinks, which the engine makes up for by the factor T^softened: 2
    for a loss that is quadratic in small differences of softened distributions, such as the KLs, 1 for one that is linear in
    them, such as total variation, 0 for one that compares no softened distributions."""
    temperature: float = 1.0
    """The temperature it works at, handed back in `TokenChunk.temperature`. May depend on the config."""
    divergence: bool = False
    """Whether it is zero, with zero gradient, when student and teacher agree, and the two passes; tested before training."""
    passes: Literal[1, 2] = 1
    """2 for a loss that compares two passes of the student over the same rows, each with dropout of its own. Other losses
    see the first; a student without dropout is refused. May depend on the config."""
    same_vocabulary: bool = True
    """Whether it needs a teacher that reads the student's own tokens: the same ones, or a vocabulary that begins with them
    or that they begin with. If not, a teacher with other tokens is told about the same texts in its own, and `StepView` says
    how they lie beside the student's; a sequence loss alone can do with that. May depend on the config."""
    own_text: bool = False
    """Whether it must know which tokens the student wrote itself: by the column `own`, 1 for these and 0 for the corpus's,
    which a trainer gives that learns on both. Others are refused. May depend on the config."""

    corpus_only: bool = False
    """True if it learns from rows of the corpus alone, such as pairs of answers that a packer marks. A phase whose trainer
    also learns on text that the student writes refuses it. May depend on the config."""

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor | None:
        """Return one value for each of the chunk's C positions, shape [C], float32.

        Called for every chunk of every step, on every rank, perhaps compiled. Gradients are taken with respect to the
        chunk's logits alone, of both passes where it asks for two: no parameters, no state, nothing changed in place. The
        engine weighs, masks, sums and divides. A wrong shape or a value that is not finite stops the run. Since 0.1.
        """

    def kdtool_token_gradient(self, chunk: kdtool.TokenChunk) -> tuple[Tensor, Tensor] | None:
        """Return what `kdtool_token_loss` returns, and each value's gradient by its own row of logits, [C, V]: for speed.

        Called in its place for any chunk of a step, on every rank, nothing recorded for autograd, where losses are not
        compiled. Both are float32 (float64 of float64 logits); the engine weighs them. The gradient is memory of its own,
        which the caller may change; the chunk stays as it is. None: autograd is to find it, as where this hook is not
        there. A loss of two passes is not asked. Compared with autograd before training. Since 0.1.
        """

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerToken | kdtool.PerSequence | None:
        """Return one value a labelled position or one a row, with gradient through `view.student` and `view.second`.

        Called once a micro-batch, on every rank. Since 0.1.
        """

    def kdtool_layers(self, student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> Sequence[tuple[int, int]] | None:
        """Pair (student layer, teacher layer) that are compared inside, in what `needs` names; layers count from 0.

        Called before signals are taken. The loss finds the pairs in `StepView.layers`. None asks for nothing inside.
        Since 0.1.
        """

    def kdtool_modules(self, student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> Module | None:
        """Return a module that trains along (projectors); the trainer optimises, checkpoints and drops it.

        The loss finds it in `StepView.module`: nothing is kept here. Called once a phase, on every rank, after the trainer
        has seeded torch's generator with `run.seed`, and for `kdtool check` on the device "meta". Since 0.1.
        """


class Weighting(Component):
    """Weighs tokens, or balances terms."""

    kind = "weighting"
    needs: tuple[frozenset[kdtool.Offer], ...] = ()
    """What it must see of the teacher to weigh tokens: alternatives; () for one that serves any. It sees what the phase's
    first token loss that has a teacher learns from; compared before anything is made. May depend on the config."""
    terms: frozenset[str] = frozenset()
    """Losses that its settings name, as the recipe does: a phase without one of them is refused. The control may be."""
    gradient_norms: bool = False
    """True if `kdtool_balance` uses the terms' gradient norms, which cost time at every step; else it gets none. May depend
    on the config."""

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor | None:
        """Return a weight for each position, shape [C], finite, not negative, without gradient, in any unit.

        Called for every chunk, perhaps compiled: a weight depends on its own position alone, and nothing is kept or changed
        in place. Several weightings are multiplied, and the trainer divides by the mean of the products, so a loss weighs as
        much as it does without. Since 0.1.
        """

    def kdtool_balance(self, terms: Mapping[str, kdtool.TermReport], step: int) -> Mapping[str, float] | None:
        """Return the factor (from 0) of each term's weight for the coming step, from the last step's figures.

        Terms go by their components' names; one that is left out keeps its weight. A term that saw no token at the last
        step is not among `terms`; it may have a factor. Called before every step but the first, on every rank with the same
        figures. Factors of several weightings are multiplied. What is kept from call to call
        belongs into `kdtool_state`. Since 0.1.
        """


class Trainer(Component):
    """Trains one phase."""

    kind = "trainer"
    own_text: str = ""
    """The setting by which it learns also on text that the student writes as it learns, None in the config while it does
    not; "" where there is none. Signals of such text cannot be recorded, so teachers are asked beside the student, and read
    its tokens. Losses that learn from labels alone get none of it."""
    validators: Sequence[str] = ()
    """Evaluators of the recipe that it asks while it trains, by their short names, such as `perplexity`; may depend on the
    config. They must be there, and what a phase leaves depends on them."""

    def kdtool_train(
        self, run: kdtool.RunInfo, phase: kdtool.Phase, student: kdtool.LanguageModel
    ) -> kdtool.Trained | None:
        """Train the student in place for `phase.steps` steps, resuming from `phase.checkpoints`; on every rank.

        There it finds what was committed (`kdtool.commit`) before the process was killed, as it was, and nothing else.

        A phase that was killed at any time ends with the same weights, bit for bit on the same machine, and the same
        history: a checkpoint holds also what `kdtool_state` of the phase's components gives. Logged steps go to
        `kdtool_step_end`, `kdtool_progress` and the history; whole checkpoints to `kdtool_checkpoint`. A loss that breaks
        its contract is a `PluginError` that names it. Parameters with `requires_grad` off stay. Since 0.1.
        """


class Evaluator(Component):
    """Measures subjects."""

    kind = "evaluator"
    together: bool = False
    """Whether all subjects must be measured in one call (timings are interleaved); else one call a subject."""
    reads_text: bool = True
    """True if `kdtool_evaluate` reads `run.texts`; if not, other text measures nothing again, and there is none to read."""
    asks: Sequence[str] = ()
    """Teachers that it asks besides the subjects, such as a judge, by their names in the recipe (`teacher`,
    `teachers.NAME`); may depend on the config. Scores depend on them. Others cannot be asked."""

    def kdtool_measurable(self, run: kdtool.RunInfo) -> None:
        """Refuse what leaves nothing to measure on, `run.texts` and files. On rank 0, when the text is there.

        That is before anything is trained, but for a teacher that the text comes from. Raises the UsageErrors that
        `kdtool_evaluate` would raise: those of all evaluators are shown at once. Cheap beside measuring; nothing is written,
        and subjects are not there yet. Since 0.1.
        """

    def kdtool_evaluate(
        self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]
    ) -> Iterator[kdtool.Measurement] | None:
        """Yield measurements of the subjects; open them by `kdtool.open_subject(run, subject)`. On rank 0.

        One measurement of a name for each subject, with the same items in the same settings, so that subjects can be
        compared. What cannot be measured is left out and said by `run.say`. Items are files below `run.folder`. Since 0.1.
        """

    def kdtool_problems(self, run: kdtool.RunInfo) -> Sequence[kdtool.Example] | None:
        """Return the benchmark's problems, all of them however few are asked: prompts with reference solutions.

        Called by components that compare text with benchmarks, also for their `kdtool_identity`: cheap, no weights are
        loaded. Ids are unique, no problem is empty, and it is the same ones each time. None for who has no problems.
        Since 0.1.
        """


class Exporter(Component):
    """Writes a trained student in a format, and opens what it wrote."""

    kind = "exporter"

    def kdtool_exportable(self, run: kdtool.RunInfo, untrained: Path) -> None:
        """Refuse the student in folder `untrained`, of which nothing could be written once it is trained. On rank 0.

        Raises the UsageErrors that `kdtool_export` would raise: those of all exporters are shown at once. Cheap: of the
        model only its configuration and tokenizer are looked at. Since 0.1.
        """

    def kdtool_export(self, run: kdtool.RunInfo, trained: Path) -> kdtool.Artifact | None:
        """Write the student in folder `trained` (as `LanguageModel.save` left it) below `run.folder`. On rank 0.

        The artefact is a file or folder of its own there; the engine moves it, so nothing in it names its place. The same
        student gives the same files. `trained` stays as it is. Since 0.1.
        """

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        """Open what this exporter wrote (role "artifact"), wherever it lies now; None for others. Since 0.1."""


class Tracker(Component):
    """Hears what happens. A tracker that raises is reported once and disabled for the rest of the run.

    Any hook may be the first that is called, numbers may be infinite or not numbers, and texts may hold anything. A run that
    was killed begins again with `kdtool_run_start`, in the same folder.
    """

    kind = "tracker"
    shows_messages: bool = False
    """True if it shows the user each line that `kdtool_said` gets, at once. Where no tracker does, kdtool prints the lines
    to standard error."""

    def kdtool_run_start(self, run: kdtool.RunInfo) -> None:
        """The run begins. Once, on rank 0. Since 0.1."""

    def kdtool_stage_start(self, run: kdtool.RunInfo, total: int | None, unit: str) -> None:
        """A stage (`run.stage`, `run.arm`, `run.seed`) begins; `total` units are to be done, None if unknown. Since 0.1."""

    def kdtool_progress(self, run: kdtool.RunInfo, done: int) -> None:
        """So many units of the stage are done. At most some ten times a second. Since 0.1."""

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        """A training step was logged. On rank 0. Since 0.1."""

    def kdtool_measured(self, run: kdtool.RunInfo, measurement: kdtool.Measurement) -> None:
        """A measurement was made. Since 0.1."""

    def kdtool_checkpoint(self, run: kdtool.RunInfo, path: Path, step: int) -> None:
        """A checkpoint is complete on disk. Since 0.1."""

    def kdtool_said(self, run: kdtool.RunInfo, text: str) -> None:
        """A component, or kdtool, has a line for the user; see `shows_messages`. Since 0.1."""

    def kdtool_stage_end(self, run: kdtool.RunInfo, seconds: float, reused: bool) -> None:
        """A stage ended; `reused` says that its artefact was there already, and then no start was told. Since 0.1."""

    def kdtool_run_end(
        self, run: kdtool.RunInfo, status: Literal["done", "failed", "interrupted"], report: Path | None
    ) -> None:
        """The run ended. Since 0.1."""


class Reporter(Component):
    """Writes what people read."""

    kind = "reporter"

    def kdtool_report(self, run: kdtool.RunInfo, results: kdtool.Results) -> Path | None:
        """Write the report, one file below `run.folder` that needs no other, and return its path.

        Once at the end, on rank 0, also of a run that failed: any part of `results` may be empty. All text in it is text,
        whatever it holds. The same results give the same file, in the same place. Since 0.1.
        """


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


KINDS: Mapping[str, type[Component]] = {cls.kind: cls for cls in Component.__subclasses__()}
"""The base class of each kind, by the kind's name."""
