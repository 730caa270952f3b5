"""Decode image files within a memory bound, and describe single images."""
