"""Predict images with a registered version: in Python, over HTTP, to files."""
