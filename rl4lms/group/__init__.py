"""RLOO, GRPO, Dr. GRPO, DAPO, GSPO and REINFORCE++: the group of a prompt's texts is its own baseline."""
