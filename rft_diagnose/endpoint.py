"""Completions of prompts from OpenAI-compatible endpoints: vLLM, SGLang, `transformers serve`, others."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING, Any, Literal

from rft_diagnose.errors import DiagnosisError, needed_for

if TYPE_CHECKING:
    import openai

TRIES = 8  # of a request that may come right; with the waits between them some minutes
FIRST_TRIES = 3  # before anything came right
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds; each wait is twice the one before
TEMPORARY = (408, 409, 425, 429)  # and from 500 on: what may come right when it is asked again
CHECKED = 4  # prompts whose texts are compared
CHECKED_TOKENS = 64  # of each of these
SEEDS = 2**31  # that every server takes

Prompt = str | list[dict[str, Any]]
Api = Literal["chat", "completions"]


class EndpointError(DiagnosisError):
    """An endpoint that cannot be used; the message is for the user."""


class RefusedError(Exception):
    """A request that will not come right by asking again."""


class TemporaryError(Exception):
    """A request that may come right later; wait: seconds that the server asks for, if it does."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class Sampling:
    """What decides the texts: the model's name at the endpoint, and how it is sampled."""

    model: str
    api: Api = "chat"
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """A text; finish_reason: `length` where it was cut; logprob: of all its tokens; tokens: how many."""

    text: str
    finish_reason: str | None = None
    logprob: float | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Abilities:
    """What the endpoint does: several texts a request (n), seeds, log-probabilities."""

    several: bool = False
    seeds: bool = False
    logprobs: bool = False


class Endpoint:
    """Clients of one or several addresses of the same model, asked in turn."""

    def __init__(self, urls: Sequence[str], sampling: Sampling, timeout: float) -> None:
        self.urls, self.sampling = list(urls), sampling
        self._clients = [_connect(url, timeout) for url in urls]
        self._turn = itertools.count()  # next() of it is one step, whatever the thread

    def shortened(self, tokens: int) -> Endpoint:
        """Make one that asks for texts of at most so many tokens."""
        short = copy.copy(self)
        short.sampling = replace(self.sampling, max_tokens=min(tokens, self.sampling.max_tokens))
        return short

    def ask(self, prompt: Prompt, count: int, seed: int, abilities: Abilities) -> list[Completion]:
        """Ask once for `count` texts; there may be fewer, but at least one.

        Raises RefusedError, TemporaryError.
        """
        sampling = self.sampling
        body: dict[str, Any] = {
            "model": sampling.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        }
        if count > 1:
            body["n"] = count
        if abilities.seeds:
            body["seed"] = seed % SEEDS
        client = self._clients[next(self._turn) % len(self._clients)]
        create: Callable[..., Any]
        if sampling.api == "chat":
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            body |= {"messages": messages} | ({"logprobs": True} if abilities.logprobs else {})
            create = client.chat.completions.with_raw_response.create
        else:
            body |= {"prompt": prompt} | ({"logprobs": 1} if abilities.logprobs else {})
            create = client.completions.with_raw_response.create
        return _read_answer(_send(create, body), sampling.api)[:count]


def _connect(url: str, timeout: float) -> openai.OpenAI:
    """Make a client. Raises MissingPackageError, EndpointError: no such address."""
    with needed_for("sampling from an endpoint", "sample"):
        import openai
    if not url.startswith(("http://", "https://")):
        raise EndpointError(f"{url}: expected the address of an endpoint, such as http://localhost:8000/v1")
    key = os.environ.get("OPENAI_API_KEY") or "none"
    # Tries are counted here, where it can be said what went wrong.
    return openai.OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=0)


def _send(create: Callable[..., Any], body: dict[str, Any]) -> str:
    """Send a request; return the answer's text. Raises RefusedError, TemporaryError."""
    import openai

    try:
        return str(create(**body).http_response.text)
    except openai.APITimeoutError as error:
        raise TemporaryError("no answer in time") from error
    except openai.APIConnectionError as error:
        raise TemporaryError(f"no connection ({error.__cause__ or error})") from error
    except openai.APIStatusError as error:
        message = f"HTTP {error.status_code}: {_server_message(error)}"
        # A quota that is used up is told with the status of too many requests.
        is_over = "insufficient_quota" in (error.code, getattr(error, "type", None))
        if (error.status_code in TEMPORARY or error.status_code >= 500) and not is_over:
            raise TemporaryError(message, _asked_wait(error.response.headers)) from error
        raise RefusedError(message) from error
    except ValueError as error:
        raise TemporaryError("an answer that is no JSON") from error


def _server_message(error: openai.APIStatusError) -> str:
    body = error.body
    text = body.get("message", body) if isinstance(body, dict) else body or error.message
    return " ".join(str(text).split())[:300]


def _asked_wait(headers: Any) -> float | None:
    """Read the seconds of a Retry-After header; None: there is none, or a date."""
    try:
        return min(LONGEST_WAIT, max(0.0, float(headers.get("retry-after"))))
    except (TypeError, ValueError):
        return None


def _read_answer(text: str, api: Api) -> list[Completion]:
    """Read the texts of an answer. Raises TemporaryError: it has none."""
    try:
        choices = json.loads(text)["choices"]
        completions = [_read_choice(choice, api) for choice in choices]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TemporaryError(f"an answer without completions: {text[:80]!r}") from error
    if not completions:
        raise TemporaryError("an answer without completions")
    return completions


def _read_choice(choice: dict[str, Any], api: Api) -> Completion:
    text = choice["message"]["content"] if api == "chat" else choice["text"]
    given = choice.get("logprobs") or {}
    if api == "chat":
        values = [token["logprob"] for token in given.get("content") or ()]
    else:
        values = [value for value in given.get("token_logprobs") or () if value is not None]
    return Completion(
        text=str(text or ""),  # null where a model only thought, or called a tool
        finish_reason=choice.get("finish_reason"),
        logprob=round(sum(values), 4) if values else None,
        tokens=len(values) or None,
    )


def ask_patiently(
    endpoint: Endpoint,
    prompt: Prompt,
    count: int,
    seed: int,
    abilities: Abilities,
    tries: int | None = None,
    stop: Event | None = None,
    on_wait: Callable[[str], None] = lambda reason: None,
) -> list[Completion]:
    """Ask until there are `count` texts, again and ever later where that may help.

    tries: of each request, TRIES unless given; on_wait is told why. Raises RefusedError, and TemporaryError
    after the last try, or when told to stop.
    """
    stop, failures = stop or Event(), 0
    completions: list[Completion] = []
    while len(completions) < count:
        missing = count - len(completions)
        try:
            completions += endpoint.ask(
                prompt, missing if abilities.several else 1, seed + len(completions), abilities
            )
            failures = 0
        except TemporaryError as error:
            failures += 1
            if failures >= (tries or TRIES):
                raise
            on_wait(str(error))
            usual = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (failures - 1)) * random.uniform(0.75, 1.25)
            if stop.wait(usual if error.wait is None else error.wait):
                raise
    return completions


def seed_of(seed: int, number: int, sample: int = 0) -> int:
    """Give a text its seed, from the run's and the prompt's number; those of a prompt follow each other."""
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") + sample) % SEEDS


def check_endpoint(
    endpoint: Endpoint, prompts: Sequence[Prompt], count: int, allow_equal: bool = False
) -> tuple[Abilities, list[str]]:
    """Find out what the endpoint does, by a few short texts; and notes on what it does not.

    Raises EndpointError: it refuses a plain request, or gives the same text every time.
    """
    try:
        return _check_endpoint(endpoint, prompts[:CHECKED], count, allow_equal)
    except (RefusedError, TemporaryError) as error:
        raise EndpointError(f"{', '.join(endpoint.urls)}: {error}") from error


def _check_endpoint(
    endpoint: Endpoint, prompts: Sequence[Prompt], count: int, allow_equal: bool
) -> tuple[Abilities, list[str]]:
    short, seed = endpoint.shortened(CHECKED_TOKENS), endpoint.sampling.seed

    def ask(abilities: Abilities, number: int, sample: int = 0) -> list[Completion]:
        return ask_patiently(short, prompts[number], 1, seed_of(seed, number, sample), abilities, FIRST_TRIES)

    def accepts(abilities: Abilities, number: int) -> list[Completion]:
        """The text; empty: such a request is refused, or ends in an error, as of some servers."""
        try:
            return ask(abilities, number)
        except (RefusedError, TemporaryError):
            return []

    def two(abilities: Abilities, number: int) -> list[Completion]:
        """Two texts of one request; fewer, or none: the endpoint does not give them."""
        try:
            return short.ask(prompts[number], 2, seed_of(seed, number), replace(abilities, several=True))
        except (RefusedError, TemporaryError):
            return []

    usable = _usable(ask, len(prompts))
    first, notes = usable[0], []
    abilities = Abilities(seeds=bool(accepts(Abilities(seeds=True), first)))
    if not abilities.seeds:
        notes.append("the endpoint takes no seed: another run gives other texts")
    logprobs = any(text.logprob is not None for text in accepts(Abilities(logprobs=True), first))
    several = False
    if count > 1:
        equal = [_are_equal(*ask(abilities, i, 0), *ask(abilities, i, 1)) for i in usable[:1]]
        for i in usable[1:]:
            if all(equal):
                equal.append(_are_equal(*ask(abilities, i, 0), *ask(abilities, i, 1)))
        pairs = [two(abilities, i) for i in usable]
        several = all(len(pair) == 2 for pair in pairs)
        if all(equal):
            if not allow_equal:
                raise EndpointError(_same_texts(endpoint, len(equal), ask(abilities, first)[0].text))
            notes.append(f"two samples of the first {len(equal)} prompts were the same text each")
        elif several:
            several = not all(_are_equal(*pair) for pair in pairs)
        if not several:
            notes.append("the endpoint gives one text a request (n is ignored): it is asked for each")
    return replace(abilities, several=several, logprobs=logprobs), notes


def _usable(ask: Callable[[Abilities, int], list[Completion]], prompts: int) -> list[int]:
    """List the prompts whose plain request is answered: a long one may be refused. Raises RefusedError."""
    usable, refusals = [], []
    for number in range(prompts):
        try:
            ask(Abilities(), number)
            usable.append(number)
        except RefusedError as error:
            refusals.append(error)
    if not usable:
        raise refusals[0]
    return usable


def _are_equal(*texts: Completion) -> bool:
    """Tell whether the texts are one; empty ones, of a model that thinks first, tell nothing."""
    return len({text.text for text in texts}) == 1 and texts[0].text != ""


def _same_texts(endpoint: Endpoint, prompts: int, text: str) -> str:
    whose = "the first prompt" if prompts == 1 else f"each of the first {prompts} prompts"
    return (
        f"{', '.join(endpoint.urls)}: two samples of {whose} are the same text ({text[:60]!r}): is "
        f"sampling on (temperature {endpoint.sampling.temperature:g}), or a cache? `transformers serve` "
        "samples only if the model's generation_config.json says do_sample: true. If the model is that sure, "
        "allow_equal lets it go on"
    )


def find_model(url: str, timeout: float) -> str:
    """Ask for the name of the endpoint's only model. Raises EndpointError: it has several, or none."""
    client = _connect(url, timeout)
    import openai

    try:
        names = [model.id for model in client.models.list()]
    except (openai.OpenAIError, ValueError) as error:
        raise EndpointError(f"{url}: its models cannot be listed ({error}); name one with --model") from error
    if len(names) != 1:
        raise EndpointError(f"{url}: name the model with --model; there are: {', '.join(names) or 'none'}")
    return names[0]
