"""The crossfold command: arguments and terminal output."""
