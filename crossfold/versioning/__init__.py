"""Versions of the data and of weights: DVC's pointers, remotes, and the files there."""
