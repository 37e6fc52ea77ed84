"""The one way out to a terminal."""

import sys

from byola_rq.text.shown import shown


def say(text: object = "") -> None:
    """Print one line on stdout, whatever the text holds."""
    print(shown(text), flush=True)


def warn(text: object) -> None:
    """Print one line on stderr, whatever the text holds."""
    print(shown(text), file=sys.stderr, flush=True)
