"""A reward that gives every text of a dataset the same is refused before the run."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_runs import config_of, new_run, ppo_config, setup_of, supervised_config

from common.run_dir import find_runs
from rl4lms.blind_metrics import BlindMetricError, check_reward, find_blindness
from rl4lms.metrics import METRICS, TextBatch, build_metric
from rl4lms.rewards import REWARDS, build_reward
from rl4lms.samples import Sample
from rl4lms_extract_samples_from_model_runner import main

CHINESE = ["\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c2019\u5e74\u4e5f\u662f\u8fd9\u6837\u3002"] * 3
JAPANESE = ["\u79c1\u306f\u6771\u4eac\u306b\u4f4f\u3093\u3067\u3044\u307e\u3059\u3002"]
THAI = ["\u0e09\u0e31\u0e19\u0e23\u0e31\u0e01\u0e1b\u0e23\u0e30\u0e40\u0e17\u0e28\u0e44\u0e17\u0e22"]
RUSSIAN = [
    "\u041e\u043d \u0436\u0438\u0432\u0451\u0442 \u0432 \u041c\u043e\u0441\u043a\u0432\u0435 \u0432 1999"
]
KOREAN = ["\ub098\ub294 \uc11c\uc6b8\uc5d0 \uc0b4\uace0 \uc788\uc2b5\ub2c8\ub2e4"]
GERMAN = ["Die \u00dcbung f\u00e4llt heute aus."]
ENGLISH = ["the cat sat on the mat"]
SHORT = ["yes", "no cat", "it is so"]
MIXED = ["GPT-2 \u5f88\u597d", "the old model was worse than that one"]

NO_WORDNET = {"wordnet": False}
BLIND: list[tuple[str, dict[str, Any], list[str]]] = [
    *(
        (name, {}, CHINESE)
        for name in ("rouge_l_max", "rouge_combined", "bleu", "sacre_bleu", "ter", "parent")
    ),
    *((name, {}, THAI) for name in ("rouge_l_max", "bleu", "sacre_bleu", "ter")),
    *((name, {}, RUSSIAN) for name in ("rouge_l_max", "rouge_combined")),
    *((name, {}, KOREAN) for name in ("rouge_l_max", "rouge_combined")),
    ("rouge", {"rouge_type": "rougeL"}, JAPANESE),
    ("meteor", NO_WORDNET, JAPANESE),
    ("meteor", NO_WORDNET | {"as_released": True}, CHINESE),
    ("sacre_bleu", {"tokenize": "intl"}, CHINESE),
    ("sacre_bleu", {"tokenize": "none"}, JAPANESE),
    ("sacre_bleu", {"tokenize": "zh"}, THAI),
    *((name, {}, SHORT) for name in ("bleu", "sacre_bleu")),
    ("rouge", {"rouge_type": "rouge2"}, ["yes"]),
    *((name, {}, [""]) for name in ("rouge_l_max", "bleu", "ter", "chrf")),
]
SEEING: list[tuple[str, dict[str, Any], list[str]]] = [
    *(("chrf", {}, text) for text in (CHINESE, JAPANESE, THAI, RUSSIAN, KOREAN, GERMAN, SHORT)),
    ("sacre_bleu", {"tokenize": "zh"}, CHINESE),
    *(("sacre_bleu", {"tokenize": "char"}, text) for text in (CHINESE, JAPANESE, THAI, SHORT)),
    *((name, {}, RUSSIAN) for name in ("bleu", "sacre_bleu", "ter")),
    ("meteor", NO_WORDNET, KOREAN),
    *((name, {}, GERMAN) for name in ("rouge_l_max", "rouge_combined", "bleu", "sacre_bleu", "ter")),
    *((name, {}, ENGLISH) for name in ("rouge_l_max", "rouge_combined", "bleu", "sacre_bleu", "ter", "chrf")),
    *((name, {}, [*SHORT, *ENGLISH]) for name in ("bleu", "sacre_bleu")),
    *((name, {}, SHORT) for name in ("rouge_l_max", "ter")),
    *((name, {}, MIXED) for name in ("rouge_l_max", "bleu")),
    ("meteor", NO_WORDNET | {"shaping_fn": "common_gen_repeat_penalty"}, ["generate a sentence"]),
    ("increasing_numbers", {}, [""]),  # looks at no reference
]


def samples_of(references: list[str]) -> list[Sample]:
    return [Sample(i, "p", [reference] if reference else []) for i, reference in enumerate(references)]


@pytest.mark.parametrize(("name", "args", "references"), BLIND)
def test_a_reward_that_sees_nothing(name: str, args: dict[str, Any], references: list[str]) -> None:
    with pytest.raises(BlindMetricError, match=f"reward '{name}' "):
        check_reward(name, args, samples_of(references), "reward")


@pytest.mark.parametrize(("name", "args", "references"), SEEING)
def test_a_reward_that_sees_something(name: str, args: dict[str, Any], references: list[str]) -> None:
    check_reward(name, args, samples_of(references), "reward")


CURE = (
    "chrf sees every script, sacre_bleu those with spaces, and with args {tokenize: zh} Chinese, ja-mecab "
    "Japanese, ko-mecab Korean, char any"
)


def test_wording() -> None:
    assert find_blindness("rouge_l_max", {}, samples_of(CHINESE), "reward") == (
        "'rouge_l_max' compares words of ASCII letters and digits: it cannot see most letters of the "
        f"references (such as {CHINESE[0]!r}), and texts would get 0 whatever they say; {CURE}"
    )
    assert find_blindness("bleu", {}, samples_of(SHORT), "metric") == (
        "'bleu' gives each of the 3 references that were looked at 0 against itself (such as 'yes'), so "
        f"every text would get 0 (bleu and sacre_bleu need four words); {CURE}"
    )
    assert find_blindness("chrf", {}, samples_of([""]), "metric") == (
        "'chrf' compares texts with references, and no sample of the dataset has one"
    )


def test_metrics_of_an_extraction() -> None:
    for name in ("rouge", "rouge_l_max", "bleu", "sacre_bleu", "ter"):
        assert find_blindness(name, {}, samples_of(CHINESE), "metric")
        assert find_blindness(name, {}, samples_of(ENGLISH), "metric") is None
    penalty = {"wordnet": False, "prefix": "p: "}
    assert find_blindness("meteor_common_gen_repeat_penalty", penalty, samples_of(ENGLISH), "metric") is None
    assert find_blindness("meteor_common_gen_repeat_penalty", penalty, samples_of(CHINESE), "metric")


def test_some_references_among_many_suffice() -> None:
    samples = samples_of([*[""] * 999, ENGLISH[0]])
    check_reward("chrf", {}, samples, "reward")
    check_reward("bleu", {}, samples, "reward")


@pytest.mark.parametrize("references", [[], [""], ["a b c d"], ["a b c d", ""]])
@pytest.mark.parametrize(
    "name", ["rouge_l_max", "rouge_combined", "bleu", "sacre_bleu", "ter", "chrf", "meteor"]
)
def test_an_empty_text_is_never_best(name: str, references: list[str]) -> None:
    texts = ["", " ", "a b c d", "x", "x y z u v w"]
    batch = TextBatch([""] * 5, texts, [references] * 5, [{}] * 5)
    values = build_reward(name, NO_WORDNET if name == "meteor" else {})(batch)
    assert max(values[:2]) <= min(max(values[2:]), 0)


def test_ter_of_nothing_against_nothing_is_not_the_best() -> None:
    for references in ([], [""]):
        score = build_metric("ter")(TextBatch([""], [""], [references], [{}]))["lexical/ter"]
        assert (score.per_sample, score.corpus) == ([1.0], 1.0)


def test_what_japanese_and_korean_need_is_said_before_the_run() -> None:
    for registry in (METRICS, REWARDS):
        for tokenize, extra in (("ja-mecab", "ja"), ("ko-mecab", "ko")):
            problems = registry.missing("sacre_bleu", {"tokenize": tokenize})
            assert [(p.path, p.message) for p in problems] == [
                (
                    "args.tokenize",
                    f"'{tokenize}' needs packages that are not installed: pip install 'sacrebleu[{extra}]'",
                )
            ]
        assert registry.missing("sacre_bleu", {"tokenize": "zh"}) == []


def save_chinese(folder: Path) -> Path:
    folder.mkdir()
    rows = [{"prompt": f"the dog {i}", "references": CHINESE[0]} for i in range(8)]
    for split in ("train", "val", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_an_extraction_is_refused(tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        "tokenizer": {"model_name": str(tiny_t5)},
        "datapool": {"id": "jsonl", "args": {"data_path": str(save_chinese(tmp_path / "data"))}},
        "alg": {"model_type": "seq2seq", "model_name": str(tiny_t5), "generation_kwargs": {}},
        "evaluation": {"eval_batch_size": 8, "metrics": [{"id": "rouge_l_max"}]},
    }
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(config))
    assert main(["--config_path", str(file), "--output_path", str(tmp_path / "out")]) != 0
    printed = capsys.readouterr().err
    assert "metric 'rouge_l_max' compares words of ASCII letters and digits" in printed
    assert "Traceback" not in printed and "--resume" not in printed
    assert "nothing has begun: the run's folder is removed" in printed
    assert not find_runs(tmp_path / "out")


def test_ppo_is_refused_and_metrics_of_sft_are_warned_of(
    tiny_t5: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = save_chinese(tmp_path / "data")
    ppo = ppo_config(tiny_t5, data, "seq2seq") | {"reward_fn": {"id": "rouge_l_max"}}
    with (
        new_run(tmp_path / "ppo", config_of(ppo)) as run,
        pytest.raises(BlindMetricError, match="rouge_l_max"),
    ):
        setup_of(config_of(ppo), run)
    supervised = supervised_config(tiny_t5, data)
    supervised["train_evaluation"]["metrics"] = [{"id": "bleu"}, {"id": "chrf"}]
    with new_run(tmp_path / "sft", config_of(supervised)) as run:
        setup_of(config_of(supervised), run)
    (warning,) = [record.getMessage() for record in caplog.records if "cannot see" in record.getMessage()]
    assert warning.startswith("metric 'bleu' compares words between spaces")
