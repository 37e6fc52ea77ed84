"""Bounded parsing of untrusted YAML and JSON; errors are a ValueError of one line."""

import errno
import io
import json
import os
import stat
from pathlib import Path
from types import UnionType
from typing import Any

import yaml

from byola_rq.text.shown import one_line, quoted, shown

MAX_YAML_BYTES = 1 << 17  # a configuration has 10 kB; PyYAML reads about 30 kB/s at worst
MAX_TEXT_BYTES = 1 << 30  # the plan of a corpus has a line for every file left out
_MAX_FLOAT = 10**308
MAX_NUMBER = 400  # characters; the smallest float written out has 326
MAX_DEPTH = 32  # configurations have 4

# A type; a dict of required keys; a list of one shape, for lists of such values; a dict whose only
# key is `str`, for objects of such values.
Shape = type | UnionType | dict[Any, Any] | list[Any]

_FAULTS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    yaml.YAMLError,
)


def parse_yaml(text: str, *, as_written: bool = False) -> Any:
    """Parse plain YAML without anchors and aliases, which could expand to any size.

    Args:
        text: Text of the document.
        as_written: Return every scalar as its text.

    Raises:
        ValueError: If it is not YAML, too large, too deep, or has an anchor, alias or repeated key.
    """
    if len(text) > MAX_YAML_BYTES:
        raise ValueError(f"must be at most {MAX_YAML_BYTES} bytes; got {len(text)}")
    try:
        loader = (_WrittenLoader if as_written else _PlainLoader)(text)
        return loader.get_single_data()
    except _FAULTS as error:
        raise ValueError(_reason(error, "not valid YAML")) from error


def parse_json(text: str | bytes, shape: Shape = dict) -> Any:
    """Parse JSON and check that it has the given shape.

    Raises:
        ValueError: If it is not JSON or has another shape; the message names the place.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(_reason(error, "not valid JSON")) from error
    _check_depth(value)
    check_shape(value, shape)
    return value


def read_json(path: Path, shape: Shape = dict) -> Any:
    """Read a file and parse it with `parse_json`.

    Raises:
        OSError: If it cannot be read, or is not a regular file.
        ValueError: As `parse_json`, or if it is not UTF-8.
    """
    return parse_json(read_text(path, MAX_TEXT_BYTES), shape)


def read_yaml(path: Path, *, as_written: bool = False) -> Any:
    """Read a file and parse it with `parse_yaml`.

    Raises:
        OSError: If it cannot be read, or is not a regular file.
        ValueError: As `parse_yaml`, or if it is not UTF-8.
    """
    return parse_yaml(read_text(path, MAX_YAML_BYTES), as_written=as_written)


def read_text(path: Path, max_bytes: int, errors: str = "strict") -> str:
    """Read a regular file of UTF-8 with unchanged line ends.

    Raises:
        OSError: If it cannot be read, or is a pipe, a device or the like, which may block.
        ValueError: If it is too large, or not UTF-8.
    """
    with open_file(path) as file:
        if (num_bytes := os.fstat(file.fileno()).st_size) > max_bytes:
            raise ValueError(f"must be at most {max_bytes} bytes; got {num_bytes}")
        return file.read(max_bytes).decode(errors=errors)


def open_file(path: Path | str) -> io.BufferedReader:
    """Open a regular file for reading; a pipe or device might block or never end.

    Raises:
        OSError: If it cannot be opened, or is not a regular file.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait for a writer.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(path, flags)
    except ValueError as error:  # a null byte
        raise FileNotFoundError(errno.ENOENT, str(error), path) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "must be a file; got a folder, device or pipe", path)
    return open(descriptor, "rb")


def check_shape(value: Any, shape: Shape, where: str = "") -> None:
    """Check that a parsed value has the given shape.

    Raises:
        ValueError: If it has another; the message names the place and the value.
    """
    if isinstance(shape, list):
        _check_type(value, list, where)
        for number, each in enumerate(value):
            check_shape(each, shape[0], f"{where}[{number}]")
    elif isinstance(shape, dict):
        _check_type(value, dict, where)
        keys = value if str in shape else shape
        for key in keys:
            name = f"{where}.{key}" if where else str(key)
            if key not in value:
                raise ValueError(f"{shown(name)} is missing")
            check_shape(value[key], shape[str if str in shape else key], name)
    else:
        _check_type(value, shape, where)


def _check_depth(value: Any) -> None:
    """Check that lists and objects are nested at most `MAX_DEPTH` deep, without recursion."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH + 1):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [child for each in inner for child in each if isinstance(child, dict | list)]
        if not level:
            return
    raise ValueError(f"must be nested at most {MAX_DEPTH} deep")


def _check_type(value: Any, kind: type | UnionType, where: str) -> None:
    # JSON does not distinguish 1 and 1.0; a bool is not a number.
    is_fit = isinstance(value, int | float if kind is float else kind)
    is_huge = kind is float and isinstance(value, int) and abs(value) > _MAX_FLOAT
    if not is_fit or is_huge or (isinstance(value, bool) and kind in (int, float)):
        name = getattr(kind, "__name__", str(kind))
        raise ValueError(f"{shown(where) or 'the whole'} must be {name}; got {quoted(value)}")


class _Bounded(yaml.SafeLoader):
    """Loader that rejects repeated keys, and what makes a small file take much memory."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError(f"must have no anchor or alias; got {quoted(event.anchor)}")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError(f"must be nested at most {MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key in (str(each.value) for each, _ in node.value):
            if key in seen:  # PyYAML would take the last
                raise ValueError(f"must have each key once; got {quoted(key)} twice")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        # A base-60 number takes quadratic time.
        if node.tag != "tag:yaml.org,2002:str" and len(node.value) > MAX_NUMBER:
            raise ValueError(f"a number must have at most {MAX_NUMBER} digits")
        return super().construct_scalar(node)


class _PlainLoader(_Bounded):
    pass


class _WrittenLoader(_Bounded):
    """Loader that returns every scalar as its text, like BaseLoader."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return node.value
        return super().construct_object(node, deep)


def _reason(error: BaseException, otherwise: str) -> str:
    return shown(one_line(error), 500) or otherwise
