"""The root of every error that a user can mend."""


class AtlasError(Exception):
    """Something outside the code is wrong; the message says what, where, and what to do.

    The command line prints it without a trace. Anything else that is raised is a defect.
    """
