"""Give this process a user name: in a container, a uid often has none."""

import getpass
import os


def user_name() -> str:
    """Return the user's name, or the uid if it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        return f"uid-{os.getuid()}"


def ensure_user_name() -> None:
    """Name a uid without a name, for libraries that need one (torch, for its cache folder).

    They look at these variables first, and so do the processes that this one starts.
    """
    os.environ["USER"] = user_name()
