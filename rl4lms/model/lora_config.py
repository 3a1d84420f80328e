"""Schema of `lora`: small trained matrices beside frozen weights (Hu et al. 2022). Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from common.config import Config, Problem
from rl4lms.model.adapter_folder import holds_adapter, peft_problem

Rank = Annotated[int, Field(ge=1)]
ALL_LINEAR: Literal["all-linear"] = "all-linear"


class LoraSettings(Config):
    """LoRA: W + alpha / r B A in place of W, and only A and B are trained; B begins with 0."""

    r: Rank = Field(16, description="rank: A is [r, inputs], B [outputs, r]")
    alpha: float = Field(32.0, gt=0, description="B A is multiplied by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what A reads, while the model is trained")
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = Field(
        ALL_LINEAR,
        description="names of linear layers, or ends of them such as [q_proj, v_proj]; all-linear = all but "
        "the unembedding and heads",
    )
    merge: bool = Field(
        False, description="save a whole model, the adapter added to its weights; false = the adapter alone"
    )

    def check(self) -> list[Problem]:
        message = peft_problem()
        return [Problem("r", f"LoRA {message}")] if message else []


def adapter_notice(model_name: str, lora: LoraSettings | None) -> str | None:
    """Say what becomes of the adapter in a folder that a training starts from; None if there is none."""
    if not holds_adapter(model_name):
        return None
    if lora is None:
        return (
            f"the adapter in {model_name!r} is merged, and all weights are trained (lora: trains the adapter)"
        )
    return f"training goes on with the adapter in {model_name!r}, whose rank, alpha and layers hold"


class PolicyLora(LoraSettings):
    """LoRA of a policy, and of its value model if the algorithm has one."""

    value_model: Literal["own", "shared"] = Field(
        "own",
        description="PPO, NLPO, A2C: own = the value model is an adapter of its own on the same weights; "
        "shared = a head on the policy's states, whose adapter it trains too",
    )
