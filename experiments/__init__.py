"""Experiments over the sparsejax library, launched with absl flags."""
