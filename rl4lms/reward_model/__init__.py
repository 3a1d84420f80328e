"""Reward models from rankings (Ouyang et al. 2022, Section 3.5): `alg.id: reward_model`."""
