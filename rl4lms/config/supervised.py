"""The `alg` block of supervised finetuning."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from common.config import Config, Problem
from rl4lms.config.parts import Args
from rl4lms.config.pretraining import PretrainingShareConfig
from rl4lms.config.training_args import training_args_problems, translate_training_args
from rl4lms.model.generation_config import GenerationSettings
from rl4lms.model.lora_config import LoraSettings
from rl4lms.model.source import Kind, dropout_problem


class DropoutConfig(Config):
    """Dropout in training."""

    residual: float = Field(
        ge=0, lt=1, description="of what each layer adds (InstructGPT: 0.2); a T5 has one rate for all places"
    )


class SelectConfig(Config):
    """Which checkpoint becomes the model."""

    metric: str = Field(
        min_length=1,
        description="a value of train_evaluation.metrics, such as semantic/reward_model (InstructGPT): the "
        "highest on val wins, of TER and perplexity the lowest",
    )


class SupervisedConfig(Config):
    """Supervised finetuning by transformers.Trainer."""

    id: Literal["supervised"] = Field(description="the algorithm")
    training_args: Args = Field(
        {},
        description="fields of transformers.TrainingArguments, whose defaults hold; old names are translated",
    )
    model_type: Kind = Field(description="kind of the language model")
    model_name: str = Field(min_length=1, description="language model to start from: hub name or folder")
    lora: LoraSettings | None = Field(
        None, description="train an adapter beside frozen weights; null = all weights"
    )
    generation_kwargs: GenerationSettings = Field(
        description="how texts are generated in evaluation if train_evaluation does not say (temperature: 1)"
    )
    add_eos: bool = Field(
        False, description="causal: end each training text with the end-of-text token (the paper's do not)"
    )
    dropout: DropoutConfig | None = Field(
        None, description="dropout in training; null = that of the model's config"
    )
    select_by: SelectConfig | None = Field(
        None, description="the model is that of the best evaluation on val; null = of the last update"
    )
    pretraining: PretrainingShareConfig | None = Field(
        None, description="pretraining text among the training texts (InstructGPT's start of RL); null = none"
    )

    def check(self) -> list[Problem]:
        problems = [
            Problem(f"training_args.{problem.path}", problem.message)
            for problem in training_args_problems(self.training_args)
        ]
        if self.dropout is not None and (message := dropout_problem(self.model_name)):
            problems.append(Problem("dropout.residual", message))
        if self.select_by is not None and self.training_args.get("save_strategy") == "no":
            message = "'no' leaves no checkpoint to choose from; remove it, or alg.select_by"
            problems.append(Problem("training_args.save_strategy", message))
        if self.pretraining is not None:
            problems += self.pretraining.problems_with(self.model_type)
        return problems

    def trainer_arguments(self) -> dict[str, Any]:
        """The keyword arguments for today's TrainingArguments."""
        return translate_training_args(self.training_args)[0]
