"""GRUE: text generation tasks, rewards and metrics, and the finetuning of language models on them."""
