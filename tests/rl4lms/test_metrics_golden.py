"""Golden values: what the released research code and the libraries it calls computed."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from text_pairs import batch_of

from rl4lms import requirements
from rl4lms.metrics import Score, TextBatch, build_metric
from rl4lms.metrics import meteor as meteor_module
from rl4lms.wordnet import SHARED, find_places

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((FOLDER / "metrics.json").read_text(encoding="utf-8"))
PAIRS = GOLDEN["pairs"]
BATCH = batch_of([(pair["prediction"], pair["references"]) for pair in PAIRS])
TOLERANCE = 1e-6


def expected(name: str) -> list[float]:
    # null: the released code gave "n/a" for a text too short for it; ours is 0.
    return [pair["values"][name] or 0.0 for pair in PAIRS]


def per_sample(metric: str, args: dict[str, Any], key: str) -> list[float]:
    values = build_metric(metric, args)(BATCH)[key].per_sample
    assert values is not None
    return values


@pytest.mark.parametrize(
    ("name", "metric", "args", "key"),
    [
        ("rouge_l_max", "rouge_l_max", {}, "lexical/rouge_l_max"),
        ("sacre_bleu", "sacre_bleu", {}, "lexical/sacrebleu"),
        ("sacre_bleu_intl", "sacre_bleu", {"tokenize": "intl"}, "lexical/sacrebleu"),
        ("chrf", "chrf", {}, "lexical/chrf"),
        ("ter", "ter", {}, "lexical/ter"),
        ("bleu", "bleu", {}, "lexical/bleu"),
        *(
            (f"rouge_first_reference_{kind}", "rouge", {}, f"lexical/rouge_{kind}")
            for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum")
        ),
    ],
)
def test_overlap_of_each_pair(name: str, metric: str, args: dict[str, Any], key: str) -> None:
    assert len(PAIRS) == 30
    assert per_sample(metric, args, key) == pytest.approx(expected(name), abs=TOLERANCE)


@pytest.fixture
def wordnet_extract(monkeypatch: pytest.MonkeyPatch) -> None:
    """WordNet 3.0's synonyms of all words that METEOR looks up in the golden pairs."""
    synonyms = json.loads((FOLDER / "wordnet_synonyms.json").read_text(encoding="utf-8"))["synonyms"]

    def synsets(word: str) -> list[Any]:
        lemmas = [SimpleNamespace(name=lambda name=name: name) for name in synonyms[word]]
        return [SimpleNamespace(lemmas=lambda: lemmas)]

    monkeypatch.setattr(meteor_module, "_wordnet", lambda: SimpleNamespace(synsets=synsets))


@pytest.mark.usefixtures("wordnet_extract")
@pytest.mark.parametrize(
    ("name", "args"), [("meteor_best_reference", {}), ("meteor_as_released", {"as_released": True})]
)
def test_meteor_of_each_pair(name: str, args: dict[str, Any]) -> None:
    assert per_sample("meteor", args, "lexical/meteor") == pytest.approx(expected(name), abs=TOLERANCE)


METEOR_VALUES = pytest.mark.parametrize(
    ("name", "args"), [("meteor_best_reference", {}), ("meteor_as_released", {"as_released": True})]
)


@METEOR_VALUES
def test_meteor_with_debians_wordnet(
    name: str, args: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the package wordnet-base installs suffices: it lacks files that NLTK's reader asks for."""
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is not there: apt-get install wordnet-base")
    monkeypatch.setattr(requirements, "find_places", lambda folders: [SHARED])
    meteor_module._wordnet.cache_clear()
    assert per_sample("meteor", args, "lexical/meteor") == pytest.approx(expected(name), abs=TOLERANCE)


@pytest.mark.network
@METEOR_VALUES
def test_meteor_with_the_downloaded_wordnet(
    name: str, args: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk

    assert nltk.download("wordnet", download_dir=str(tmp_path), quiet=True)
    places = find_places([tmp_path])
    assert places[0].parent == tmp_path / "corpora"
    monkeypatch.setattr(requirements, "find_places", lambda folders: places[:1])
    meteor_module._wordnet.cache_clear()
    assert per_sample("meteor", args, "lexical/meteor") == pytest.approx(expected(name), abs=TOLERANCE)


@pytest.mark.parametrize("texts", sorted(GOLDEN["diversity"]))
@pytest.mark.parametrize("window", [100, 10])
def test_diversity(texts: str, window: int) -> None:
    golden = GOLDEN["diversity"][texts]
    scores = build_metric("diversity", {"window_size": window})(batch_of([(t, []) for t in golden["texts"]]))
    wanted = {name: float(corpus) for name, (_, corpus) in golden[f"window_{window}"].items()}
    assert {name: score.corpus for name, score in scores.items()} == pytest.approx(
        wanted, abs=TOLERANCE, nan_ok=True
    )


def totto_scores(metric: str) -> dict[str, Score]:
    tables = GOLDEN["totto"]["all_tables_for_scores"]
    return build_metric(metric)(
        TextBatch(
            prompts=[""] * len(tables),
            generated=GOLDEN["totto"]["scores"]["predictions"],
            references=[[a["final_sentence"] for a in table["sentence_annotations"]] for table in tables],
            meta=[{"raw_table": table} for table in tables],
        )
    )


@pytest.mark.parametrize(("metric", "tolerance"), [("parent", 1e-4), ("bleu", 1e-3)])
def test_totto(metric: str, tolerance: float) -> None:
    golden = GOLDEN["totto"]["scores"][metric]
    scores = totto_scores(f"{metric}_totto")
    wanted = {name: corpus for name, (_, corpus) in golden.items()}
    assert {name: score.corpus for name, score in scores.items()} == pytest.approx(wanted, abs=tolerance)
    for name, (values, _) in golden.items():
        if values is not None:
            assert scores[name].per_sample == pytest.approx(values, abs=tolerance)


def test_totto_subsets() -> None:
    """The overlap values of a single text are those of the text if its table is in the subset, else none."""
    tables = GOLDEN["totto"]["all_tables_for_scores"]
    for metric in ("parent_totto", "bleu_totto"):
        for name, score in totto_scores(metric).items():
            inside = [
                "overall" in name or table["overlap_subset"] == ("non_overlap" not in name)
                for table in tables
            ]
            assert [not math.isnan(value) for value in score.per_sample or []] == inside
