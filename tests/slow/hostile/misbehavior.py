"""Misbehavior that no command may show, to test that the checks detect it."""

import time
from collections.abc import Iterator
from pathlib import Path

from tests.slow.hostile.case import FORMULA, MARKUP, NAMED, SPOILED, Case, files

KIND = "misbehavior"


def misbehave(words: list[str]) -> None:
    """Do the one that is named."""
    match words[1]:
        case "write":
            Path("around/new").write_text("")
        case "change":
            Path("around/folder/kept.wav").write_text("owned")
        case "remove":
            Path("around/victim.txt").unlink()
        case "leave":
            Path("tmp/left").mkdir()
        case "obey":
            print(SPOILED)
        case "flood":
            print("a" * 50_000)
        case "tell":
            print(Path("around/victim.txt").read_text())
        case "raise":
            raise ValueError("of nobody")
        case "fail":
            raise SystemExit(2)  # without a word
        case "eat":
            bytearray(5_000_000_000)
        case "hang":
            time.sleep(60)
        case "calculate":
            Path("out").mkdir()
            Path("out/a.csv").write_text(f"a,{FORMULA}\n".replace('"', ""))
        case "mark":
            Path("out").mkdir()
            Path("out/a.html").write_text(MARKUP)


WORDS = ("write", "change", "remove", "leave", "obey", "flood", "tell", "raise", "fail", "eat")


def cases() -> Iterator[Case]:
    for word in (*WORDS, "calculate", "mark", "hang"):
        seconds = 1.0 if word == "hang" else 30.0
        yield Case(KIND, word, (f"misbehave {word}",), files({}), NAMED, seconds=seconds)
