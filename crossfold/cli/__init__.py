"""The crossfold command: its arguments, and what it prints."""
