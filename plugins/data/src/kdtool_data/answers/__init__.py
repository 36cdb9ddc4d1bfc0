"""The corpus `answers`: teachers' answers to prompts, as text to learn from.

If several teachers answer, the id of a prompt determines its teacher. Every answer is stored as soon as it arrives, so
a run that resumes after a kill asks nothing twice. The corpus `self`, in which the untrained student answers, is
`SelfSamples`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import kdtool
import pydantic
from kdtool_measuring import Account, Journal, ask_teacher, kept_answers, priced_teacher, refusal_remedy, seed_of

from kdtool_data.answers.prompts import Prompt, Replies, digest, from_corpus, from_files
from kdtool_data.answers.self_samples import SelfSamples

__all__ = ["Answers", "SelfSamples"]
_Name = Annotated[str, kdtool.Field(min_length=1)]
_Share = Annotated[float, kdtool.Field(gt=0, le=1e6)]


class AnswersConfig(kdtool.Config):
    """Settings of `answers`."""

    ask: _Name | Annotated[dict[_Name, _Share], kdtool.Field(min_length=1)] = "teacher"
    """The teacher that answers, by its name in the recipe: `teacher`, or `teachers.NAME`. Or several, with their shares
    of the prompts: {teachers.big: 0.8, teachers.small: 0.2}. A prompt's id selects its teacher."""
    prompts: tuple[kdtool.RecipePath, ...] = ()
    """JSON Lines files with a `prompt` in each line, and optionally an `id`, `language` and `licence`."""
    corpus: str | None = kdtool.Field(default=None, min_length=1)
    """Take the prompts from the training examples of this corpus of the recipe (`corpora.NAME`) instead; the teacher's
    answers replace their original text. Validation and test examples are used unchanged."""
    prefix_lines: int = kdtool.Field(default=16, ge=1, le=10_000)
    """Number of first lines of a plain text that form the prompt. Examples with a completion already have a prompt."""
    limit: int | None = kdtool.Field(default=None, ge=1)
    """Use only the first N prompts; null uses all."""
    form: Literal["base", "chat", "text"] | None = None
    """`base`: the teacher continues the prompt, and its answer is learned as it is. `chat`: the prompt is a request for code
    in a chat, and the code of the reply is learned; replies without code that completes the prompt are left out. `text`: the
    prompt is a message, and the whole reply is learned. null: `base` for teachers that continue a prompt; for others `chat`
    if the prompt has a programming language, else `text`."""
    max_tokens: int = kdtool.Field(default=512, ge=1, le=1_048_576)
    """Maximum tokens per answer."""
    temperature: float = kdtool.Field(default=0.0, ge=0, le=10)
    """0 takes the likeliest token each time; above 0 answers are sampled, each with its own seed."""
    stop: tuple[str, ...] = ()
    """Texts before which an answer ends, such as a blank line before the next function."""
    keep_truncated: bool = False
    """Keep answers that `max_tokens` cut off. The student then learns to stop at the cut."""

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> AnswersConfig:
        if bool(self.prompts) == (self.corpus is not None):
            raise ValueError("give either prompts (files) or corpus (another corpus of the recipe)")
        if len({path.name for path in self.prompts}) < len(self.prompts):
            raise ValueError("two files have the same name, and the run records files by name; rename one")
        if "" in self.stop:
            raise ValueError("`stop` must not contain empty text")
        return self

    @property
    def shares(self) -> Mapping[str, float]:
        """Teachers by name, with their shares of the prompts."""
        return {self.ask: 1.0} if isinstance(self.ask, str) else self.ask


FOLDER = "answers"
"""Subfolder for answers, in the folder of the text that contains them."""
_REFUSED = "refused"
_EMPTY = "empty"
_NO_CODE = "without code that completes the prompt"
_Answered = Mapping[str, Journal[kdtool.TextAnswer]]
"""Answers of each teacher, by its name and the prompts' ids."""


class Answers(kdtool.Corpus):
    """Prompts, each completed by a teacher of the recipe, or by one of several."""

    config: Config

    class Config(AnswersConfig):
        """Settings of `answers`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._teachers = sorted(config.shares)  # in the order in which they are asked
        sources = self._teachers if config.corpus is None else [*self._teachers, config.corpus]
        self.derives_from = dict.fromkeys(sorted(sources), "text")
        self._asked: set[Path] = set()
        self._replies = Replies()

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return each file's SHA-256, and the version of the template for `chat`.

        Raises:
            kdtool.UsageError: a line of a file is not a prompt.
        """
        for _ in from_files(self.config.prompts):  # a mistake in the last line is found before anything is asked
            pass
        files = {path.name: digest(path) for path in self.config.prompts}
        return files if self.config.form in {"base", "text"} else {**files, "template": self._replies.version}

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> Sequence[str]:
        """Report missing files."""
        return [f"prompts: no such file: {path.absolute()}" for path in self.config.prompts if not path.exists()]

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        """Yield the price of the answers, for teachers that cost money."""
        for name in sorted(self.config.shares):
            teacher = priced_teacher(run, name)
            if teacher is None:
                continue
            prompts = (prompt for prompt in self._prompts(run) if isinstance(prompt, Prompt))
            requests = (
                self._request(run, name, prompt) for prompt in prompts if route(prompt.id, self.config.shares) == name
            )
            yield from teacher.estimate_answers(run, requests)

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        """Yield the prompts with the teachers' answers, in the order of the prompts, after all have been answered.

        Raises:
            kdtool.UsageError: a file of prompts is invalid, a teacher refuses everything, or no answer is usable.
            kdtool.PluginError: a teacher does not answer a request.
        """
        base = self._base(run)
        base.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            journals: dict[str, Journal[kdtool.TextAnswer]] = {}
            for teacher in self._teachers:
                file = base.with_name(f"{base.name}-{teacher}.jsonl")
                journals[teacher] = stack.enter_context(kept_answers(run, file, again=file not in self._asked))
                self._asked.add(file)
            for teacher in self._teachers:
                self._ask(run, teacher, journals)
            yield from self._read_examples(run, journals)

    def kdtool_account(self, run: kdtool.RunInfo) -> Mapping[str, Any] | None:
        return Account.read(self._base(run).with_suffix(".json"))

    def _base(self, run: kdtool.RunInfo) -> Path:
        """Return the path that this corpus's file names begin with; it depends on the settings."""
        settings = json.dumps(self.config.model_dump(mode="json"), sort_keys=True)
        return run.folder / FOLDER / hashlib.sha256(settings.encode()).hexdigest()[:16]

    def _ask(self, run: kdtool.RunInfo, teacher: str, journals: _Answered) -> None:
        """Ask a teacher for the answers that are missing from its journal."""
        most = sum(isinstance(prompt, Prompt) for prompt in self._prompts(run))
        others = sum(len(kept) for other, kept in journals.items() if other != teacher)
        requests = self._requests(run, teacher, journals)
        ask_teacher(run, teacher, requests, journals[teacher], total=most, others=others)

    def _requests(self, run: kdtool.RunInfo, teacher: str, journals: _Answered) -> Iterator[kdtool.Request]:
        for item in self._prompts(run):
            if not isinstance(item, Prompt) or item.id in journals[teacher]:
                continue
            if route(item.id, self.config.shares) == teacher:
                yield self._request(run, teacher, item)

    def _form(self, run: kdtool.RunInfo, teacher: str, prompt: Prompt) -> Literal["base", "chat", "text"]:
        """Return how a teacher is asked: as configured, or as suits the teacher and the prompt."""
        if self.config.form is not None:
            return self.config.form
        if not run.component(teacher, kdtool.Teacher).converses:
            return "base"
        return "chat" if prompt.language else "text"

    def _request(self, run: kdtool.RunInfo, teacher: str, prompt: Prompt) -> kdtool.Request:
        form = self._form(run, teacher, prompt)
        turns = self._replies.turns(prompt) if form == "chat" else (("user", prompt.text),)
        return kdtool.Request(
            id=prompt.id,
            prompt=prompt.text if form == "base" else "",
            turns=() if form == "base" else turns,
            max_tokens=self.config.max_tokens,
            stop=self.config.stop,
            temperature=self.config.temperature,
            seed=seed_of(run.seed, prompt.id),
        )

    def _read_examples(self, run: kdtool.RunInfo, journals: _Answered) -> Iterator[kdtool.Example]:
        terms = {teacher: run.component(teacher, kdtool.Component).licence_terms for teacher in self._teachers}
        licences = {teacher: "" if each is None else each.licence for teacher, each in terms.items()}
        account = Account()
        taken: Counter[str] = Counter()
        refusal = ""
        for item in self._prompts(run):
            if isinstance(item, kdtool.Example):
                yield item
                continue
            teacher = route(item.id, self.config.shares)
            answer = journals[teacher].get(item.id)
            if answer is None:
                raise kdtool.PluginError(f"{run.hook.owner(teacher)} returned no answer to {item.id!r}")
            account.add(answer, run.component(teacher, kdtool.Teacher).answer_key(self._request(run, teacher, item)))
            form = self._form(run, teacher, item)
            completion = self._replies.completion(item, answer) if form == "chat" else answer.text
            if reason := self._useless(answer, completion):
                account.rejected[reason] += 1
                refusal = refusal or answer.reason
                continue
            taken[teacher] += 1
            about = {"teacher_licence": licences[teacher]}
            if form == "chat":
                cut = max(0, len(answer.text) - len(completion))
                account.characters += len(answer.text)
                account.cut_characters += cut
                about |= {"form": form, "template": self._replies.version, "cut_characters": str(cut)}
            yield self._example(item, answer, completion, teacher, about)
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in account.rejected.most_common())
        if not taken:
            problem = f"{' and '.join(self._teachers)} returned no usable answer"
            reasons += f", the first with: {refusal}" if refusal else ""
            raise kdtool.UsageError(
                f"{problem} ({reasons or 'nothing was asked'}); {_remedy(account.rejected, refusal)}"
            )
        counts = ", ".join(
            f"{kdtool.count_of(count, 'answer')} of {teacher}" for teacher, count in sorted(taken.items())
        )
        account.rows = taken.total()
        account.write(self._base(run).with_suffix(".json"))
        each = kdtool.dollars(-(-account.picodollars // account.rows))
        paid = f", for {kdtool.dollars(account.picodollars)}: {each} each" if account.picodollars else ""
        run.say(counts + paid + _note_on_cut(account) + (f"; left out: {reasons}" if reasons else ""))

    def _useless(self, answer: kdtool.TextAnswer, completion: str) -> str:
        """Return the reason for leaving an answer out, "" if it is kept."""
        if answer.finish == "refused":
            return _REFUSED
        if answer.finish == "length" and not self.config.keep_truncated:
            return f"cut off at {self.config.max_tokens} tokens"
        if not answer.text.strip():
            return _EMPTY
        return "" if completion.strip() else _NO_CODE

    def _example(
        self, prompt: Prompt, answer: kdtool.TextAnswer, completion: str, teacher: str, how: Mapping[str, str]
    ) -> kdtool.Example:
        about = {
            "teacher": teacher,
            **how,
            "finish": answer.finish,
            "tokens_in": str(answer.tokens_in),
            "tokens_out": str(answer.tokens_out),
            "prompt_source": prompt.source,
            "picodollars": str(answer.picodollars or ""),
        }
        return kdtool.Example(
            id=prompt.id,
            body=kdtool.Completion(prompt.text, completion),
            language=prompt.language,
            licence=prompt.licence,
            source=f"answers of {teacher}",
            meta={key: value for key, value in about.items() if value},
        )

    def _prompts(self, run: kdtool.RunInfo) -> Iterator[Prompt | kdtool.Example]:
        """Yield prompts, and examples that pass through unchanged."""
        if self.config.corpus is None:
            items: Iterator[Prompt | kdtool.Example] = from_files(self.config.prompts)
        else:
            corpus = run.component(self.config.corpus, kdtool.Corpus)
            items = from_corpus(corpus.kdtool_examples(run), self.config.prefix_lines)
        asked = 0
        for item in items:
            if isinstance(item, Prompt):
                asked += 1
                if self.config.limit is not None and asked > self.config.limit:
                    continue
            yield item


def _note_on_cut(account: Account) -> str:
    """Return how much of the replies in chats is not learned."""
    if not account.characters:
        return ""
    share = account.cut_characters / account.characters
    return f"; {kdtool.count_of(account.cut_characters, 'character')} around the code cut ({share:.0%})"


def _remedy(left_out: Counter[str], refusal: str) -> str:
    """Return what to do if no answer is usable, depending on the most frequent reason."""
    if not left_out:
        return "give prompts"
    ((commonest, _),) = left_out.most_common(1)
    if commonest == _REFUSED:
        return refusal_remedy(refusal)
    if commonest == _NO_CODE:
        return "look at the replies in `answers/*.jsonl`, or set `form: text` to learn whole replies"
    if commonest == _EMPTY:
        return "look at how the prompts end, and at `stop`"
    return "raise max_tokens, or set keep_truncated"


def route(name: str, shares: Mapping[str, float]) -> str:
    """Return the teacher that answers the prompt with this id.

    The teacher depends only on the id, never on other prompts or their order. Of many prompts each teacher gets about its
    share.

    Args:
        name: the prompt's id.
        shares: of each teacher, above 0, relative to their sum. Their order has no influence.
    """
    remainder = (
        int.from_bytes(hashlib.sha256(f"whom to ask {name}".encode()).digest()[:8]) / 2**64 * sum(shares.values())
    )
    teachers = sorted(shares)
    for teacher in teachers:
        remainder -= shares[teacher]
        if remainder < 0:
            return teacher
    return teachers[-1]  # rounding left a remainder of 0 or a little more
