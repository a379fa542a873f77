"""The root of every error that a user can mend, and how a wrong name is refused."""

import difflib

# EX_TEMPFAIL of sysexits.h: saved and stopped, neither done nor failed; start it again.
EXIT_INTERRUPTED = 75


class AtlasError(Exception):
    """Something outside the code is wrong; the message says what, where, and what to do.

    The command line prints it without a trace. Anything else that is raised is a defect.
    """


def not_allowed(kind: str, name: str, known: list[str], hint: str = "") -> ValueError:
    near = difflib.get_close_matches(name, known, n=1)
    nearest = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {kind} {name!r}.{nearest} Known: {', '.join(sorted(known))}.{hint}")
