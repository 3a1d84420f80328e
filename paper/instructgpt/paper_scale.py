"""InstructGPT's stages at the paper's scale: the configs with its values at 1.3 billion weights, their cost.

The paper's data are not public: sizes are its numbers of prompts and episodes, texts taken at their longest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.source import read_source
from paper.gpu_hours import BASIS, OPERATIONS_PER_SECOND, ModelSize, generation_cost, pass_cost

FOLDER = "rl4lms_scripts/instructgpt"
# Weights of GPT-Neo 1.3B and GPT-J 6B that a token passes, of the layers and of the unembedding.
SMALL, REWARD = ModelSize(0, 1.21e9, 0.10e9), ModelSize(0, 5.64e9, 0.21e9)
SFT_PROMPTS, RANKINGS, EPISODES = 13_000, 33_000, 256_000  # Ouyang et al. 2022, Table 6 and Appendix C
COMPLETIONS = 6.5  # of a ranking, 4 to 9
TRAINED = 3  # operations of a training pass in those of a forward pass


@dataclass(frozen=True)
class Plan:
    """A config file, what it is of, and its operations."""

    file: str
    words: str
    operations: float


def describe() -> list[str]:
    """A line for each config, and what follows."""
    lines = []
    for plan in plans():
        hours = plan.operations / OPERATIONS_PER_SECOND / 3600
        lines.append(f"{FOLDER}/{plan.file}: {plan.words}, about {hours:.0f} h of a GPU")
    return [
        f"instructgpt {', '.join(plan.file for plan in plans())}",
        *lines,
        BASIS.partition(" With alg.args")[0],
        "each by: python rl4lms_train_text_generation.py --config_path CONFIG --log_entire_predictions, your "
        "data and the models of earlier stages in place of the placeholders",
        "then: python rl4lms_compare.py RUN_OF_SFT RUN_OF_PPO RUN_OF_PPO_PTX",
    ]


def plans() -> list[Plan]:
    """The stages in their order, at 1.3 billion weights but for the reward model of 6 billion."""
    supervised, start = (_read(f"gpt_neo_1.3b_{name}.yml") for name in ("supervised", "rl_start"))
    ppo, reward = _read("gpt_neo_1.3b_ppo_ptx.yml"), _read("gptj_6b_reward_model.yml")
    epochs = [config["alg"]["training_args"]["num_train_epochs"] for config in (supervised, start)]
    length = ppo["env"]["args"]["max_prompt_length"]
    text = ppo["env"]["args"]["max_episode_length"]
    # SFT's loss is of prompt and text.
    sft = TRAINED * SFT_PROMPTS * pass_cost(SMALL, length, text, length + text)
    context = reward["alg"]["args"]["max_length"]
    passed = RANKINGS * COMPLETIONS * reward["alg"]["args"]["epochs"]
    mixed = 1 / (1 - start["alg"]["pretraining"]["share"])
    return [
        Plan(
            "gpt_neo_1.3b_supervised.yml",
            f"SFT, {SFT_PROMPTS:,} prompts, {epochs[0]} epochs",
            epochs[0] * sft,
        ),
        Plan(
            "gpt_neo_1.3b_rl_start.yml",
            f"start of RL, {epochs[1]} epochs, a tenth pretraining text",
            epochs[1] * mixed * sft,
        ),
        Plan(
            "gptj_6b_reward_model.yml",
            f"reward model of 6 billion, {RANKINGS:,} rankings",
            TRAINED * passed * pass_cost(REWARD, context, 0, 0),
        ),
        Plan("gpt_neo_1.3b_ppo_ptx.yml", f"PPO-ptx, {EPISODES:,} episodes", EPISODES * ppo_ptx_cost(ppo)),
    ]


def ppo_ptx_cost(config: dict[str, Any]) -> float:
    """Operations of an episode: sampled, scored by four models, learnt by two, with pretraining examples."""
    env, alg = config["env"]["args"], config["alg"]
    prompt, text = env["max_prompt_length"], env["max_episode_length"]
    sampled = generation_cost(SMALL, prompt, text, 1)
    head, headless = pass_cost(SMALL, prompt, text, text), pass_cost(SMALL, prompt, text, 0)
    scored = 2 * head + headless + pass_cost(REWARD, prompt, text, 0)  # policy, reference, value, reward
    learnt = TRAINED * alg["args"]["n_epochs"] * (head + headless)
    ptx = alg["pretraining"]
    mixed = TRAINED * ptx["examples_per_episode"] * pass_cost(SMALL, 0, ptx["max_length"], ptx["max_length"])
    return sampled + scored + learnt + mixed


def _read(name: str) -> dict[str, Any]:
    data: dict[str, Any] = read_source(f"{FOLDER}/{name}").data
    return data
