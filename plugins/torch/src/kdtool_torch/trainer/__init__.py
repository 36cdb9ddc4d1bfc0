"""The trainer `standard`: one phase of distillation, with chunked losses.

Nothing heavy is imported before training starts.
"""

from __future__ import annotations

from collections.abc import Iterator

import kdtool

from kdtool_torch.trainer.settings import OnPolicy, Rollouts, StandardTrainerConfig, Validation

__all__ = ["OnPolicy", "Rollouts", "StandardTrainer", "Validation"]


class StandardTrainer(kdtool.Trainer):
    """Trains one phase: any mixture of losses, on the CPU, one GPU or several.

    A killed phase resumes from its last checkpoint; on the CPU, by one process or several, to the same bits.
    """

    on_policy = "on_policy"
    optimizer_settings = ("weight_decay",)

    class Config(StandardTrainerConfig):
        """Settings of the optimizer, memory, speed and output."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.rows_per_step = config.rows_per_step or config.batch * config.accumulation
        self.elastic = config.rows_per_step is not None
        self.validators = config.validation.evaluators if config.validation else ()

    def kdtool_train(self, run: kdtool.RunInfo, phase: kdtool.Phase, student: kdtool.LanguageModel) -> kdtool.Trained:
        from kdtool_torch.trainer.train import train_phase

        return train_phase(self.config, run, phase, student)

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_torch.trainer.estimate import estimate_phase

        yield from estimate_phase(self.config, run, ahead)
