"""The one kind of error that is meant to be read by a person."""


class LvmError(Exception):
    """Something the user can put right: one sentence, what happened and what to do.

    The command line prints the sentence alone and exits with code 1; Dagster shows it as the
    failure of the step. Secrets never go into it.
    """
