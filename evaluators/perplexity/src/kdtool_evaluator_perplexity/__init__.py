"""The evaluator `perplexity`: perplexity per token and bits per byte on held-out documents.

The engine calls it once a subject. Scoring is the opened subject's (`kdtool.Runtime.score`); choosing documents,
intervals and items files are `kdtool_measuring`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import log

import kdtool
from kdtool_measuring import Document, DocumentEvaluator

__all__ = ["Perplexity"]


class Perplexity(DocumentEvaluator):
    """Measures perplexity per token and bits per byte of every subject that can score texts."""

    name = "perplexity"
    measurements = ("perplexity", "bits-per-byte")

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_measuring import bytes_of_exact_heads

        student = ahead.models.get(ahead.student)
        if student is not None:
            tokens = min(8192, self.config.limit * self.config.characters // 2)  # of windows that share a batch
            layer = 4 * tokens * (4 * student.hidden + 3 * student.feed_forward)
            logits = 3 * 4 * min(tokens, 512) * student.vocabulary
            size = ahead.student_bytes + bytes_of_exact_heads(ahead) + layer + logits
            yield kdtool.Estimate("measured student", ("scores",), compute_bytes=size)

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield `perplexity` and `bits-per-byte` of each subject; see the README for the formulas.

        Raises:
            kdtool.UsageError: there is no text to score.
        """
        from kdtool_measuring import digest, open_for_measuring, unfit_to_score
        from kdtool_torch import say_context

        documents = self.documents(run)
        chosen = digest(documents)
        for subject in subjects:
            with open_for_measuring(run, subject, self.name, unfit_to_score) as runtime:
                if runtime is None:
                    continue
                if runtime.model is not None:
                    say_context(run, self.name, subject, runtime.model, [document.text for document in documents])
                scores = list(_scores(run, runtime, documents))
                settings = {**self._settings(documents), "documents": chosen}
                known = runtime.tokenizer
                tokenizer = f"{subject.name}'s own" if known is None else known.fingerprint[:12]
            yield from _measurements(run, subject, documents, scores, settings, tokenizer)

    def _settings(self, documents: Sequence[Document]) -> dict[str, str]:
        return {
            "split": self.config.split,
            "texts": f"{len(documents)} documents, each cut after {self.config.characters} characters, "
            "chosen by the hashes of their ids",
            "context": "each document by itself, its first token predicted from the tokens that the tokenizer puts before a "
            "text, or from a line break where it puts none; documents longer than the model's window are scored in "
            "overlapping windows",
        }


def _scores(
    run: kdtool.RunInfo, runtime: kdtool.Runtime, documents: Sequence[Document]
) -> Iterator[kdtool.LogLikelihood]:
    for done, score in enumerate(runtime.score([document.text for document in documents]), 1):
        yield score
        if done % 16 == 0 or done == len(documents):
            run.hook.kdtool_progress(run, done, len(documents))


def _measurements(
    run: kdtool.RunInfo,
    subject: kdtool.Subject,
    documents: Sequence[Document],
    scores: Sequence[kdtool.LogLikelihood],
    settings: Mapping[str, str],
    tokenizer: str,
) -> Iterator[kdtool.Measurement]:
    from kdtool_measuring import Item, make_measurement

    pairs = list(zip(documents, scores, strict=True))
    yield make_measurement(
        [Item(document.id, -score.log_likelihood, score.tokens) for document, score in pairs],
        run,
        subject,
        name="perplexity",
        unit="per token",
        higher_is_better=False,
        transform="exp",
        settings={**settings, "tokenizer": tokenizer, "comparable with": "subjects of the same tokenizer only"},
    )
    yield make_measurement(
        [Item(document.id, -score.log_likelihood / log(2), score.bytes) for document, score in pairs],
        run,
        subject,
        name="bits-per-byte",
        unit="bits per byte",
        higher_is_better=False,
        settings={**settings, "comparable with": "subjects of any tokenizer"},
    )
