"""Pretrained weights: fetch published ones, read files, find the preprocessing they expect."""
