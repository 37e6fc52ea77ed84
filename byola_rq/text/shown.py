"""Escaping of untrusted text for terminals, messages and pages."""

import unicodedata
from collections.abc import Mapping

MAX_LINE = 4000  # characters; a path has at most 4096 bytes


def shown(text: object, limit: int = MAX_LINE) -> str:
    r"""Escape a text to one printable line for a terminal, a message or a page.

    Unprintable characters (control characters, line ends, escape sequences, marks that change the
    direction of writing) are escaped as in Python, `\n`, `\x1b` or `\u202e`, and bytes that are not
    UTF-8 as `\xff`. The rest is unchanged, so escaping twice has no effect.

    Args:
        text: Text, or an object whose `str` is used.
        limit: Maximum number of characters; the middle of a longer text is left out.
    """
    line = str(text)
    if len(line) > limit:
        line = f"{line[: limit // 2]} ... {line[-limit // 2 :]}"
    if line.isprintable():
        return line
    return "".join(each if _is_sign(each) else _escape(each) for each in line)


def quoted(value: object, limit: int = 200) -> str:
    """Format a value as its `repr` for a message."""
    return shown(repr(value), limit)


def printable(text: str) -> str:
    r"""Write the bytes of a file name that are not UTF-8 as `\xff`; the rest stays as it is."""
    try:
        text.encode()
    except UnicodeEncodeError:  # surrogates: not only those of such bytes, also what JSON may hold
        return "".join(_escape(each) if "\ud800" <= each <= "\udfff" else each for each in text)
    return text


def one_line(text: object) -> str:
    """Join the lines of a text, such as an error's message, to one."""
    return " ".join(str(text).split())


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> dict[str, str]:
    """Describe the values that differ by key: `key was x, is y`."""
    return {
        key: f"{key} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    }


def _is_sign(character: str) -> bool:
    # Spaces of other widths, which `isprintable` excludes, are common in names.
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    code = ord(character)
    # A byte of a file name that is not UTF-8, as Python's surrogateescape encodes it.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(character)[1:-1]
