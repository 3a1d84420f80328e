"""What a training config may say, and what a user is told of each mistake."""

from pathlib import Path
from typing import Any

import pytest

from common.config import ConfigError, validate
from rl4lms.config import SupervisedConfig, TrainConfig, load_train_config
from rl4lms.metrics import METRICS
from rl4lms.rewards import REWARDS

TRAINING = Path(__file__).parents[2] / "rl4lms_scripts" / "training"
PPO = TRAINING / "narrative_qa" / "t5_ppo.yml"
NLPO = TRAINING / "imdb" / "gpt2_nlpo.yml"
SUPERVISED = TRAINING / "imdb" / "gpt2_supervised.yml"
OLD_FIELDS = "no effect (kept for old files): "


def problems_of(path: Path, *overrides: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        load_train_config(path, overrides)
    return [(problem.path, problem.message) for problem in caught.value.problems]


def edited(path: Path, folder: Path, *edits: tuple[str, str]) -> Path:
    text = path.read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    copy = folder / path.name
    copy.write_text(text)
    return copy


def test_misspelt_reward_and_field_are_told_word_for_word(tmp_path: Path) -> None:
    path = edited(PPO, tmp_path, ("id: rouge_l_max", "id: rouge_lmax"), ("n_epochs: 5", "n_epoch: 5"))
    with pytest.raises(ConfigError) as caught:
        load_train_config(path)
    known = ", ".join(list(REWARDS.entries)[:12])
    assert str(caught.value) == (
        f"{path}: 2 problems\n"
        "  line 14  reward_fn.id         unknown reward 'rouge_lmax'; did you mean 'rouge_l_max'? "
        f"known: {known}, ...\n"
        "  line 47  alg.args.n_epoch     unknown key; did you mean 'n_epochs'?"
    )


def test_slips_of_hand_edited_files_are_told_with_their_lines(tmp_path: Path) -> None:
    path = edited(
        PPO,
        tmp_path,
        ("terminate_on_eos: true", "terminate_on_eos: True,"),
        ("max_length: 512", "max_length: 512.0"),
        ("batch_size: 64", "batch_size: '64'"),
        ("use_single_ref: false", "use_singel_ref: false"),
    )
    with pytest.raises(ConfigError) as caught:
        load_train_config(path)
    assert str(caught.value).split("\n")[1:] == [
        "  line 10  tokenizer.max_length                             "
        "expected a whole number >= 1 or null, got 512.0 (a decimal number); write 512",
        "  line 36  env.args.terminate_on_eos                        "
        "expected true or false, got 'True,' (a string)",
        "  line 44  alg.args.batch_size                              "
        "expected a whole number >= 1, got '64' (a string)",
        "  line 75  train_evaluation.metrics[1].args.use_singel_ref  "
        "unknown key; did you mean 'use_single_ref'?",
    ]


def test_numbers_are_read_leniently(tmp_path: Path) -> None:
    path = edited(PPO, tmp_path, ("0.000002", "1e-6"), ("temperature: 1", "temperature: 2"))
    config = load_train_config(path)
    assert not isinstance(config.alg, SupervisedConfig)
    assert config.alg.args.learning_rate == 1e-6
    temperature = config.alg.generation_kwargs.temperature
    assert (temperature, type(temperature)) == (2.0, float)


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        (
            "alg.id=pp",
            "alg.id",
            "unknown value 'pp'; did you mean 'ppo'? allowed: 'ppo', 'nlpo', 'a2c', 'rloo', 'grpo', "
            "'dr_grpo', 'dapo', 'gspo', 'reinforce_pp', 'supervised', 'reward_model'",
        ),
        (
            "alg.policy.id=maskable_seq2seq_lm_actor_critic_policy",
            "alg.policy.id",
            "unknown value 'maskable_seq2seq_lm_actor_critic_policy'; did you mean "
            "'seq2seq_lm_actor_critic_policy'? "
            "allowed: 'causal_lm_actor_critic_policy', 'seq2seq_lm_actor_critic_policy'",
        ),
        ("reward_fn=null", "reward_fn", "missing; expected a mapping (what PPO and NLPO maximise)"),
        ("env=null", "env", "missing; expected a mapping (rollouts of PPO and NLPO)"),
        (
            "train_evaluation.n_iters=null",
            "train_evaluation.n_iters",
            "missing; expected a whole number >= 1 (iterations)",
        ),
        ("reward_fn.args.alpha=2", "reward_fn.args.alpha", "must be at most 1, got 2"),
        (
            "train_evaluation.metrics[0].id=metero",
            "train_evaluation.metrics[0].id",
            "unknown metric 'metero'; did you mean 'meteor'? known: "
            + ", ".join(list(METRICS.entries)[:12])
            + ", ...",
        ),
        (
            "train_evaluation.metrics[0]={id: rouge, args: {use_single_ref: true}}",
            "train_evaluation.metrics[1].id",
            "'rouge' is listed again with other args: its results would overwrite the first's",
        ),
        (
            "datapool.args.representation=subtable",
            "datapool.args.representation",
            "unknown key; known: data_path",
        ),
        (
            "datapool.frac_train_samples=0",
            "datapool.frac_train_samples",
            "must be in (0, 1], or -1 for all, got 0",
        ),
        (
            "env.args.terminate_on_eos=false",
            "env.args.terminate_on_eos",
            "must be true: there are no tokens after the end of a text",
        ),
        (
            "alg.policy.args.generation_kwargs.num_beams=4",
            "alg.policy.args.generation_kwargs.num_beams",
            "must be 1: rollouts are drawn token by token, not by beam search",
        ),
        (
            "alg.args.batch_size=2559",
            "alg.args.batch_size",
            "leaves a minibatch of one token of the 2,560 of an iteration: a single advantage cannot be "
            "normalised",
        ),
        (
            "runtime.device=gpu",
            "runtime.device",
            "unknown device 'gpu'; expected auto, cpu, mps, cuda or cuda:<number>",
        ),
        (
            "alg.policy.args.model_name=no/such/folder",
            "alg.policy.args.model_name",
            "no such folder: 'no/such/folder'; a model folder holds config.json, model.safetensors and "
            "tokenizer.json",
        ),
    ],
    ids=lambda value: value if "=" in value else "",
)
def test_one_mistake_is_one_problem(override: str, path: str, message: str) -> None:
    assert problems_of(PPO, override) == [(path, message)]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (["top_mask=1.5"], "'learned_top_p' needs a probability mass in (0, 1], got 1.5"),
        (["mask_type=learned_top_k"], "'learned_top_k' needs a whole number of tokens, got 0.9"),
    ],
)
def test_mask_size_fits_its_kind(mask: list[str], message: str) -> None:
    overrides = [f"alg.policy.args.{setting}" for setting in mask]
    assert problems_of(NLPO, *overrides) == [("alg.policy.args.top_mask", message)]
    load_train_config(NLPO, [*overrides, "alg.policy.args.mask_type=topk", "alg.policy.args.top_mask=20"])


def test_model_reward_and_dataset_have_no_default() -> None:
    data: dict[str, Any] = {
        "tokenizer": {"model_name": "gpt2"},
        "alg": {"id": "ppo", "args": {"n_steps": 1, "learning_rate": 1e-5}, "policy": {}},
        "env": {"args": {"max_prompt_length": 1, "max_episode_length": 1}},
        "train_evaluation": {"eval_batch_size": 1, "metrics": [], "n_iters": 1},
    }
    config, problems = validate(TrainConfig, data)
    assert config is None
    assert {problem.path for problem in problems} == {"datapool", "alg.policy.id", "alg.policy.args"}
    data["datapool"] = {"id": "imdb"}
    data["alg"]["policy"] = {"id": "causal_lm_actor_critic_policy", "args": {"generation_kwargs": {}}}
    assert [problem.path for problem in validate(TrainConfig, data)[1]] == ["alg.policy.args.model_name"]
    data["alg"]["policy"]["args"]["model_name"] = "gpt2"
    assert [problem.path for problem in validate(TrainConfig, data)[1]] == ["reward_fn"]


def test_sentinels_become_none() -> None:
    datapool = load_train_config(PPO).datapool
    assert (datapool.train_fraction, datapool.seed) == (None, None)
    overrides = ["datapool.frac_train_samples=0.01", "datapool.train_samples_rnd_seed=3"]
    datapool = load_train_config(PPO, overrides).datapool
    assert (datapool.train_fraction, datapool.seed) == (0.01, 3)


@pytest.mark.parametrize(
    ("overrides", "notices"),
    [
        ([], []),
        (
            ["alg.args.n_steps=257"],
            ["alg.args.batch_size: of 2,570 tokens an iteration the last minibatch has 10 instead of 64"],
        ),
        (
            ["tokenizer.max_length=128", "tokenizer.padding_side=right"],
            [
                "tokenizer.max_length: no effect on ppo, prompts are cut to env.args.max_prompt_length (512)",
                "tokenizer.padding_side: no effect, prompts are padded where the model needs it",
            ],
        ),
        (
            ["env.args.max_episode_length=10"],
            [
                "alg.policy.args.generation_kwargs.max_new_tokens: 19 exceeds env.args.max_episode_length, "
                "which ends episodes after 10 tokens"
            ],
        ),
        (
            ["env.args.reward_unfinished=false"],
            [
                "env.args.reward_unfinished: texts cut at max_new_tokens (19) get no reward, since "
                "max_episode_length is 50"
            ],
        ),
        (
            ["alg.policy.args.generation_kwargs={}"],
            ["alg.policy.args.generation_kwargs.do_sample: false gives each prompt one and the same text"],
        ),
        (
            ["reward_fn.args.apply_best=false"],
            ["reward_fn.args.apply_best: no effect: the best reference counts; as max_n"],
        ),
    ],
)
def test_notices_of_ppo(overrides: list[str], notices: list[str]) -> None:
    idle = "env.args.context_start_token, alg.args.verbose, alg.policy.args.apply_model_parallel"
    found = load_train_config(PPO, overrides).notices()
    assert sorted(found) == sorted([OLD_FIELDS + idle, *notices])


TIDIED = (
    "tokenizer.clean_up_tokenization_spaces: not set, so false: metrics and rewards see what the model "
    "wrote; true takes the space out of ' .', ' ,' and the like first, as in the paper's runs"
)


@pytest.mark.parametrize("path", [PPO, SUPERVISED])
def test_a_config_that_does_not_say_whether_texts_are_tidied_is_told_once(path: Path) -> None:
    overrides = ["tokenizer={model_name: gpt2}"]
    assert load_train_config(path, overrides).notices().count(TIDIED) == 1
    for value in ("true", "false"):
        said = [f"tokenizer={{model_name: gpt2, clean_up_tokenization_spaces: {value}}}"]
        assert TIDIED not in load_train_config(path, said).notices()


def test_a_metric_listed_twice_is_said_to_be_computed_once() -> None:
    notices = load_train_config(TRAINING / "iwslt2017" / "t5_supervised.yml").notices()
    assert notices == ["train_evaluation.metrics[4]: 'bleu' is listed again, it is computed once"]


def test_notices_of_supervised_finetuning() -> None:
    overrides = [
        "alg.training_args.evaluation_strategy=epoch",
        "alg.training_args.logging_dir=logs",
        "env={args: {max_prompt_length: 3, max_episode_length: 4}}",
        "train_evaluation.eval_every=3",
        "tokenizer.max_length=1000",
    ]
    config = load_train_config(SUPERVISED, overrides)
    assert config.notices() == [
        "no effect on supervised finetuning: env, train_evaluation.eval_every",
        "alg.training_args.evaluation_strategy has no effect: val is evaluated every logging_steps, as "
        "train_evaluation says",
        "alg.training_args.logging_dir has no effect: logs lie in the run folder",
        "tokenizer.max_length: prompts are cut to 952 tokens, since 1,000 and 48 new ones exceed the 1,024 "
        "positions of 'lvwerra/gpt2-imdb'",
    ]
    assert load_train_config(SUPERVISED).notices() == []


def test_problems_in_training_args_are_at_their_fields() -> None:
    found = problems_of(SUPERVISED, "alg.training_args.seed=1", "alg.training_args.learning_rat=1")
    assert found == [
        ("alg.training_args.seed", "cannot be set here: set runtime.seed"),
        ("alg.training_args.learning_rat", "unknown key; did you mean 'learning_rate'?"),
    ]


def test_prompts_and_texts_fit_the_model() -> None:
    room = "env.args.max_prompt_length=976"
    load_train_config(NLPO, [room])
    assert problems_of(NLPO, "env.args.max_prompt_length=977") == [
        (
            "env.args.max_prompt_length",
            "977 tokens and 48 new ones are more than 'lvwerra/gpt2-imdb' takes; at most 976",
        )
    ]
    assert problems_of(SUPERVISED, "alg.generation_kwargs.max_new_tokens=1000") == [
        (
            "alg.generation_kwargs.max_new_tokens",
            "1,000 leaves no room for a prompt in the 1,024 positions of 'lvwerra/gpt2-imdb'",
        )
    ]


def test_supervised_finetuning_takes_no_numbered_gpu() -> None:
    message = (
        "the Trainer takes the first GPU it sees; set device: cuda, and start with CUDA_VISIBLE_DEVICES=1"
    )
    assert problems_of(SUPERVISED, "runtime.device=cuda:1") == [("runtime.device", message)]
    assert load_train_config(PPO, ["runtime.device=cuda:1"]).runtime.device == "cuda:1"


def test_perplexity_of_whole_texts_needs_a_datapool_with_them() -> None:
    metric = "train_evaluation.metrics[1].args.use_text_from_meta_data"
    for pool in ("imdb_seq2seq", "python_docs", "jsonl", "package.module:function"):
        args = "{data_path: /tmp}" if pool == "jsonl" else "{}"
        problems = load_problems(pool, args)
        assert metric not in problems, problems
    assert load_problems("imdb", "{}")[metric] == "datapool 'imdb' has no such texts; set it to false"


def load_problems(pool: str, args: str) -> dict[str, str]:
    """The problems of the IMDB config on another datapool."""
    try:
        load_train_config(SUPERVISED, [f"datapool.id={pool}", f"datapool.args={args}"])
    except ConfigError as error:
        return {problem.path: problem.message for problem in error.problems}
    return {}
