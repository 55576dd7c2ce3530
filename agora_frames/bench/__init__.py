"""Benchmarks: one file each; `benchmark` says what one is, and how a model is put through it."""
