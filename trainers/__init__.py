"""Batches to checkpoints: recipes as data, the objective, one plain PyTorch loop, Ray Train around it."""
