"""A model card of a stranger's model file holds its words, and no markup of theirs."""

import re

import pytest
import yaml

from byola_rq import Embedder
from byola_rq.audio.frontend import Statistics
from byola_rq.export.model_card import write_model_card

HOSTILE = '<img src=x onerror="f()"> [free](https://example.com) | `c` \x1b[31m\n---\n# Mine'


@pytest.fixture(scope="module")
def card() -> str:
    plain = Embedder.untrained(dim=16, seed=3)
    summary = {"note": HOSTILE, HOSTILE: ["a", HOSTILE]}
    statistics = Statistics(0.0, 1.0)
    return write_model_card(Embedder(plain.encoder, plain.frontend, statistics, summary, HOSTILE))


def test_the_words_are_there(card: str) -> None:
    told = re.sub(r"\\(?=[!-/:-@\[-`{-~])", "", card)
    # The license among the hub's metadata and in the table; a name and two values of the training.
    assert told.count('<img src=x onerror="f()">') == 5
    assert yaml.safe_load(card.split("\n---\n", maxsplit=1)[0])["license_name"] == HOSTILE


def test_no_markup_is(card: str) -> None:
    body = re.sub(r"\\.", "", card.partition("\n---\n")[2])
    assert "<" not in body
    assert "](http" not in body
    assert "\x1b" not in body
    assert "\n# Mine" not in body
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {3}
