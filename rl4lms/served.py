"""Texts of a model that is served elsewhere, for an extraction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from common.errors import UserError
from rft_diagnose.ask_all import ask_all, plan_tasks
from rft_diagnose.endpoint import Endpoint, Sampling, check_endpoint
from rft_diagnose.errors import DiagnosisError
from rl4lms.config import ExtractConfig
from rl4lms.model.load import Side


class ServedModelError(UserError):
    """An endpoint that gives no texts; the message is for the user."""


def sample_served(
    config: ExtractConfig,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    done: Mapping[int, Sequence[str]],
    tick: Callable[[], None],
    say: Callable[[str], None],
) -> Iterator[tuple[int, list[str]]]:
    """Yield each input that is not done, as they come: its number and its texts.

    tick is called between answers, and may raise; say gets notes. Raises ServedModelError.
    """
    generator, settings = config.generator, config.alg.generation_kwargs
    assert generator is not None
    missing = [number for number in range(len(prompts)) if number not in done]
    if not missing:
        return
    max_length, side = config.tokenizer.max_length, config.tokenizer.truncation_side
    sent = {number: cut_prompt(tokenizer, prompts[number], max_length, side) for number in missing}
    each = config.evaluation.num_samples_per_input
    sampling = Sampling(
        model=generator.model or config.alg.model_name,
        api=generator.api,
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_tokens=settings.max_new_tokens,
        seed=config.runtime.seed,
    )
    try:
        endpoint = Endpoint(generator.urls, sampling, generator.timeout)
        firsts = [sent[number] for number in missing]
        abilities, notes = check_endpoint(endpoint, firsts, each, generator.allow_equal)
    except DiagnosisError as error:
        raise ServedModelError(f"generator: {error}") from error
    for note in notes:
        say(note)
    tasks = [
        task
        for number in missing
        for task in plan_tasks(number, sent[number], range(each), abilities.several)
    ]
    texts: dict[int, dict[int, str]] = {number: {} for number in missing}
    for answer in ask_all(endpoint, abilities, tasks, generator.concurrency):
        tick()
        if answer is None:
            continue
        number = answer.task.number
        if answer.failure is not None:
            raise ServedModelError(f"generator: {answer.failure}, for input {number:,}")
        for sample, completion in enumerate(answer.completions, answer.task.first):
            texts[number][sample] = tidy(tokenizer, completion.text)
        if len(texts[number]) == each:
            yield number, [texts[number][sample] for sample in range(each)]
            del texts[number]


def cut_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, max_length: int | None, side: Side) -> str:
    """Cut a prompt of more than `max_length` tokens on the side; shorter ones stay as they are."""
    ids = tokenizer(prompt, verbose=False, add_special_tokens=False)["input_ids"]
    if max_length is None or len(ids) <= max_length:
        return prompt
    kept = ids[:max_length] if side == "right" else ids[-max_length:]
    return str(tokenizer.decode(kept, clean_up_tokenization_spaces=False))


def tidy(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Take out the spaces that the config says, as of texts that are generated here."""
    return tokenizer.clean_up_tokenization(text) if tokenizer.clean_up_tokenization_spaces else text
