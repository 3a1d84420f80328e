"""The `alg.pretraining` block: pretraining text that finetuning mixes in (Ouyang et al. 2022, Appendix C)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field

from common import limits
from common.config import Config, Problem, unknown_name
from common.limits import TextsAtATime, at_most
from rl4lms.config.parts import Args
from rl4lms.datapools import DATAPOOLS
from rl4lms.datapools.docstring_forms import FormName
from rl4lms.model.source import Kind
from rl4lms.text_tasks import TextTask

PYTHON_DOCS: Literal["python_docs"] = "python_docs"
TEXT_TASKS: tuple[str, ...] = get_args(TextTask)
TASKS: tuple[str, ...] = (*TEXT_TASKS, *get_args(FormName))
# Shares of rl4lms_scripts/laptop/pretrain_t5.yml.
MIXTURE = {
    "span_corruption": 0.1,
    "prefix_continuation": 0.25,
    "denoising": 0.2,
    "summary": 0.1,
    "identifier": 0.15,
    "keywords": 0.1,
    "opening": 0.1,
}


class TextsDatapoolConfig(Config):
    """A dataset whose train samples are read as texts."""

    id: str = Field(description="registered dataset, or package.module:function of your own")
    args: Args = Field({}, description="its keyword arguments")

    def check(self) -> list[Problem]:
        return DATAPOOLS.check(self.id, self.args)


class PretrainingConfig(Config):
    """Where the text is from, and what is learnt of it."""

    texts: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="python_docs = the half of the docstrings that no task shows, or a file of JSON lines "
        "with the field text; this or datapool",
    )
    datapool: TextsDatapoolConfig | None = Field(
        None, description="a dataset whose train samples, prompt and first reference, are the texts"
    )
    max_length: Annotated[int, Field(ge=2), at_most(limits.CONTEXT, "tokens of a text")] | None = Field(
        None, description="tokens of an example, which loses its end; null = what model and tokenizer take"
    )
    task: dict[str, Annotated[float, Field(gt=0)]] | None = Field(
        None,
        description="seq2seq: task -> share of the examples; null = those of pretrain_t5.yml; causal models "
        "have one task, the next token",
    )

    def check(self) -> list[Problem]:
        if (self.texts is None) == (self.datapool is None):
            what = "missing; expected python_docs or a file of JSON lines"
            message = "is given beside datapool; remove one of them" if self.texts else f"{what}, or datapool"
            return [Problem("texts", message)]
        problems = []
        if self.texts not in (None, PYTHON_DOCS) and not Path(self.texts).expanduser().is_file():
            message = f"no such file: {self.texts!r}; expected JSON lines with the field text, or python_docs"
            problems.append(Problem("texts", message))
        known = TASKS if self.texts == PYTHON_DOCS else TEXT_TASKS
        problems += [
            Problem(f"task.{name}", unknown_name("task", name, known))
            for name in self.task or {}
            if name not in known
        ]
        return problems

    def problems_with(self, kind: Kind) -> list[Problem]:
        """What does not go with a model of this kind, as problems of the block around."""
        if self.task is None or kind == "seq2seq":
            return []
        return [Problem("pretraining.task", "a causal model has one task, the next token; remove this field")]

    @property
    def mixture(self) -> dict[str, float]:
        """Task -> share of the examples of a seq2seq model."""
        known = TASKS if self.texts == PYTHON_DOCS else TEXT_TASKS
        return self.task or {name: share for name, share in MIXTURE.items() if name in known}


class PtxConfig(PretrainingConfig):
    """PPO-ptx: coeff times the gradient of the pretraining loss is added to that of each minibatch."""

    coeff: float = Field(
        27.8, ge=0, description="weight of the loss, a mean over tokens (InstructGPT: 27.8, gamma)"
    )
    examples_per_episode: TextsAtATime = Field(
        8, description="pretraining examples for each text of a minibatch (InstructGPT: 8)"
    )


class PretrainingShareConfig(PretrainingConfig):
    """Pretraining examples among those of supervised finetuning."""

    share: float = Field(gt=0, lt=1, description="of all training examples (InstructGPT's start of RL: 0.1)")
