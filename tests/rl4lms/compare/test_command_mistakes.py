"""What the command says of arguments and files that cannot be used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from clones import REPO

from rl4lms_compare import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.json"], "give at least two models to compare"),
        (["a.json", "b.jsn"], "no such file or folder: 'b.jsn'; did you mean 'b.json'?"),
        (["a.json", "no/such/b.json"], "no such file or folder: 'no/such/b.json'"),
        (["a.json", "a.json"], "a.json is given twice"),
        (["a.json", "b" * 300], "File name too long"),
        (["a.json", "b.json", "--judge", "~no_such_user/c.json"], "--judge '~no_such_user/c.json': "),
        (["a.json", "notes.txt"], "notes.txt is neither the .pt file of an extraction nor the .json file of"),
        (["a.json", "empty"], "folder 'empty' holds neither a run nor a model nor an extraction"),
        (
            ["a.json", "model"],
            "model is a model without texts: make them now with --config_path (a config of",
        ),
        (
            ["a.json", "b.json", "--judge", "chr"],
            "--judge chr: unknown judge 'chr'; did you mean 'chrf'? known:",
        ),
        (
            ["a.json", "b.json", "--judge", "me/choices.json"],
            "--judge me/choices.json: no such file or folder",
        ),
        (
            ["a.json", "b.json", "--judge", "empty"],
            "--judge empty: args.model_name: folder 'empty' holds no model",
        ),
        (
            ["a.json", "b.json", "--judge", "{id: meteor, args: {word_net: false}}"],
            "--judge meteor: args.word_net: unknown key; did you mean 'wordnet'?",
        ),
        (
            ["a.json", "b.json", "--judge", "{ide: chrf}"],
            "--judge {ide: chrf}: unknown key 'ide'; known: id, args",
        ),
        (
            ["a.json", "b.json", "--judge", "causal_perplexity"],
            "--judge causal_perplexity: causal_perplexity is of",
        ),
        (["a.json", "b.json", "--judge", "chrf", "--judge", "chrf"], "--judge chrf is given twice"),
        (
            ["a.json", "b.json", "--judge", "a.json"],
            "--judge a.json, choice 1: lacks a, b, choice; a choice has",
        ),
        (["a.json", "b.json", "--config_path", "no.yml"], "no.yml"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_mistakes_are_said_before_anything_heavy_is_imported(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"prompt": "p", "generated_text": name}]))
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    code = (
        f"import sys; sys.path.insert(0, {str(REPO)!r}); from rl4lms_compare import main; "
        f"status = main({arguments!r}); print(status, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True)
    assert done.stdout == "2 False\n"
    assert message in done.stderr and len(done.stderr.strip().splitlines()) <= 2 - ("no.yml" not in arguments)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "alg.model_type=causal"], "--set is for --config_path"),
        (
            ["--split", "val", "--config_path", "x.yml"],
            "--split is of saved predictions: --set datapool.split",
        ),
        (["--ridge", "-1"], "--ridge and --pairs are finite numbers from 0 on, got -1 and 50"),
        (["--ridge", "nan"], "--ridge and --pairs are finite numbers from 0 on, got nan and 50"),
    ],
)
def test_flags_that_do_not_go_together(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["a", "b", *arguments])
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_texts_without_a_common_metric_need_a_judge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        rows = [{"prompt": "p", "generated_text": name, "metrics": {f"of_{name}": 1.0}}]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    files = [str(tmp_path / f"{name}.json") for name in ("a", "b")]
    assert main([*files, "--output_path", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "give a --judge: no metric was saved with the texts of all models\n"
    (tmp_path / "b.json").write_text('{"prompt": "p"}')
    assert main([*files, "--judge", "chrf", "--output_path", str(tmp_path / "out")]) == 2
    assert "b.json is no file of saved predictions: expected a list of objects" in capsys.readouterr().err
