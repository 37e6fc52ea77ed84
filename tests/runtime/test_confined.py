"""A process that hangs, crashes, or says too much ends its own stream alone."""

import itertools
import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from byola_rq.errors import Code
from byola_rq.runtime import confined
from byola_rq.runtime.confined import ConfinedError, stream
from byola_rq.runtime.sandbox import Limits
from tests.refusal import refused
from tests.runtime import worker_tasks
from tests.runtime.worker_tasks import MOST

LIMITS = Limits(seconds=1.0, gigabytes=0.3)


def messages(kind: str) -> Iterator[bytes]:
    return stream(worker_tasks.__name__, "give", kind, limits=LIMITS, most=MOST)


def test_messages_come_in_order_from_one_process_after_the_other_s_end() -> None:
    first, second = list(messages("")), list(messages(""))
    assert first[:2] == second[:2] == [b"first", b""]
    assert first[2] == second[2] != b"%d" % os.getpid()
    with closing(messages("")) as one, closing(messages("")) as other:
        pids = [list(pair)[2] for pair in zip(*itertools.zip_longest(one, other), strict=True)]
    assert len(set(pids)) == 2


def test_a_process_that_may_be_about_to_end_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(messages(""))
    monkeypatch.setattr(confined, "_IDLE_SECONDS", 0.0)
    assert list(messages(""))[2] != first[2]


@pytest.mark.parametrize(
    ("kind", "code", "facts"),
    [
        ("hang", "too-large", {}),
        ("segfault", "damaged", {}),
        ("exit", "damaged", {}),
        ("bug", "damaged", {}),
        ("memory", "too-large", {}),
        ("error", "damaged", {"key": "a", "value": 7}),
        ("large", "too-large", {}),
    ],
)
def test_every_end_is_one_error(kind: str, code: Code, facts: dict[str, object]) -> None:
    given = messages(kind)
    assert next(given) == b"first"
    with refused(ConfinedError, code, **facts):
        next(given)
    assert list(messages(""))[:2] == [b"first", b""]


def test_a_stream_that_is_not_wanted_any_more_leaves_nothing() -> None:
    given = stream(worker_tasks.__name__, "count", limits=LIMITS, most=MOST)
    assert [next(given), next(given)] == [b"0", b"1"]
    given.close()
    assert list(messages(""))[:2] == [b"first", b""]
