"""Settings of the trainer: optimizer, memory, speed, on-policy text, validation and output."""

from __future__ import annotations

from typing import Annotated, Literal

import kdtool
from pydantic import Field, field_validator, model_validator


class OnPolicy(kdtool.Config):
    """On-policy distillation (GKD): training on text that the student samples during training."""

    fraction: float = Field(default=0.5, ge=0, le=1)
    """Share of on-policy steps (GKD's λ), selected at random; 0 disables on-policy training."""
    prompt: float = Field(default=0.5, gt=0, lt=1)
    """Share of a fully labelled document to use as prompt; in others, the prompt is the part before the first label."""
    tokens: int = Field(default=128, ge=1)
    """Maximum number of tokens sampled per prompt; never more than the document had after it, and its share of the row's
    padding."""
    temperature: float = Field(default=1.0, ge=0, le=100)
    """Sampling temperature of the student; 0 decodes greedily."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample only from the fewest likeliest tokens that together have this probability (nucleus sampling); 1 from all."""
    samples: int = Field(default=1, ge=1)
    """Texts sampled per prompt. A micro-batch then holds `batch` / `samples` rows of prompts, each `samples` times."""
    sampler: Literal["student", "vllm"] = "student"
    """`student` samples in the training process; `vllm` by the server in the trainer's `rollouts`."""
    every: int = Field(default=1, ge=1)
    """Steps between two hand-overs of the student's weights to the server; only with `sampler: vllm`."""

    @model_validator(mode="after")
    def _hands_over_to_a_server(self) -> OnPolicy:
        if self.every > 1 and self.sampler != "vllm":
            raise ValueError("every is for sampler: vllm; leave it out, or set the sampler")
        return self


class Rollouts(kdtool.Config):
    """The vLLM server that samples on-policy text with the student's weights."""

    url: kdtool.ServiceUrl
    """The server's address, such as http://127.0.0.1:8000/v1; on this machine or at a private address."""
    folder: kdtool.RecipePath
    """A folder for the student's weights that the server sees at the same path. It serves one run at a time."""
    key_variable: kdtool.KeyVariable | None = None
    """The environment variable with the server's key, such as VLLM_API_KEY. None: it needs no key."""
    patience: float = Field(default=600, ge=0, le=86400)
    """Seconds to wait for the server at the start."""

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        try:
            from kdtool_teacher_openai import require_url
        except ImportError:
            raise ValueError("needs the package kdtool-teacher-vllm, which is not installed") from None
        return str(require_url(url))


class Validation(kdtool.Config):
    """Measuring the student while it learns, on the split `validation`, by evaluators of the recipe."""

    every: int = Field(default=100, ge=1)
    """Steps between validations; after the last step there is one, too."""
    evaluators: tuple[str, ...] = Field(default=("perplexity",), min_length=1)
    """Evaluators of the recipe; here their split `test` is `validation`."""
    watch: str | None = None
    """A measurement for early stopping, such as `perplexity.bits-per-byte`; the student keeps its best weights. null only
    draws curves."""
    patience: int = Field(default=3, ge=1)
    """Validations without improvement after which training stops; only with `watch`."""

    @model_validator(mode="after")
    def _watches_what_is_measured(self) -> Validation:
        if self.watch is not None and self.watch.partition(".")[0] not in self.evaluators:
            raise ValueError(f"watch names a measurement of {' or '.join(self.evaluators)}, as EVALUATOR.MEASUREMENT")
        return self


class StandardTrainerConfig(kdtool.Config):
    """Settings of the optimizer, memory, speed and output."""

    batch: int = Field(default=4, ge=1, le=1_000_000)
    """Rows of one micro-batch, on each process."""
    accumulation: int = Field(default=1, ge=1, le=1_000_000)
    """Micro-batches of one step. The gradient equals that of one batch of all their rows."""
    rows_per_step: int | None = Field(default=None, ge=1)
    """Rows of one step over all micro-batches and processes, in place of `accumulation`. A phase then resumes with any
    number of processes that divides the step into whole micro-batches; the rows of each step stay the same."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning rate after the warm-up: cosine or straight line down to 10 % of the peak, or constant."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of the steps over which the learning rate rises to its peak."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's weight decay; norms and biases are left out. Refused in a phase with an `optimizer`."""
    gradient_clip: float = Field(default=1.0, ge=0)
    """Maximum gradient norm; 0 disables clipping."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of matrix products (weights stay float32). `auto` selects the fastest one on this machine."""
    on_policy: OnPolicy | None = None
    """Train partly on text that the student samples itself; by default, only on the corpus."""
    rollouts: Rollouts | None = kdtool.Field(default=None, json_schema_extra=kdtool.does_not_affect_results())
    """The server for `on_policy: {sampler: vllm}`."""
    validation: Validation | None = None
    """Measure the student during training, and stop early without improvement; by default, it is measured at the end."""
    sharding: Literal["off", "full", "hybrid"] = kdtool.Field(
        default="off", json_schema_extra=kdtool.does_not_affect_results()
    )
    """With several processes: `full` divides weights, gradients and AdamW's moments among them (FSDP2), layer by layer;
    `hybrid` divides them within each machine, and averages gradients between machines (HSDP); `off` keeps all of them on
    each process. With one process there is nothing to divide."""
    checkpoint_every: Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^[1-9][0-9]*[sm]$")] = Field(
        default="5m", json_schema_extra=kdtool.does_not_affect_results()
    )
    """Steps (`500`), seconds (`120s`) or minutes (`5m`) between checkpoints."""
    log_every: int = Field(default=5, ge=1, json_schema_extra=kdtool.does_not_affect_results())
    """Steps between reports. The first and the last step are always reported."""
    gradient_norms_every: int = Field(default=10, ge=1, json_schema_extra=kdtool.does_not_affect_results())
    """Steps between measurements of each term's gradient; such a step is reported."""
    head_chunk_size: int | None = Field(default=None, ge=1)
    """Positions projected to logits at once; by default, as many as take about 100 MB of logits."""
    loss_chunk_size: int | None = Field(default=None, ge=1)
    """Positions per call of a loss; by default, as many as fit into the processor's cache."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the losses. `auto` always does so on a GPU; on a CPU, if the phase is long enough to amortise compiling and
    some loss has no analytic gradient: those are about as fast. Compiled losses round differently."""

    @field_validator("on_policy")
    @classmethod
    def _off_without_a_fraction(cls, value: OnPolicy | None) -> OnPolicy | None:
        return value if value is not None and value.fraction else None

    @model_validator(mode="after")
    def _fits_together(self) -> StandardTrainerConfig:
        sampling, rows, sharded = self.on_policy, self.rows_per_step, self.sharding != "off"
        samples = sampling.samples if sampling else 1
        problems = {
            "on_policy needs whole weights on each process: set sharding: off": sampling and sharded,
            "validation measures whole weights: set sharding: off": self.validation and sharded,
            "on_policy.sampler: vllm needs a server: set rollouts: {url: …, folder: …}": (
                sampling and sampling.sampler == "vllm" and self.rollouts is None
            ),
            f"batch: {self.batch} is not a multiple of on_policy.samples: {samples}; change one of them": (
                self.batch % samples
            ),
            "rows_per_step decides the accumulation: set only one of them": (
                rows is not None and "accumulation" in self.model_fields_set
            ),
            f"rows_per_step: {rows} is not a multiple of batch: {self.batch}": rows is not None and rows % self.batch,
        }
        if any(problems.values()):
            raise ValueError("; ".join(problem for problem, present in problems.items() if present))
        return self

    def micro_batches(self, world: int) -> int:
        """Return the number of micro-batches of a step on each of `world` processes.

        Raises:
            UsageError: `rows_per_step` cannot be divided among them.
        """
        if self.rows_per_step is None:
            return self.accumulation
        count, rest = divmod(self.rows_per_step, self.batch * world)
        if rest:
            raise kdtool.UsageError(
                f"rows_per_step: {self.rows_per_step} is not a multiple of batch: {self.batch} times {world} processes; "
                "start another number of processes, or set another batch"
            )
        return count


def seconds_between(every: str) -> int:
    """Return the seconds of a time such as `120s` or `5m`."""
    return int(every[:-1]) * {"s": 1, "m": 60}[every[-1]]
