"""The one exception that means "the user can fix this". The command line prints its line and exits with code 2.

Programming errors keep their own exception types and their stack traces.
"""


class AdhmrError(Exception):
    """One clear line: which file or key, what was expected, what to do about it."""

    exit_code = 2  # of the command that it ends
