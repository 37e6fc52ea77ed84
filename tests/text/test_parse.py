"""YAML and JSON of others: bounded work, and one line about what is wrong."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from byola_rq.config import default_config_path
from byola_rq.text import parse
from byola_rq.text.parse import parse_json, parse_yaml, read_json, read_yaml

LAUGHS = "\n".join(
    ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 200)]
)
BAD_YAML = {
    "aliases": LAUGHS,
    "an anchor": "a: &x 1",
    "a key twice": "a: {b: 1, c: 2, b: 3}",
    "deep": "[" * 1000,
    "deep blocks": "\n".join(f"{' ' * i}a:" for i in range(200)),
    "long": "a: " + "x" * parse.MAX_YAML_BYTES,
    "a number to the base of 60": "a: 1" + ":1" * 50_000,
    "too many digits": "a: " + "9" * 5000,
    "no date": "a: 2024-99-99",
    "no number": "a: !!int ''",
    "no truth": "a: !!bool maybe",
    "an object": "a: !!python/object/apply:os.system [true]",
    "a list as key": "? [a]\n: b",
    "two documents": "a: 1\n---\nb: 2",
    "nul": "a: \0",
}
BAD_JSON = ["", "[" * 10**6, '{"a":' * 10**5, "9" * 5000, "[1", '"\\ud800', "nul"]


def read_bad(text: str, *, as_written: bool) -> str:
    """Return the error of parsing `text`; empty if it is accepted as written."""
    try:
        value = parse_yaml(text, as_written=as_written)
    except ValueError as error:
        return str(error)
    assert all(isinstance(each, str) for each in value.values())
    return ""


@pytest.mark.parametrize("text", BAD_YAML.values(), ids=BAD_YAML)
def test_yaml_in_bounds(text: str) -> None:
    reason = read_bad(text, as_written=False)
    for line in (reason, read_bad(text, as_written=True) or reason):
        assert 0 < len(line) < 600
        assert line.isprintable()


def test_yaml_means_what_it_did() -> None:
    text = default_config_path().read_text()
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml(text, as_written=True) == yaml.BaseLoader(text).get_single_data()


@pytest.mark.parametrize("text", BAD_JSON)
def test_json_in_bounds(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        parse_json(text)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("value", "shape", "where"),
    [
        ([], dict, "the whole"),
        ({}, {"a": int}, "a"),
        ({"a": True}, {"a": int}, "a"),
        ({"a": "1"}, {"a": float}, "a"),
        ({"a": [1, "\x1b"]}, {"a": [int]}, "a[1]"),
        ({"a": {"b": {"c": None}}}, {"a": {str: {"c": str}}}, "a.b.c"),
    ],
)
def test_another_shape_is_named(value: Any, shape: Any, where: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        parse_json(json.dumps(value), shape)
    assert str(caught.value).startswith(where)
    assert str(caught.value).isprintable()


def test_a_shape_that_fits() -> None:
    value = {"a": [1, 2], "b": {"x": {"c": 1}, "y": {"c": 0.5}}, "more": None}
    assert parse_json(json.dumps(value), {"a": [int], "b": {str: {"c": float}}}) == value


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "none"):
        for read in (read_json, read_yaml):
            with pytest.raises(OSError):  # noqa: PT011 - each has a number of its own
                read(path)
    (tmp_path / "latin").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(UnicodeDecodeError):
        read_json(tmp_path / "latin")
