"""What is made of fetched files: a plain Llama folder of a GGUF file, and the tasks of WordNet."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_wordnet import LICENCE

from paper.real_data.smollm2 import write_plain_model
from paper.real_data.wordnet_tasks import Synset, category_row, read_synsets, sentence_row, write_tasks
from rl4lms.datapools import load_datapool
from rl4lms.model.source import check_model_source, check_tokenizer_source

HIDDEN, HEADS, LAYERS, WORDS = 64, 2, 1, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def write_gguf(file: Path) -> dict[str, np.ndarray]:
    """A Llama of random weights, most rounded to 4 bits; returns the weights as they are read."""
    gguf = pytest.importorskip("gguf", reason="pip install -r requirements-dev.txt")
    from tokenizers import pre_tokenizers

    random = np.random.default_rng(0)
    tokens = [*WORDS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ca", "cat"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(32)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(WORDS) + [1] * (len(tokens) - len(WORDS)))
    writer.add_token_merges(["c a", "ca t"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    shapes = {"token_embd": (len(tokens), HIDDEN), "output_norm": (HIDDEN,)}
    block = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes |= {f"blk.0.{name}": (HIDDEN, HIDDEN) for name in block}
    shapes |= {f"blk.0.{name}_norm": (HIDDEN,) for name in ("attn", "ffn")}
    weights = {}
    for name, shape in shapes.items():
        values = random.normal(1, 0.02, shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.F32 if len(shape) == 1 else gguf.GGMLQuantizationType.Q4_1
        packed = gguf.quants.quantize(values, kind)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
        weights[name] = gguf.quants.dequantize(packed, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def test_a_gguf_file_becomes_a_plain_folder(tmp_path: Path) -> None:
    weights = write_gguf(tmp_path / "tiny.gguf")
    write_plain_model(tmp_path, "tiny.gguf")
    assert not (tmp_path / "tiny.gguf").exists()
    assert (
        check_model_source(str(tmp_path), "causal") is None and check_tokenizer_source(str(tmp_path)) is None
    )
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())

    import torch

    from rl4lms.model.load import load_model, load_tokenizer

    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer("cat\n<|im_end|>")["input_ids"][0] == tokenizer.convert_tokens_to_ids("cat")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    state = load_model(str(tmp_path), "causal", torch.float32, "cpu").state_dict()
    for name, place in {
        "token_embd": "embed_tokens",
        "output_norm": "norm",
        "blk.0.ffn_down": "layers.0.mlp.down_proj",
        "blk.0.attn_v": "layers.0.self_attn.v_proj",
    }.items():
        np.testing.assert_array_equal(state[f"model.{place}.weight"].numpy(), weights[name])
    assert (state["lm_head.weight"] == state["model.embed_tokens.weight"]).all()


GLOSSES = [
    ("kid", "05", 'a young goat; "the kid ran after the goat on the hill"; "a kid"'),
    ("fork", "06", "a tool for eating; also for gardens"),
    ("true_cat", "05", 'a cat and no tiger; "Not all cats are tame animals"'),
    ("entity", "03", "that which is perceived to exist"),
]


def write_data(folder: Path, nouns: list[tuple[str, str, str]] = GLOSSES) -> Path:
    """The data files of a WordNet of nouns, with examples."""
    folder.mkdir(exist_ok=True)
    lines = [f"{i:08} {file} n 01 {word} 0 000 | {gloss}  \n" for i, (word, file, gloss) in enumerate(nouns)]
    for part in ("noun", "verb", "adj", "adv"):
        (folder / f"data.{part}").write_text(LICENCE + "".join(lines if part == "noun" else ()))
    return folder


def test_synsets_are_read(tmp_path: Path) -> None:
    synsets = list(read_synsets(write_data(tmp_path) / "data.noun"))
    assert [synset.word for synset in synsets] == ["kid", "fork", "true_cat", "entity"]
    assert synsets[0] == Synset(
        "kid", "05", "a young goat", ["the kid ran after the goat on the hill", "a kid"]
    )
    assert synsets[1].definition == "a tool for eating"


def test_tasks_of_wordnet(tmp_path: Path) -> None:
    write_tasks(write_data(tmp_path))
    rows = {}
    for task in ("sentences", "categories"):
        lines = [(tmp_path / task / f"{split}.jsonl").read_text() for split in ("train", "val", "test")]
        rows[task] = {
            row["prompt"]: row["references"] for row in map(json.loads, "".join(lines).splitlines())
        }
    assert rows["sentences"] == {
        "Words: after, goat, hill, kid, ran\nSentence:": " the kid ran after the goat on the hill",
        "Words: animals, cats, tame\nSentence:": " Not all cats are tame animals",
    }
    assert rows["categories"] == {
        "kid: a young goat\nCategory:": " animal",
        "fork: a tool for eating\nCategory:": " artifact",
    }


def test_what_is_no_task() -> None:
    assert sentence_row("the dog is with the cat") is None, "two words say what it is about"
    assert sentence_row("dogs see cats") is None, "too short"
    assert sentence_row("dogs see cats " * 5) is None, "too long"
    assert category_row(Synset("Kid", "05", "a young goat", [])) is None, "a name"
    assert category_row(Synset("kid", "05", "goat", [])) is None, "too short"
    assert category_row(Synset("kid", "03", "a young goat", [])) is None, "of no category"


def test_splits_are_of_the_text_alone(tmp_path: Path) -> None:
    """A prompt is in the same split whatever else there is."""
    letters = [chr(ord("a") + i) for i in range(20)]
    rows = [(first + second, "05", "one of many animals") for first in letters for second in letters]
    places = []
    for name, part in (("all", rows), ("half", rows[::2])):
        folder = write_data(tmp_path / name, part)
        write_tasks(folder)
        places.append(
            {
                sample.prompt_or_input_text: split
                for split in ("train", "val", "test")
                for sample in load_datapool("jsonl", split, {"data_path": str(folder / "categories")})
            }
        )
    assert len(places[0]) == 400 and places[1].items() <= places[0].items()
    shares = [list(places[0].values()).count(split) / 400 for split in ("train", "val", "test")]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.06)
