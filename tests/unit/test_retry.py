"""When to try again, and for how long to wait, without waiting."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtools.errors import NotFoundError, UnavailableError
from shardtools.storage.retry import DEFAULT_POLICY, Budget, RetryPolicy, TransientError, retry_after_seconds


class Script:
    """A function that does what it is told, call by call."""

    def __init__(self, *steps: Exception | str):
        self.steps = list(steps)

    def __call__(self) -> str:
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def policy(waits: list[float]) -> RetryPolicy:
    return RetryPolicy(attempts=4, base=1, cap=5, longest=60, sleep=waits.append, random=lambda: 1.0)


def test_success_at_once_does_not_wait(policy: RetryPolicy, waits: list[float]) -> None:
    assert policy.run("u", Script("done")) == "done"
    assert waits == []


def test_transient_failures_are_tried_again(policy: RetryPolicy, waits: list[float]) -> None:
    script = Script(TransientError("a"), TransientError("b"), TransientError("c"), "done")
    assert policy.run("u", script) == "done"
    assert waits == [1, 2, 4]


def test_the_last_failure_is_reported_with_its_cause(policy: RetryPolicy, waits: list[float]) -> None:
    last = TransientError("the connection broke off")
    script = Script(TransientError("a"), TransientError("b"), TransientError("c"), last, "never")
    with pytest.raises(UnavailableError, match=r"^http://h/x: the connection broke off, 4 times in a row; ") as raised:
        policy.run("http://me:pw@h/x?token=t", script)
    assert raised.value.__cause__ is last
    assert script.steps == ["never"] and len(waits) == 3


def test_one_attempt_is_one(waits: list[float]) -> None:
    policy = RetryPolicy(attempts=1, sleep=waits.append)
    with pytest.raises(UnavailableError, match=r"^u: gone; look"):
        policy.run("u", Script(TransientError("gone", fix="look")))
    assert waits == []


def test_other_errors_pass_at_once(policy: RetryPolicy, waits: list[float]) -> None:
    for error in (NotFoundError("x"), ValueError("y")):
        with pytest.raises(type(error)):
            policy.run("u", Script(error, "never"))
    assert waits == []


def test_bytes_that_come_through_renew_the_budget(policy: RetryPolicy, waits: list[float]) -> None:
    budget = Budget(policy, "u")
    for _ in range(10):
        for _ in range(3):
            budget.wait(TransientError("x"))
        budget.renew()
    assert waits == [1, 2, 4] * 10


def test_the_server_may_ask_for_more_but_not_for_everything(policy: RetryPolicy, waits: list[float]) -> None:
    script = Script(TransientError("a", 30), TransientError("b", 1), TransientError("c", 3600), "done")
    policy.run("u", script)
    assert waits == [30, 2, 60]


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_waits_are_jittered_and_bounded(failures: int, luck: float) -> None:
    policy = RetryPolicy(base=0.5, cap=8, random=lambda: luck)
    assert 0 <= policy.seconds(failures) <= min(8, 0.5 * 2 ** min(failures - 1, 100))
    assert policy.seconds(failures) == luck * min(8, 0.5 * 2 ** min(failures - 1, 100))


def test_two_clients_do_not_wait_alike() -> None:
    assert len({DEFAULT_POLICY.seconds(5) for _ in range(20)}) > 1


def test_a_policy_is_a_value() -> None:
    assert RetryPolicy() == DEFAULT_POLICY and RetryPolicy(attempts=2) != DEFAULT_POLICY
    assert pickle.loads(pickle.dumps(DEFAULT_POLICY)) == DEFAULT_POLICY
    with pytest.raises(FrozenInstanceError):
        DEFAULT_POLICY.attempts = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0),
        (" 120 ", 120),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("Wed, 99 Foo 2015 07:28:00 GMT", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header) == seconds


@given(st.integers(-3600, 3600), st.sampled_from([UTC, timezone(timedelta(hours=2))]))
def test_retry_after_a_date(seconds: int, zone: timezone) -> None:
    now = datetime(2024, 2, 29, 12, 0, 0, tzinfo=UTC)
    header = format_datetime((now + timedelta(seconds=seconds)).astimezone(zone))
    assert retry_after_seconds(header, now) == max(0, seconds)
