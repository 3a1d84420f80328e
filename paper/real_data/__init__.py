"""Real data and a real model from packages of the registries, for machines that cannot reach the hub."""
