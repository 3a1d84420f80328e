"""What is wrong with the file of a study is told in one error, before anything runs."""

import pytest
import yaml
from planned_study import STUDIES

from common.config import ConfigError
from paper.study import load_study


@pytest.fixture
def problems(tmp_path):
    """A function: change the laptop's file, read it, return its problems with single spaces."""

    def read(change):
        data = yaml.safe_load(STUDIES["laptop"].read_text())
        change(data)
        path = tmp_path / "study.yml"
        path.write_text(yaml.safe_dump(data))
        with pytest.raises(ConfigError) as error:
            load_study(path)
        first, *lines = str(error.value).splitlines()
        assert first == f"{path}: {len(lines)} problem{'s' * (len(lines) > 1)}"
        return [" ".join(line.split()[2:]) for line in lines]

    return read


def test_unknown_names_are_told_at_once(problems):
    def change(data):
        data["starts"]["shorts"] = data["starts"].pop("short")
        data["choice"]["cases"][0] = "identifier_rogue"
        data["tasks"]["repair"]["rewards"][1] = "rogue"
        data["groups"]["scale_case"] = "continuation"
        data["sweeps"][1]["task"] = "keyword"

    case, scale, missing, start, sweep, reward = problems(change)
    assert case.startswith(
        "choice.cases[0] unknown case 'identifier_rogue'; did you mean 'identifier_rouge'? "
    )
    assert scale.startswith("groups.scale_case unknown case 'continuation'; ")
    assert missing == "starts missing: short; expected pretrained, short, sft"
    assert (
        start
        == "starts.shorts unknown value 'shorts'; did you mean 'short'? allowed: 'pretrained', 'short', 'sft'"
    )
    assert sweep.startswith("sweeps[1].task must be one of continuation, dashes, ")
    assert sweep.endswith(", got 'keyword'")
    assert reward.startswith("tasks.repair.rewards[1] must be one of bleu, ") and reward.endswith(
        "got 'rogue'"
    )


def test_without_a_short_sft_there_is_nothing_to_begin_the_cure_with(problems):
    def change(data):
        del data["short_sft"]

    start, cure = sorted(problems(change), reverse=True)
    assert start == "starts.short there is no such phase to begin with: short_sft says which"
    assert cure == "short_sft missing: the runs of groups.cure_case begin with it"


def test_one_of_several_rates_needs_a_choice(problems):
    def change(data):
        del data["choice"]
        data["starts"]["short"]["learning_rates"] = [1e-5]

    assert problems(change) == [
        f"starts.{start}.learning_rates one of several is chosen: choice says on what"
        for start in ("pretrained", "sft")
    ]
