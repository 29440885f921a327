"""The roots of the errors that commands and nodes explain in one sentence: what was found, where, and what to do."""


class UserError(Exception):
    """Bad input or a missing prerequisite. Commands print it as one line and exit with 2; nodes log it and live on."""


class RunError(Exception):
    """Something failed while it ran, although the input was good. Commands print it as one line and exit with 1."""
