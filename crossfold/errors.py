"""The one exception type for mistakes that the user can mend."""

import difflib
from collections.abc import Iterable

_MAX_NAMES = 5


class UserError(Exception):
    """What is wrong, where, and what to do about it, in words for the user.

    A step or a command that raises it ends with this message and no traceback, and is not retried.
    """


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the known names that a mistaken one may stand for; if none is near, some of all."""
    by_spelling = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name.casefold(), by_spelling, n=3)
    if near:
        return f"did you mean {' or '.join(by_spelling[spelling] for spelling in near)}?"
    names = list(by_spelling.values())
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"there is {', '.join(names[:_MAX_NAMES])}{more}." if names else "there is none."
