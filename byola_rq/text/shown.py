"""Text that a terminal shows and does not obey."""

import unicodedata

MAX_LINE = 4000  # characters; a path has at most 4096 bytes


def shown(text: object, limit: int = MAX_LINE) -> str:
    r"""Write a text as one line for a terminal, a message, a page.

    What is no sign of writing (control characters, line ends, escape sequences, marks that turn
    the direction of writing) is written as Python does, `\n`, `\x1b` or `\u202e`, and bytes that
    are no UTF-8 as `\xff`. The rest stays: doing it twice changes nothing.

    Args:
        text: Or what has one.
        limit: Characters; of a longer text the middle is left out.
    """
    line = str(text)
    if len(line) > limit:
        line = f"{line[: limit // 2]} ... {line[-limit // 2 :]}"
    if line.isprintable():
        return line
    return "".join(each if _is_sign(each) else _escape(each) for each in line)


def quoted(value: object, limit: int = 200) -> str:
    """Write a value as Python would, for a message."""
    return shown(repr(value), limit)


def printable(text: str) -> str:
    r"""Write the bytes of a file name that are not UTF-8 as `\xff`; the rest stays as it is."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_sign(character: str) -> bool:
    # Spaces of other widths, which Python's rule leaves out, are common in names.
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    code = ord(character)
    # A byte that is no UTF-8, as Python has it in file names.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(character)[1:-1]
