"""Extraction: check each backbone, choose its precision, and compute its frozen part once."""
