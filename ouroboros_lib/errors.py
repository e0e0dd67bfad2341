"""The one exception for bad input: a single line that says what, where and what to do."""


class InputError(ValueError):
    """Something the user gave cannot be used. The command line prints it as one line and exits with code 2."""
