"""The one exception type for mistakes that the user can mend."""


class UserError(Exception):
    """What is wrong, where, and what to do about it, in words for the user.

    A step or a command that raises it ends with this message and no traceback, and is not retried.
    """
