"""Many requests at a time, and how long the rest will take."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rft_diagnose.endpoint import (
    Abilities,
    Completion,
    Endpoint,
    Prompt,
    RefusedError,
    TemporaryError,
    ask_patiently,
    seed_of,
)

TICK = 5.0  # seconds without an answer after which the caller is told
WINDOW = 200  # answers that the time left is judged by


@dataclass(frozen=True)
class Task:
    """Samples `first` to `first + count - 1` of a prompt; number: its place among the prompts."""

    number: int
    prompt: Prompt
    first: int
    count: int


@dataclass(frozen=True)
class Answer:
    """The texts of a task, in order; none: why there are none, and whether asking again may help."""

    task: Task
    completions: Sequence[Completion] = ()
    failure: str | None = None
    is_refused: bool = False


def plan_tasks(number: int, prompt: Prompt, missing: Sequence[int], several: bool) -> list[Task]:
    """Put the missing samples of a prompt into tasks: those that follow each other in one, or each alone."""
    tasks: list[Task] = []
    for sample in missing:
        last = tasks[-1] if tasks else None
        if several and last is not None and sample == last.first + last.count:
            tasks[-1] = Task(number, prompt, last.first, last.count + 1)
        else:
            tasks.append(Task(number, prompt, sample, 1))
    return tasks


def ask_all(
    endpoint: Endpoint,
    abilities: Abilities,
    tasks: Sequence[Task],
    concurrency: int,
    on_wait: Callable[[str], None] = lambda reason: None,
) -> Iterator[Answer | None]:
    """Yield the answers as they come; None: there was none for a while. on_wait: see `ask_patiently`.

    Whoever stops early leaves the requests under way to themselves.
    """
    waiting, lock, stop = iter(tasks), threading.Lock(), threading.Event()
    answers: queue.Queue[Answer | BaseException] = queue.Queue()

    def work() -> None:
        while not stop.is_set():
            with lock:
                task = next(waiting, None)
            if task is None:
                return
            try:
                answers.put(_answer(endpoint, abilities, task, stop, on_wait))
            except BaseException as error:  # shown where the answers are taken
                answers.put(error)
                return

    for _ in range(min(concurrency, len(tasks))):
        threading.Thread(target=work, daemon=True).start()  # a process that ends does not wait for them
    try:
        for _ in tasks:
            while (answer := _next(answers)) is None:
                yield None
            if isinstance(answer, BaseException):
                raise answer
            yield answer
    finally:
        stop.set()


def _next(answers: queue.Queue[Answer | BaseException]) -> Answer | BaseException | None:
    try:
        return answers.get(timeout=TICK)
    except queue.Empty:
        return None


def _answer(
    endpoint: Endpoint,
    abilities: Abilities,
    task: Task,
    stop: threading.Event,
    on_wait: Callable[[str], None],
) -> Answer:
    seed = seed_of(endpoint.sampling.seed, task.number, task.first)
    try:
        return Answer(
            task,
            ask_patiently(endpoint, task.prompt, task.count, seed, abilities, stop=stop, on_wait=on_wait),
        )
    except RefusedError as error:
        return Answer(task, failure=str(error), is_refused=True)
    except TemporaryError as error:
        return Answer(task, failure=str(error))


class Progress:
    """How far it is: texts so far, and the time left as long as it goes on as in the last answers.

    total, done: texts in all, and those there were before; concurrency: requests at a time, of which the
    first say nothing about the pace.
    """

    def __init__(
        self, total: int, done: int, concurrency: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.done, self._clock = total, done, clock
        self._first = concurrency
        self._answers = 0
        self._times: deque[tuple[float, int]] = deque([(clock(), done)], maxlen=WINDOW)
        self._lock = threading.Lock()
        self._tries: dict[str, int] = {}

    def add(self, texts: int) -> None:
        """Count the texts of an answer."""
        self.done += texts
        self._answers += 1
        self._times.append((self._clock(), self.done))

    def tried_again(self, reason: str) -> None:
        """Count a request that has to be sent again; from any thread."""
        with self._lock:
            self._tries[reason] = self._tries.get(reason, 0) + 1

    def line(self) -> str:
        """Say how far it is."""
        parts = [f"{self.done:,} of {self.total:,} texts", self._left()]
        silent = self._clock() - self._times[-1][0]
        if silent >= 2 * TICK:
            parts.append(f"no answer for {duration(silent)}")
        with self._lock:
            tries, self._tries = self._tries, {}
        if tries:
            often = max(tries, key=lambda reason: tries[reason])
            parts.append(f"{sum(tries.values()):,} requests sent again ({often})")
        return "; ".join(part for part in parts if part)

    def _left(self) -> str:
        """Say how long it will take, by the pace of two halves of the last answers; "": not known."""
        if self._answers < 2 * self._first or self.done >= self.total:
            return ""
        times = [*self._times, (self._clock(), self.done)]  # a pause counts
        points = [times[0], times[len(times) // 2], times[-1]]
        paces = [
            (later[1] - earlier[1]) / max(later[0] - earlier[0], 1e-9) for earlier, later in pairwise(points)
        ]
        whole = (points[2][1] - points[0][1]) / max(points[2][0] - points[0][0], 1e-9)
        if not whole:
            return ""
        left = self.total - self.done
        shortest = duration(left / max(*paces, whole))
        if not min(paces):
            return f"at least {shortest} left"
        longest = duration(left / min(paces))
        return f"about {shortest} left" if shortest == longest else f"{shortest} to {longest} left"


def duration(seconds: float) -> str:
    """Write a time with one or two units: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours:,} h {rest} min" if hours < 48 else f"{hours / 24:,.1f} days"
