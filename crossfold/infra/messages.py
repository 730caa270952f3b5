"""The messages of long operations, which the command line prints as they come."""

from collections.abc import Callable

Say = Callable[[str], None]  # prints a line for the user
