"""The arguments of the built-in metrics, with what each needs on this machine. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from common.config import Config, Problem
from common.limits import TextsAtATime
from rl4lms.model.source import check_reward_model_source, device_problem
from rl4lms.requirements import model_problem, tokenizer_problem, word_splitter_problem, wordnet_problem

_DEVICE = "cpu, cuda, cuda:1, ...; auto: the GPU if there is one"
_BATCH_SIZE = "texts that the model reads at once; the values do not depend on it"


def _known_device(name: str) -> str:
    if message := device_problem(name):
        raise ValueError(message)
    return name


Device = Annotated[str, AfterValidator(_known_device)]

COMMON_GEN_PREFIX = "generate a sentence with: "

# The encoder and its layer that the package bert-score chooses for a language; for others a multilingual one.
_ENCODERS = {
    "en": ("roberta-large", 17),
    "en-sci": ("allenai/scibert_scivocab_uncased", 8),
    "tr": ("dbmdz/bert-base-turkish-cased", 10),
    "zh": ("bert-base-chinese", 8),
}
_MULTILINGUAL_ENCODER = ("bert-base-multilingual-cased", 9)


def choose_encoder(language: str) -> tuple[str, int]:
    """Choose the model, and the number of its layers, that BERTScore uses for a language ("en", "de")."""
    return _ENCODERS.get(language, _MULTILINGUAL_ENCODER)


class RougeLMaxArgs(Config):
    """The defaults are NarrativeQA's in the paper, with which py-rouge gives the paper's reward."""

    alpha: float = Field(0.5, ge=0, le=1, description="weight of precision in F")
    weight_factor: float = Field(
        1.2, gt=0, description="precision and recall are raised to 1 / weight_factor; 1: plain ROUGE-L"
    )
    stemming: bool = Field(True, description="compare stems instead of words")
    limit_length: bool = Field(True, description="look at the beginning of text and reference only")
    length_limit: int = Field(100, ge=0, description="how much of them; 0: all")
    length_limit_type: Literal["words", "bytes"] = Field(
        "words", description="what length_limit counts; bytes are characters, as in py-rouge"
    )
    max_n: int = Field(4, ge=1, exclude=True, description="no effect on ROUGE-L; read for old files")
    apply_avg: bool = Field(
        True, exclude=True, description="no effect: references count one by one; as max_n"
    )
    apply_best: bool = Field(True, exclude=True, description="no effect: the best reference counts; as max_n")


class RougeArgs(Config):
    use_single_ref: bool = Field(True, description="against the first reference; false: the best one")


class MeteorArgs(Config):
    wordnet: bool = Field(
        True, description="match synonyms too (needs the WordNet corpus); false has a result key of its own"
    )
    as_released: bool = Field(
        False, description="against the printed list of references, as the paper's numbers were computed"
    )


class RepeatPenaltyArgs(MeteorArgs):
    prefix: str = Field(COMMON_GEN_PREFIX, description="what stands before the concepts in a prompt")


class SacreBleuArgs(Config):
    tokenize: Literal["13a", "intl", "char", "zh", "ja-mecab", "ko-mecab", "none"] = Field(
        "13a",
        description="sacrebleu's tokeniser; zh: Chinese, ja-mecab: Japanese, ko-mecab: Korean, char: any",
    )


class BertScoreArgs(Config):
    language: str = Field(description="language code, which chooses the encoder: en, de, ...")
    model_name: str | None = Field(None, description="another encoder: hub name or folder; needs num_layers")
    num_layers: int | None = Field(
        None, ge=1, description="how many layers of the encoder; null: the language's"
    )
    batch_size: TextsAtATime = Field(64, ge=1, description=_BATCH_SIZE)
    device: Device = Field("auto", description=_DEVICE)

    def check(self) -> list[Problem]:
        if self.model_name is None or self.num_layers is not None:
            return []
        return [Problem("num_layers", "missing; a model_name of your own needs it (the best layer differs)")]


class ClassifierArgs(Config):
    model_name: str = Field(description="sequence classifier: hub name or folder")
    label_ix: int = Field(ge=0, description="the class whose probability counts, from 0")
    batch_size: TextsAtATime = Field(100, ge=1, description=_BATCH_SIZE)  # the paper's
    include_prompt_for_eval: bool = Field(True, description="classify prompt and text; false: the text alone")
    device: Device = Field("auto", description=_DEVICE)


class RewardModelArgs(Config):
    model_name: str = Field(
        min_length=1,
        description="what alg.id: reward_model trained, or another sequence classifier with one output: hub "
        "name or folder",
    )
    batch_size: TextsAtATime = Field(64, ge=1, description=_BATCH_SIZE)
    device: Device = Field("auto", description=_DEVICE)
    chat_template: Literal["auto", "none"] = Field(
        "auto",
        description="auto: others' models whose tokenizer has a chat template read prompt and text as a "
        "conversation; none: as one text",
    )

    def check(self) -> list[Problem]:
        problem = check_reward_model_source(self.model_name)
        return [Problem("model_name", problem)] if problem else []


class PerplexityArgs(Config):
    tokenizer_id: str = Field(description="tokenizer of the language model: hub name or folder")
    stride: int = Field(
        512, ge=1, description="tokens by which the window moves on; the paper's of DailyDialog"
    )
    model_type: Literal["causal"] = Field("causal", exclude=True, description="kind of language model")
    use_text_from_meta_data: bool = Field(False, description="of the texts meta.reference, not of references")


class DiversityArgs(Config):
    window_size: int = Field(100, ge=1, description="tokens of a segment of the type-token ratio")


class IntentArgs(Config):
    model_name: str = Field(
        "rajkumarrrk/roberta-daily-dialog-intent-classifier", description="classifier: hub name or folder"
    )
    batch_size: TextsAtATime = Field(64, ge=1, description=_BATCH_SIZE)
    device: Device = Field("auto", description=_DEVICE)


def wordnet_missing(args: MeteorArgs) -> list[Problem]:
    problem = wordnet_problem() if args.wordnet else None
    return [Problem("wordnet", problem)] if problem else []


def word_splitter_missing(args: SacreBleuArgs) -> list[Problem]:
    problem = word_splitter_problem(args.tokenize)
    return [Problem("tokenize", problem)] if problem else []


def classifier_missing(args: ClassifierArgs | IntentArgs | RewardModelArgs) -> list[Problem]:
    problem = model_problem(args.model_name)
    return [Problem("model_name", problem)] if problem else []


def encoder_missing(args: BertScoreArgs) -> list[Problem]:
    problem = model_problem(args.model_name or choose_encoder(args.language)[0])
    return [Problem("model_name" if args.model_name else "language", problem)] if problem else []


def tokenizer_missing(args: PerplexityArgs) -> list[Problem]:
    problem = tokenizer_problem(args.tokenizer_id)
    return [Problem("tokenizer_id", problem)] if problem else []
