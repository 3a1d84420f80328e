"""From pydantic's findings to the user's words: the message and the path of every kind of problem."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, field_validator

from common.config import Config, unknown_key, unknown_name, validate


class Reward(Config):
    id: str


class PPO(Config):
    id: Literal["ppo"]


class Supervised(Config):
    id: Literal["supervised"]
    lr: float = Field(1e-4, gt=0)


class Train(Config):
    reward_fn: Reward
    alg: Annotated[PPO | Supervised, Field(discriminator="id", description="what to train with")]


def _problems(model: type[Config], **data: Any) -> list[tuple[str, str]]:
    config, problems = validate(model, data)
    assert (config is None) == bool(problems)
    return [(problem.path, problem.message) for problem in problems]


class Everything(Config):
    count: int = Field(1, ge=1, lt=100)
    rate: float = Field(0.5, gt=0, le=1)
    flag: bool = False
    name: str = "x"
    kind: Literal["adam", "sgd"] = "adam"
    maybe: Literal["all", "none"] | None = None
    size: int | Literal["auto"] = "auto"
    many: list[Annotated[int, Field(ge=0)]] = Field([1], min_length=1)
    table: dict[str, float] = Field({})
    one_or_more: str | list[str] = "x"
    lists: list[int] | dict[str, int] = Field([])
    odd: int = 1
    inner: Supervised | None = None
    plain_union: Supervised | Reward | None = None

    @field_validator("odd")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"must be odd, got {value}")
        return value


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("count", "abc", "expected a whole number >= 1 and < 100, got 'abc' (a string)"),
        ("odd", "abc", "expected a whole number, got 'abc' (a string)"),
        ("count", True, "expected a whole number >= 1 and < 100, got true (a boolean)"),
        ("odd", 2.5, "expected a whole number, got 2.5 (a decimal number)"),
        ("odd", 1e3, "expected a whole number, got 1000.0 (a decimal number); write 1000"),
        ("odd", None, "expected a whole number, got null"),
        ("odd", [1], "expected a whole number, got a list"),
        ("odd", 4, "must be odd, got 4"),
        ("count", 0, "must be at least 1, got 0"),
        ("count", 100, "must be less than 100, got 100"),
        ("rate", 0, "must be greater than 0, got 0"),
        ("rate", 1.5, "must be at most 1, got 1.5"),
        ("rate", float("nan"), "must be a finite number, got nan"),
        ("rate", "1", "expected a number > 0 and <= 1, got '1' (a string)"),
        ("flag", 1, "expected true or false, got 1 (a whole number)"),
        ("flag", "yes", "expected true or false, got 'yes' (a string)"),
        ("name", 5, "expected a string, got 5 (a whole number); put it in quotes"),
        ("name", {"a": 1}, "expected a string, got a mapping"),
        ("kind", "adm", "unknown value 'adm'; did you mean 'adam'? allowed: 'adam', 'sgd'"),
        ("kind", "SGD", "unknown value 'SGD'; did you mean 'sgd'? allowed: 'adam', 'sgd'"),
        ("kind", "rmsprop", "unknown value 'rmsprop'; allowed: 'adam', 'sgd'"),
        ("kind", 3, "expected 'adam' or 'sgd', got 3 (a whole number)"),
        ("maybe", "al", "unknown value 'al'; did you mean 'all'? allowed: 'all', 'none', null"),
        ("size", "aut", "expected a whole number or 'auto', got 'aut' (a string); did you mean 'auto'?"),
        ("size", [], "expected a whole number or 'auto', got a list"),
        ("many", "1,2", "expected a list of whole numbers >= 0 that is not empty, got '1,2' (a string)"),
        ("many", [], "must not be empty"),
        ("table", [], "expected a mapping, got a list"),
        (
            "one_or_more",
            5,
            "expected a string or a list of strings, got 5 (a whole number); put it in quotes",
        ),
        ("inner", "x", "expected a mapping or null, got 'x' (a string)"),
        ("plain_union", 7, "expected a mapping or null, got 7 (a whole number)"),
    ],
)
def test_messages_of_a_value(field, value, message):
    assert _problems(Everything, **{field: value}) == [(field, message)]


@pytest.mark.parametrize(
    ("field", "value", "path", "message"),
    [
        ("many", [1, 2, -1], "many[2]", "must be at least 0, got -1"),
        ("table", {"a": 1, "b.c": "x"}, 'table["b.c"]', "expected a number, got 'x' (a string)"),
        (
            "one_or_more",
            ["a", 5],
            "one_or_more[1]",
            "expected a string, got 5 (a whole number); put it in quotes",
        ),
        ("lists", {"a": 1, "b": None}, "lists.b", "expected a whole number, got null"),
        ("lists", [1, "b"], "lists[1]", "expected a whole number, got 'b' (a string)"),
        ("inner", {"id": "supervised", "lr": 0}, "inner.lr", "must be greater than 0, got 0"),
        (
            "plain_union",
            {"id": "supervised", "lr": "x"},
            "plain_union.lr",
            "expected a number > 0, got 'x' (a string)",
        ),
    ],
)
def test_paths_inside_a_value(field, value, path, message):
    assert _problems(Everything, **{field: value}) == [(path, message)]


def test_numbers_are_read_leniently_only_from_whole_to_decimal():
    config, _ = validate(Everything, {"rate": 1})
    assert config is not None and config.rate == 1.0 and type(config.rate) is float
    with pytest.raises(ValidationError, match="frozen"):
        config.rate = 0.5  # type: ignore[misc]


def test_unknown_keys():
    long = [f"field_{i}" for i in range(13)]
    assert unknown_key("n_epoch", ["lr", "n_epochs"]) == "unknown key; did you mean 'n_epochs'?"
    assert unknown_key("zzz", long) == f"unknown key; known: {', '.join(long[:12])}, ..."
    assert unknown_key("zzz", long[:12]) == f"unknown key; known: {', '.join(long[:12])}"
    assert unknown_name("reward", "x", ["meteor"]) == "unknown reward 'x'; known: meteor"


def test_discriminated_unions():
    reward = {"id": "meteor"}
    assert _problems(Train, reward_fn=reward, alg={"id": "pp0"}) == [
        ("alg.id", "unknown value 'pp0'; did you mean 'ppo'? allowed: 'ppo', 'supervised'")
    ]
    assert _problems(Train, reward_fn=reward, alg={}) == [
        ("alg.id", "missing; expected 'ppo' or 'supervised'")
    ]
    assert _problems(Train, reward_fn=reward, alg={"id": 3}) == [
        ("alg.id", "expected 'ppo' or 'supervised', got 3 (a whole number)")
    ]
    assert _problems(Train, reward_fn=reward, alg=3) == [
        ("alg", "expected a mapping, got 3 (a whole number)")
    ]
    assert _problems(Train, reward_fn=reward, alg={"id": "supervised", "lr": 0, "args": {}}) == [
        ("alg.lr", "must be greater than 0, got 0"),
        ("alg.args", "unknown key; known: id, lr"),
    ]
    assert _problems(Train, reward_fn=reward) == [("alg", "missing; expected a mapping (what to train with)")]


def test_union_branch_named_like_a_key():
    """A key of the data that is called as pydantic calls the branch must not be lost from the path."""

    class A(Config):
        id: Literal["a"]
        a: dict[str, int] = Field({})

    class B(Config):
        id: Literal["b"]

    class Holder(Config):
        items: list[Annotated[A | B, Field(discriminator="id")] | None] = Field([])

    assert _problems(Holder, items=[None, {"id": "a", "a": {"a": "x"}}]) == [
        ("items[1].a.a", "expected a whole number, got 'x' (a string)")
    ]
