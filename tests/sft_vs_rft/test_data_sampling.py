import numpy as np
import pytest

from sft_vs_rft.data.sampling import draw_label_sets, modify_labels, stratified_subset
from sft_vs_rft.data_source import DataError

LABELS = np.repeat(np.arange(4), [400, 300, 200, 100])


def test_subset_keeps_class_shares_and_order() -> None:
    chosen = stratified_subset(LABELS, 100, seed=3)
    assert np.bincount(LABELS[chosen]).tolist() == [40, 30, 20, 10]
    assert (np.diff(chosen) > 0).all()


def test_subset_gives_rounding_leftovers_to_the_largest_remainders() -> None:
    # Shares of 7 from 400, 300, 200, 100: 2.8, 2.1, 1.4, 0.7.
    assert np.bincount(LABELS[stratified_subset(LABELS, 7, seed=3)], minlength=4).tolist() == [3, 2, 1, 1]
    equal = np.arange(30) % 3
    assert np.bincount(equal[stratified_subset(equal, 10, seed=3)]).tolist() == [4, 3, 3]


def test_subset_depends_on_the_seed_alone() -> None:
    chosen = stratified_subset(LABELS, 100, seed=3)
    assert (chosen == stratified_subset(LABELS, 100, seed=3)).all()
    assert (chosen != stratified_subset(LABELS, 100, seed=4)).any()


@pytest.mark.parametrize("size", [-1, 1000])
def test_all_inputs_stay_in_place(size: int) -> None:
    assert (stratified_subset(LABELS, size, seed=3) == np.arange(1000)).all()


def test_more_inputs_than_there_are() -> None:
    with pytest.raises(DataError, match=r"^1,001 inputs asked for, only 1,000 available \(-1 = all\)$"):
        stratified_subset(LABELS, 1001, seed=3)


def test_label_sets_hold_their_class_first_and_others_once() -> None:
    sets = draw_label_sets(10, 5, seed=1)
    assert sets.shape == (10, 5) and sets.dtype == np.int64
    assert (sets[:, 0] == np.arange(10)).all()
    assert all(len(set(row)) == 5 and set(row) <= set(range(10)) for row in sets.tolist())
    assert (sets == draw_label_sets(10, 5, seed=1)).all()
    assert (sets != draw_label_sets(10, 5, seed=2)).any()
    assert draw_label_sets(4, 1, seed=1).tolist() == [[0], [1], [2], [3]]
    assert all(sorted(row) == [0, 1, 2, 3] for row in draw_label_sets(4, 4, seed=1).tolist())


def test_label_sets_are_uniform_over_the_other_classes() -> None:
    counts = np.sum(
        [np.bincount(draw_label_sets(6, 3, seed)[2], minlength=6) for seed in range(1000)], axis=0
    )
    assert counts[2] == 1000
    others = np.delete(counts, 2)  # each in a set with probability 2/5: 400 of 1,000, standard deviation 15.5
    assert np.abs(others - 400).max() < 5 * 15.5


def test_label_set_larger_than_the_number_of_classes() -> None:
    with pytest.raises(DataError, match="num_labels_per_sample is 7, but the dataset has only 6 classes"):
        draw_label_sets(6, 7, seed=1)


@pytest.mark.parametrize("size", [1, 3])
def test_modified_labels_are_outside_the_set_and_all_others_unchanged(size: int) -> None:
    sets = draw_label_sets(4, size, seed=1)
    labels, modified = modify_labels(LABELS, sets, 0.1, seed=5)
    assert modified.sum() == 100
    assert (labels[~modified] == LABELS[~modified]).all()
    assert not (labels[modified, None] == sets[LABELS[modified]]).any()


@pytest.mark.parametrize(("frac", "count"), [(0.0, 0), (0.29, 29), (0.1, 10), (0.999, 99), (1.0, 100)])
def test_the_share_is_rounded_down(frac: float, count: int) -> None:
    labels = np.arange(100) % 4
    changed, modified = modify_labels(labels, draw_label_sets(4, 2, seed=1), frac, seed=5)
    assert modified.sum() == count == (changed != labels).sum()


def test_a_smaller_share_modifies_some_of_the_same_inputs_alike() -> None:
    sets = draw_label_sets(4, 2, seed=1)
    few_labels, few = modify_labels(LABELS, sets, 0.1, seed=5)
    many_labels, many = modify_labels(LABELS, sets, 0.4, seed=5)
    assert many[few].all() and (few_labels[few] == many_labels[few]).all()
    other_labels, other = modify_labels(LABELS, sets, 0.1, seed=6)
    assert (other != few).any() and (other_labels != few_labels).any()


def test_modified_inputs_and_their_new_labels_are_uniform() -> None:
    labels = np.zeros(20, dtype=np.int64)
    sets = np.array([[0, 2], [1, 0], [2, 0], [3, 0], [4, 0], [5, 0]])
    chosen, drawn = np.zeros(20), np.zeros(6)
    for seed in range(1000):
        changed, modified = modify_labels(labels, sets, 0.25, seed)
        chosen += modified
        drawn += np.bincount(changed[modified], minlength=6)
    assert drawn[[0, 2]].tolist() == [0, 0] and drawn.sum() == 5000

    def chi_square(counts: np.ndarray) -> float:
        return float(((counts - counts.mean()) ** 2 / counts.mean()).sum())

    assert chi_square(drawn[[1, 3, 4, 5]]) < 21.1  # 3 degrees of freedom, p = 1e-4
    assert chi_square(chosen) < 50.8  # at most 19 degrees of freedom, p = 1e-4


def test_sets_of_all_classes_leave_nothing_to_modify_with() -> None:
    with pytest.raises(DataError, match="label sets of all 4 classes leave no other label; lower num_labels"):
        modify_labels(LABELS, draw_label_sets(4, 4, seed=1), 0.1, seed=5)
    assert not modify_labels(LABELS, draw_label_sets(4, 4, seed=1), 0.0, seed=5)[1].any()


def test_a_share_of_less_than_one_input() -> None:
    with pytest.raises(
        DataError, match=r"frac_samples_to_modify_labels is 0.1: less than one of 9 train inputs"
    ):
        modify_labels(LABELS[:9], draw_label_sets(4, 2, seed=1), 0.1, seed=5)
