"""The root of all errors that are the user's to mend: one sentence that says what was found, where, and what to do."""


class UserError(Exception):
    """Bad input or a missing prerequisite. Commands print it as one line and exit with 2; nodes log it and stay alive."""
