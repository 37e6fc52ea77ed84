"""Printing of one escaped line on stdout or stderr."""

import sys

from byola_rq.text.shown import shown


def say(text: object = "") -> None:
    """Print text on stdout as one line, with unprintable characters escaped."""
    print(shown(text), flush=True)


def warn(text: object) -> None:
    """Print text on stderr as one line, with unprintable characters escaped."""
    print(shown(text), file=sys.stderr, flush=True)
