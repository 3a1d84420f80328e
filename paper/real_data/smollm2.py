"""From a GGUF file to a plain Llama folder, as any config of a causal model takes it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from paper.real_data.packages import GGUF

logger = logging.getLogger(__name__)


def write_plain_model(folder: Path, gguf: str = GGUF) -> None:
    """Replace the file `gguf` in a folder by config.json, model.safetensors and the tokenizer.

    The weights are those of the file, which has rounded them to few bits, in 32 bits. Needs the package gguf.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    source: dict[str, Any] = {"gguf_file": gguf}
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **source)
    # What was read from GGUF counts as quantized, and would not be saved.
    settings = loaded.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "architectures", "transformers_version"):
        settings.pop(name, None)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, **source)
    tokenizer.save_pretrained(folder)
    (folder / gguf).unlink()
    logger.info("%s weights written in 32 bits", f"{model.num_parameters():,}")
