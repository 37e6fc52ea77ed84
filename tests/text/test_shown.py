"""Foreign text cannot control a terminal, and messages stay one short line."""

import unicodedata

import pytest

from byola_rq.errors import ByolaRQError, ConfigError
from byola_rq.runtime.terminal import say, warn
from byola_rq.text.shown import MAX_LINE, quoted, shown

HARMLESS = ["plain", "Zwölf Töne", "音　声", "a b", "🎻", "back\\slash", "[red]x[/red]"]
NAMED = {
    "\x1b]0;owned\x07": "\\x1b]0;owned\\x07",
    "a\nerror: b": "a\\nerror: b",
    "\x9b31m": "\\x9b31m",
    "gpj.\u202ewav": "gpj.\\u202ewav",
    "a\u2028b": "a\\u2028b",
    "caf\udce9": "caf\\xe9",
    "\ufeffa": "\\ufeffa",
}


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_written_by_hand_stays(text: str) -> None:
    assert shown(text) == text


@pytest.mark.parametrize(("text", "expected"), NAMED.items())
def test_what_a_terminal_would_obey_is_named(text: str, expected: str) -> None:
    assert shown(text) == expected == shown(expected)


def test_nothing_that_is_no_sign_is_left() -> None:
    everything = "".join(map(chr, (*range(0x3000), *range(0x3000, 0x110000, 11))))
    left = {unicodedata.category(each) for each in shown(everything, len(everything))}
    assert not left & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert {"Lu", "Lo", "Mn", "Nd", "So", "Zs"} <= left


def test_long_texts_lose_their_middle() -> None:
    line = shown("head" + "x" * 10**6 + "tail")
    assert line.startswith("head")
    assert line.endswith("tail")
    assert len(line) < MAX_LINE + 10
    assert len(quoted([0] * 10**5)) < 210


def test_an_error_is_one_line_whatever_it_quotes() -> None:
    for text, expected in NAMED.items():
        message = str(ByolaRQError(f"{text}: must be there", path=text))
        assert message == f"{expected}: must be there"
    assert str(ConfigError(["a\nb", "c"])) == "a\\nb\nc"


def test_all_output_goes_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    for text in NAMED:
        say(text)
        warn(text)
    out, err = capsys.readouterr()
    assert out.splitlines() == err.splitlines() == list(NAMED.values())
