"""Comparing models by their texts for the same prompts: who wins, by how much, and whom judges agree with."""
