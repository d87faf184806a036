"""The one exception for what a user can put right."""


class UserError(ValueError):
    """Something in the configuration, the data or the working directory that its owner can put
    right.

    The command line shows the message without a traceback, so the message says what is wrong,
    where, and what to do.
    """
