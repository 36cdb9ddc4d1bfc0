"""The corpus `self`: the untrained student continues beginnings of the recipe's text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count, islice

import kdtool
from kdtool_measuring import Journal, bytes_to_answer, journal, seed_of

from kdtool_data.answers.prompts import Prompt, from_corpus
from kdtool_data.lines import split_lines

FILE = "self-samples.jsonl"
"""The samples, in the folder of the rows that are made of them."""
_AT_ONCE = 32
"""Samples that are requested together: the last ones may be more than are needed."""
_ROW = 512
"""Tokens of a row, if no packer declares them."""


class SelfSamples(kdtool.Corpus):
    """Completions by the untrained student, for `control: {self: …}` (simple self-distillation, arXiv 2604.01193).

    Samples are used as they are, right or wrong, as in the paper. Prompts are used again with other seeds if there are too
    few.
    """

    config: Config

    class Config(kdtool.Config):
        """Settings of `self`."""

        temperature: float = kdtool.Field(default=1.0, gt=0, le=10)
        """Temperature at which the student samples."""
        top_p: float = kdtool.Field(default=0.95, gt=0, le=1)
        """Sample from the fewest likeliest tokens that together have this probability; 1 from all."""
        top_k: int = kdtool.Field(default=0, ge=0)
        """Sample from this number of likeliest tokens; 0 from all."""
        prefix_lines: int = kdtool.Field(default=4, ge=1, le=10_000)
        """Number of first lines of a text that form the prompt, if they take no more than a quarter of a row. Examples with
        a completion already have a prompt."""
        max_tokens: int | None = kdtool.Field(default=None, ge=1, le=1_048_576)
        """Maximum tokens of a sample; null fills a row. The control learns to stop at the cut."""

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        return {"source": "the untrained student"}  # whose weights are an input of the rows

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        if ahead.student in ahead.models:
            size = bytes_to_answer(ahead, 2 * _row_length(run))
            yield kdtool.Estimate("sampling student", ("rows",), compute_bytes=size)
        yield kdtool.Estimate(
            "samples", note="the time to sample as many tokens as the student trains on is not estimated"
        )

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        """Yield samples as they are needed, without end. Each is stored, and a resumed run does not sample it again.

        Raises:
            kdtool.UsageError: it is used elsewhere, nothing opens the student, or no sample of all prompts has text.
        """
        if run.untrained is None:
            raise kdtool.UsageError(
                "self: there is no untrained student here; expected `control: {self: …}`, which samples from it; "
                "remove it from `corpora`"
            )
        opened = kdtool.open_subject(run, kdtool.Subject("base", "base", run.untrained))
        if opened is None:
            raise kdtool.UsageError(
                f"self: no component opens the untrained student in {run.untrained}; expected one that implements "
                "kdtool_open; use a student on transformers, or remove `control.self`"
            )
        run.folder.mkdir(parents=True, exist_ok=True)
        with opened.value as student, journal(run.folder / FILE, kdtool.TextAnswer, run.say) as kept:
            for epoch in count():
                usable = False
                for example in self._samples(run, student, kept, epoch):
                    usable = True
                    yield example
                if not usable:
                    raise kdtool.UsageError(
                        "self: none of the samples has text; expected text in the split 'train' that begins with "
                        "lines shorter than a quarter of a row, and a student that does not end at once; raise "
                        "`rows.length`, or change `control.self`"
                    )

    def _samples(
        self, run: kdtool.RunInfo, student: kdtool.Runtime, kept: Journal[kdtool.TextAnswer], epoch: int
    ) -> Iterator[kdtool.Example]:
        """Yield a sample for each prompt; `epoch` counts how often the prompts were used before."""
        prompts = self._prompts(run)
        while batch := list(islice(prompts, _AT_ONCE)):
            requests = {f"{prompt.id}#{epoch}": (prompt, room) for prompt, room in batch}
            missing = [
                kdtool.Request(
                    id=name,
                    prompt=prompt.text,
                    max_tokens=room,
                    temperature=self.config.temperature,
                    top_p=self.config.top_p,
                    top_k=self.config.top_k,
                    seed=seed_of(run.seed, name),
                )
                for name, (prompt, room) in requests.items()
                if name not in kept
            ]
            for answer in student.answer(missing):
                kept.add(answer)
            yield from (
                _example(prompt, kept[name]) for name, (prompt, _) in requests.items() if kept[name].text.strip()
            )

    def _prompts(self, run: kdtool.RunInfo) -> Iterator[tuple[Prompt, int]]:
        """Yield prompts that fit into a row, each with the maximum tokens of its sample."""
        (student,) = run.implementing("kdtool_build_student")
        tokenizer, length = run.component(student, kdtool.Student).kdtool_tokenizer(run), _row_length(run)
        prompts = from_corpus(run.texts.examples("train"), self.config.prefix_lines)
        for prompt in (each for each in prompts if isinstance(each, Prompt)):
            lines = split_lines(prompt.text)
            size = len(tokenizer.encode(prompt.text))
            while size > length // 4 and len(lines) > 1:
                lines = lines[:-1]
                size = len(tokenizer.encode("".join(lines)))
            room = length - len(tokenizer.document_start) - size - 1
            if size <= length // 4 and room > 0:
                shortened = Prompt(prompt.id, "".join(lines), prompt.language, prompt.licence, prompt.source)
                yield shortened, min(room, self.config.max_tokens or room)


def _example(prompt: Prompt, answer: kdtool.TextAnswer) -> kdtool.Example:
    return kdtool.Example(
        id=answer.id,
        body=kdtool.Completion(prompt.text, answer.text),
        language=prompt.language,
        licence=prompt.licence,
        source="samples of the untrained student",
        meta={"finish": answer.finish, "prompt_source": prompt.source},
    )


def _row_length(run: kdtool.RunInfo) -> int:
    """Return the tokens of the recipe's shortest rows."""
    packers = (run.component(name, kdtool.Packer) for name in run.implementing("kdtool_rows"))
    return min((packer.row_length for packer in packers if packer.row_length), default=_ROW)
