"""Data of the controlled experiments: inputs, labels, label sets and modified inputs, as tensors."""

from sft_vs_rft.data.containers import ControlledData, Inputs, TokenizedPairs
from sft_vs_rft.data.load import load_data
from sft_vs_rft.data_source import DataError

__all__ = ["ControlledData", "DataError", "Inputs", "TokenizedPairs", "load_data"]
