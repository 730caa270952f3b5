"""Decode image files within a memory bound; find near duplicates, and remark on odd images."""
