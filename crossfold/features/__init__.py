"""Features: the frozen part of each backbone, computed once and stored in one file."""
