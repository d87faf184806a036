"""Sparse training and pruning for JAX."""
