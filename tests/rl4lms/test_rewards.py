"""Built-in rewards, users' own functions, and what the user is told when one fails."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from text_pairs import batch_of, text_pairs
from tiny_encoders import save_tiny_bert

from common.config import ConfigError
from rl4lms.metrics import TextBatch, build_metric
from rl4lms.requirements import RequirementError
from rl4lms.rewards import REWARDS, RewardError, build_reward, checked

BATCH = text_pairs(60)
PAIR = batch_of([("a cat", ["a cat"]), ("a dog", ["a cat"])])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("models") / "classifier", labels=4)


@pytest.mark.parametrize(
    ("reward", "args", "metric", "metric_args", "key"),
    [
        ("rouge_l_max", {"alpha": 0.3}, "rouge_l_max", {"alpha": 0.3}, "lexical/rouge_l_max"),
        ("meteor", {"wordnet": False}, "meteor", {"wordnet": False}, "lexical/meteor_no_wordnet"),
        ("sacre_bleu", {"tokenize": "intl"}, "sacre_bleu", {"tokenize": "intl"}, "lexical/sacrebleu"),
        ("bleu", {}, "bleu", {}, "lexical/bleu"),
        ("chrf", {}, "chrf", {}, "lexical/chrf"),
        ("rouge", {"rouge_type": "rouge2"}, "rouge", {}, "lexical/rouge_rouge2"),
        ("rouge", {"rouge_type": "rougeL"}, "rouge", {}, "lexical/rouge_rougeL"),
    ],
)
def test_rewards_that_are_a_metric_of_each_text(
    reward: str, args: dict[str, Any], metric: str, metric_args: dict[str, Any], key: str
) -> None:
    values = build_reward(reward, args)(BATCH)
    assert values == build_metric(metric, metric_args)(BATCH)[key].per_sample
    assert len(set(values)) > 10


def test_ter_reward_is_one_minus_ter() -> None:
    assert build_reward("ter")(PAIR) == [1, 0.5]


def test_rouge_combined_is_the_mean_of_three() -> None:
    args = {"use_single_ref": False}
    kinds = [
        build_reward("rouge", args | {"rouge_type": kind})(BATCH)
        for kind in ("rouge1", "rouge2", "rougeLsum")
    ]
    assert build_reward("rouge_combined", args)(BATCH) == pytest.approx(np.mean(kinds, axis=0))


@pytest.mark.parametrize("name", ["meteor", "sacre_bleu", "rouge", "rouge_combined", "bleu", "chrf", "ter"])
def test_shaping_takes_one_from_texts_that_repeat_their_prompt(name: str) -> None:
    args = {"meteor": {"wordnet": False}, "rouge": {"rouge_type": "rouge1"}}.get(name, {})
    prompts = ["generate a sentence with: cat dog."] * 2
    texts = ["a Cat Dog", "a dog and a cat"]
    batch = TextBatch(prompts, texts, [["a cat and a dog"]] * 2, [{}, {}])
    plain = build_reward(name, args)(batch)
    shaped = build_reward(name, args | {"shaping_fn": "common_gen_repeat_penalty"})(batch)
    assert shaped == pytest.approx([plain[0] - 1, plain[1]])


def test_learned_reward_and_intent_accuracy(classifier: Path) -> None:
    texts = ["the cat", "a good film"]
    batch = TextBatch(["it<EOU>", "was<EOU>"], texts, [["the cat"], ["x"]], [{"intent": [n]} for n in (1, 2)])
    model = {"model_name": str(classifier)}
    metric = build_metric("learned_reward", model | {"label_ix": 2})(batch)
    values = build_reward("learned_reward", model | {"label_ix": 2})(batch)
    assert values == metric["semantic/learned_automodel_metric"].per_sample

    hits = build_metric("intent_accuracy", model)(batch)["intent/accuracy"].per_sample or []
    overlap = build_metric("meteor", {"wordnet": False})(batch)["lexical/meteor_no_wordnet"].per_sample or []
    args = model | {"wordnet": False, "intent_coeff": 2.0, "auto_coeff": 0.5}
    expected = [2 * hit + 0.5 * value for hit, value in zip(hits, overlap, strict=True)]
    assert build_reward("intent_accuracy", args)(batch) == pytest.approx(expected)
    # Without METEOR no WordNet is needed.
    assert build_reward("intent_accuracy", model | {"auto_coeff": 0})(batch) == hits
    assert REWARDS.missing("intent_accuracy", model | {"auto_coeff": 0}) == []


def test_bert_score_and_parent(tmp_path: Path) -> None:
    args = {"language": "de", "model_name": str(save_tiny_bert(tmp_path, labels=None)), "num_layers": 1}
    values = build_reward("bert_score", args)(PAIR)
    assert values == build_metric("bert_score", args)(PAIR)["semantic/bert_score"].per_sample

    table = {
        "table": [[{"value": "a cat is here"}]],
        "highlighted_cells": [[0, 0]],
        "table_page_title": "",
        "table_section_title": "",
        "overlap_subset": True,
    }
    batch = TextBatch(
        [""] * 2, ["a cat is here", "a dog was there"], [["a cat is here"]] * 2, [{"raw_table": table}] * 2
    )
    values = build_reward("parent")(batch)
    assert values == build_metric("parent_totto")(batch)["table_to_text/parent_overall_f_score"].per_sample
    assert values[0] == pytest.approx(1) and values[1] < 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 2 3.5 4", 4 / 5),  # of at least half of min_tokens
        ("1 2 3 4 5 6 7 8 9 10 11 12", 1),
        ("one 1 two 3 2 5", 2 / 6),
        ("3 3", 1 / 5),
        ("no numbers here", 0),
        ("", 0),
    ],
)
def test_increasing_numbers(text: str, expected: float) -> None:
    reward = build_reward("increasing_numbers", {"min_tokens": 10})
    assert reward(batch_of([(text, [])])) == [pytest.approx(expected)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He came on 3 May 1990. She did not.", 1 / 2),
        ("In 1998 it rose. On 2020-01-31 it fell! When? In March 2021.", 3 / 4),
        ("It was July 4, and 12/24/2003; the 3rd of June", 1),
        ("Five may go. There are 12345 of them, or 3.14.", 0),
        ("", 0),
    ],
)
def test_sentences_with_dates(text: str, expected: float) -> None:
    assert build_reward("sentences_with_dates")(batch_of([(text, [])])) == [pytest.approx(expected)]


OWN = """
def length(batch, scale: float = 1.0):
    return [scale * len(text) for text in batch.generated]

def plain(prompts, completions, references, weight, limit: int = 5, **columns):
    assert limit == 7
    rows = zip(prompts, completions, references, weight, columns["source"])
    return [len(p) + len(c) + len(r) * w + len(s or "") for p, c, r, w, s in rows]

def short(completions, missing_column):
    return [0.0 for _ in completions]

def of_trl(prompts, completions, completion_ids, solution, trainer_state, log_extra=None, **kwargs):
    return [0.0 for _ in completions]

def only_completions(completions):
    return [float(len(completion)) for completion in completions]

class Judge:
    pass
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of the user's own in the working directory."""
    (tmp_path / f"own_{tmp_path.name.replace('-', '_')}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return f"own_{tmp_path.name.replace('-', '_')}"


def test_own_function_of_a_batch(own: str) -> None:
    assert build_reward(f"{own}:length", {"scale": 2})(PAIR) == [10, 10]


def test_own_function_in_the_plain_form(own: str) -> None:
    """It gets prompts, completions, references and every column of the meta data, as lists."""
    meta = [{"weight": 10, "source": "abc"}, {"weight": 0}]
    batch = TextBatch(["p", "pp"], ["cc", "c"], [["r"], ["r", "r"]], meta)
    assert build_reward(f"{own}:plain", {"limit": 7})(batch) == [1 + 2 + 10 + 3, 2 + 1]
    assert build_reward(f"{own}:only_completions")(batch) == [2, 1]


def test_arguments_of_own_functions_are_checked(own: str) -> None:
    def problem(name: str, args: dict[str, Any]) -> tuple[str, str]:
        (found,) = REWARDS.check(f"{own}:{name}", args)
        return found.path, found.message

    assert problem("length", {"scael": 1}) == ("args.scael", "unknown key; did you mean 'scale'?")
    assert problem("length", {"scale": "two"}) == ("args.scale", "expected a number, got 'two' (a string)")
    assert problem("only_completions", {"completions": []})[1] == "unknown key; known: none"
    assert problem("lenght", {}) == ("id", f"module {own!r} has no 'lenght'; did you mean 'length'?")
    assert problem("Judge", {}) == ("id", f"'{own}:Judge' is a class; a reward is a function")
    assert REWARDS.check(f"{own}:plain", {"limit": 3, "anything": "goes"}) == []
    with pytest.raises(ConfigError, match=r"args\.scale +expected a number"):
        build_reward(f"{own}:length", {"scale": "two"})


def test_a_column_that_the_samples_lack(own: str) -> None:
    with pytest.raises(RewardError) as caught:
        build_reward(f"{own}:short")(PAIR)
    assert "no column 'missing_column'; the samples have completions, prompts, references" in str(
        caught.value
    )


def test_what_only_trl_gives_is_named(own: str) -> None:
    with pytest.raises(RewardError) as caught:
        build_reward(f"{own}:of_trl")(PAIR)
    assert (
        "no column 'completion_ids', 'solution', 'trainer_state'; the samples have completions, prompts, "
        "references; what TRL gives as completion_ids, trainer_state is not given here: let it have a default"
    ) in str(caught.value)


def failing(batch: TextBatch) -> list[float]:
    return [1 / (len(text) - 5) for text in batch.generated]


ONE_EACH = "expected a list with one number per text: [reward of the first text, ...]"
IN_RANGE = "expected a finite number: one between -3.4e+38 and 3.4e+38, also where it cannot be computed"
FLAT = "expected a finite number: return a flat list, array or tensor of shape [N] for N texts"
FIRST, SECOND = "for text 0 ('a cat' after prompt '')", "for text 1 ('a dog' after prompt '')"


@pytest.mark.parametrize(
    ("returned", "message", "index"),
    [
        ([1.0, math.nan], f"returned nan {SECOND}; {IN_RANGE}", 1),
        ([math.inf, 1.0], f"returned inf {FIRST}; {IN_RANGE}", 0),
        ([1.0, torch.tensor(math.nan)], f"returned nan {SECOND}; {IN_RANGE}", 1),
        ([1.0, -3.5e38], f"returned -3.5e+38 {SECOND}; {IN_RANGE}", 1),
        ([1.0, 10**39], f"returned 1{'0' * 39} {SECOND}; {IN_RANGE}", 1),
        (
            [1.0, None],
            f"returned None {SECOND}; expected a finite number: return one for every text, such as 0.0 where "
            "the reward does not apply (None says so only if reward_fn lists several rewards and another one "
            "applies)",
            1,
        ),
        (
            ["1", 2.0],
            f"returned '1' {FIRST}; expected a finite number: turn it into one, such as float(value)",
            0,
        ),
        (
            [1.0],
            "returned 1 values for 2 texts; expected one number per text: also for those that it has nothing "
            "to say about, in their order",
            None,
        ),
        (0.5, f"returned 0.5; {ONE_EACH}", None),
        (torch.tensor(0.5), f"returned tensor(0.5000); {ONE_EACH}", None),
        (None, f"returned None; {ONE_EACH}", None),
        (torch.tensor([[1.0], [2.0]]), f"returned [1.0] {FIRST}; {FLAT}", 0),
        ([torch.tensor([1.0]), 1.0], f"returned tensor([1.]) {FIRST}; {FLAT}", 0),
    ],
    ids=str,
)
def test_what_a_reward_may_not_return(returned: Any, message: str, index: int | None) -> None:
    def judge(batch: TextBatch) -> Any:
        return returned

    with pytest.raises(RewardError) as caught:
        checked(judge, "mine:judge")(PAIR)
    assert str(caught.value) == f"reward 'mine:judge' {message}"
    assert caught.value.index == index


@pytest.mark.parametrize(
    "returned",
    [
        [1, 0.5],
        (True, 0.5),
        np.array([1, 0.5], np.float32),
        [np.float32(1), np.float64(0.5)],
        [np.bool_(True), np.array(0.5)],
        torch.tensor([1, 0.5], requires_grad=True),
        torch.tensor([1, 0.5], dtype=torch.bfloat16),
        [torch.tensor(1), torch.tensor(0.5, requires_grad=True)],
    ],
    ids=repr,
)
def test_what_a_reward_may_return(returned: Any) -> None:
    values = checked(lambda batch: returned)(PAIR)
    assert values == [1, 0.5] and all(type(value) is float for value in values)


def test_a_reward_that_raises_names_the_first_text() -> None:
    texts = ["abc", "abcde", "abcde"]
    batch = TextBatch(["p", "a prompt", "p"], texts, [[]] * 3, [{}] * 3)
    with pytest.raises(RewardError) as caught:
        checked(failing)(batch)
    line = failing.__code__.co_firstlineno + 1
    assert str(caught.value) == (
        "reward 'failing' raised ZeroDivisionError for text 1 ('abcde' after prompt 'a prompt'): "
        f"division by zero, at {__file__}:{line}"
    )
    assert caught.value.index == 1
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("error", [SystemExit(3), SystemExit(), GeneratorExit("gone"), BaseException("all")])
def test_whatever_a_reward_raises_is_its_error(error: BaseException) -> None:
    def judge(batch: TextBatch) -> list[float]:
        if "a dog" in batch.generated:
            raise error
        return [0.0] * len(batch)

    with pytest.raises(RewardError) as caught:
        checked(judge, "judge")(PAIR)
    place = f"{__file__}:{judge.__code__.co_firstlineno + 2}"
    said = f"{error}, " if str(error) else ""
    assert str(caught.value) == (f"reward 'judge' raised {type(error).__name__} {SECOND}: {said}at {place}")
    assert caught.value.index == 1


def test_ctrl_c_in_a_reward_is_the_user_s() -> None:
    def judge(batch: TextBatch) -> list[float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checked(judge, "judge")(PAIR)


def test_ctrl_c_while_the_failing_text_is_sought_is_the_user_s() -> None:
    calls = []

    def judge(batch: TextBatch) -> list[float]:
        calls.append(len(batch))
        if len(calls) > 1:
            raise KeyboardInterrupt
        raise ValueError

    with pytest.raises(KeyboardInterrupt):
        checked(judge, "judge")(PAIR)
    assert calls == [2, 2]


def test_a_reward_that_raises_only_for_several_texts() -> None:
    def picky(batch: TextBatch) -> list[float]:
        if len(batch) > 1:
            raise MemoryError("too many")
        return [0.0]

    with pytest.raises(RewardError, match="raised MemoryError for 2 texts together: too many") as caught:
        checked(picky, "picky")(PAIR)
    assert caught.value.index is None


def test_a_reward_that_raises_for_no_text_at_all() -> None:
    def mean(batch: TextBatch) -> list[float]:
        return [1 / len(batch)]

    with pytest.raises(RewardError, match="raised ZeroDivisionError for 0 texts together: ") as caught:
        checked(mean, "mean")(TextBatch([], [], [], []))
    assert caught.value.index is None


def test_long_texts_are_shortened_in_messages() -> None:
    batch = TextBatch(["p" * 1000], ["t" * 1000], [[]], [{}])
    with pytest.raises(RewardError) as caught:
        checked(lambda batch: [math.nan], "mine")(batch)
    assert len(str(caught.value)) < 400


def test_what_is_not_on_this_machine_is_no_fault_of_a_text() -> None:
    with pytest.raises(RequirementError, match=r"no such folder: '\./nowhere'"):
        build_reward("learned_reward", {"model_name": "./nowhere", "label_ix": 0})(PAIR)
