"""Labelled folders, DVC versions and remotes, splits, and the table of examples."""
