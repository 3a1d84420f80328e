"""Names of columns and values that tables should not have, for tests."""

NAMES = [
    *("prompt", "reward", "step", "prompt_id", "completion", "score", "advantage", "format_reward", "filter"),
    *("answer", "", "\0", "é", "reward ", "Prompt", "__index_level_0__", "accuracy_reward"),
]
VALUES = [
    *(None, "", 0, 1, -1, 0.5, 1e300, -1e308, 5e-324, 1e30, 10**30, 10**400, float("nan"), float("inf")),
    *(True, "x", "1", "1e5", "nan", "é", "\ud83d", "=1", [], [1], {}, {"a": 1}, "[", "\0", "a\nb", '"', "'"),
    *([{"role": "user", "content": "x"}], "9" * 5_000, 2**53, 2**63, 1.5, "step_3"),
]  # fmt: skip
