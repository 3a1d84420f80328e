"""A small OpenAI-compatible server that misbehaves as it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from random import Random
from typing import Any


@dataclass
class Behaviour:
    """What it does; failures: what happens to the next requests instead of an answer, in turn.

    texts: of prompt, seed and place among the n texts; refused: fields that are answered with 422; poison: a
    prompt that is refused.
    """

    texts: Callable[[str, int, int], str] | None = None
    takes_n: bool = True
    copies: bool = False
    logprobs: bool = True
    finish_reason: str = "stop"
    refused: tuple[str, ...] = ()
    poison: str | None = None
    delay: float = 0.0
    status: int = 200
    failures: list[str] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    unseeded: Iterator[int] = field(default_factory=count)
    url: str = ""

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The status and content of an answer to a request."""
        is_chat = path.endswith("/chat/completions")
        prompt = body["messages"][-1]["content"] if is_chat else body["prompt"]
        if self.status != 200:
            return self.status, {"error": {"message": "the key is wrong"}}
        if refused := [name for name in self.refused if name in body]:
            return 422, {"detail": f"unexpected fields: {refused}"}
        if prompt == self.poison:
            return 400, {"error": {"message": "this prompt is too long"}}
        seed = body["seed"] if "seed" in body else next(self.unseeded)
        texts = body.get("n", 1) if self.takes_n else 1
        choices = []
        for place in range(texts):
            text = (self.texts or draw)(prompt, seed, 0 if self.copies else place)
            content = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
            if self.logprobs and body.get("logprobs"):
                tokens = [{"token": text, "logprob": -0.5}, {"token": "", "logprob": -0.25}]
                values = {"token_logprobs": [-0.5, -0.25]}
                content["logprobs"] = {"content": tokens} if is_chat else values
            choices.append({"index": place, "finish_reason": self.finish_reason, **content})
        return 200, {"id": "1", "object": "x", "created": 0, "model": body["model"], "choices": choices}


def draw(prompt: str, seed: int, place: int) -> str:
    """A right answer to half of the questions, half the time; the seeds of n texts follow each other."""
    random = Random(f"{prompt} {seed + place}")
    right = prompt.endswith("even") and random.random() < 0.5
    return f"{'right' if right else 'wrong'} {random.randrange(10**6)}"


@contextmanager
def served(behaviour: Behaviour) -> Iterator[Behaviour]:
    """Serve in the block; `behaviour.url` is the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None: ...

        def do_GET(self) -> None:
            self.reply(
                200,
                {
                    "object": "list",
                    "data": [{"id": "tiny", "object": "model", "created": 0, "owned_by": "x"}],
                },
            )

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            behaviour.requests.append(body)
            failure = behaviour.failures.pop(0) if behaviour.failures else None
            time.sleep(behaviour.delay)
            if failure is None:
                self.reply(*behaviour.answer(self.path, body))
            elif failure.isdecimal():
                self.reply(int(failure), {"error": {"message": "too busy"}}, {"Retry-After": "0"})
            elif failure == "hang":
                time.sleep(3)
                self.close_connection = True
            elif failure == "drop":
                self.close_connection = True
            elif failure == "truncated":  # the connection ends in the middle
                content = json.dumps(behaviour.answer(self.path, body)[1]).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[:40])
                self.close_connection = True
            elif failure == "half":  # a whole answer whose JSON is not
                content = json.dumps(behaviour.answer(self.path, body)[1])[:40]
                self.reply(200, content)
            else:
                self.reply(200, {"choices": []})

        def reply(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
            data = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    behaviour.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield behaviour
    finally:
        server.shutdown()
        server.server_close()
