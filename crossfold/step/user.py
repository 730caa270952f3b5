"""Give this process a user name: in a container, a uid often has none."""

import getpass
import os


def user_name() -> str:
    """Get the user's name, or one made from the uid if it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        return f"uid-{os.getuid()}"


def ensure_user_name() -> None:
    """Set USER for libraries that need a user name (torch, for its cache folder).

    They and the processes that this one starts look at such variables before they look up the uid.
    """
    os.environ["USER"] = user_name()
