"""When to try again, and how long to wait before: one policy for every scheme.

    attempt -> TransientError -> budget.wait(error): sleeps, or raises UnavailableError -> next attempt

A backend raises `TransientError` for what may pass by itself. A `Budget` counts the failures in a row of one operation.
A stream resets it when bytes arrive, so that a long download over a bad connection does not run out of attempts.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from shardtools.errors import UnavailableError
from shardtools.storage import StorageOptions, count

T = TypeVar("T")

TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
"""The HTTP statuses of failures that may pass by themselves."""


class TransientError(Exception):
    """A failure that may pass by itself. It never leaves the storage package.

    ``retry_after`` is how many seconds the server asked to wait, None if it did not; ``fix`` is what to do when it
    does not pass, None for the usual advice.
    """

    def __init__(self, what: str, retry_after: float | None = None, fix: str | None = None):
        super().__init__(what)
        self.what = what
        self.retry_after = retry_after
        self.fix = fix


SLOW_SECONDS = 10.0
"""A request that takes longer is counted as slow; most take less than a second."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often to try and how long to wait: exponential backoff with full jitter.

    ``attempts`` counts the first one. Before attempt n + 1 the wait is random between 0 and
    ``min(cap, base * 2 ** (n - 1))`` seconds, and at least what the server asks for, up to ``longest``.

    >>> policy = RetryPolicy(base=1, cap=10, random=lambda: 1.0)
    >>> [policy.seconds(failures) for failures in (1, 2, 3, 4, 5)]
    [1.0, 2.0, 4.0, 8.0, 10.0]
    >>> policy.seconds(1, retry_after=7)
    7.0
    """

    attempts: int = 6
    base: float = 0.25
    cap: float = 20.0
    longest: float = 120.0
    sleep: Callable[[float], object] = field(default=time.sleep, repr=False, compare=False)
    random: Callable[[], float] = field(default=random.random, repr=False, compare=False)

    @classmethod
    def of(cls, options: StorageOptions) -> RetryPolicy:
        """Return the policy that tries as often as ``options`` say."""
        return cls(attempts=options.retries + 1)

    def seconds(self, failures: int, retry_after: float | None = None) -> float:
        """Return how many seconds to wait after so many failures in a row."""
        backoff = self.random() * min(self.cap, self.base * 2 ** min(failures - 1, 60))
        return float(max(backoff, min(retry_after or 0, self.longest)))

    def run(self, url: str, attempt: Callable[[], T]) -> T:
        """Return what ``attempt()`` returns, trying again after each `TransientError`.

        Raises:
            UnavailableError: the last attempt failed too.
        """
        budget = Budget(self, url)
        while True:
            start = time.monotonic()
            try:
                return attempt()
            except TransientError as error:
                failed = error
            finally:
                count("slow_requests", time.monotonic() - start > SLOW_SECONDS)
            budget.wait(failed)


DEFAULT_POLICY = RetryPolicy()
"""The policy of a backend that is made without one."""


class Budget:
    """The failures in a row of one operation on ``url``."""

    def __init__(self, policy: RetryPolicy, url: str):
        self._policy = policy
        self._url = url
        self._failures = 0

    def renew(self) -> None:
        """Reset the count of failures, because bytes arrived."""
        self._failures = 0

    def wait(self, error: TransientError) -> None:
        """Sleep until it is time to try again.

        Raises:
            UnavailableError: there are no attempts left.
        """
        self._failures += 1
        if self._failures >= self._policy.attempts:
            times = f", {self._failures} times in a row" if self._failures > 1 else ""
            fix = error.fix or "see whether the server is up and reachable, then run again"
            raise UnavailableError(f"{error.what}{times}", url=self._url, fix=fix) from error
        count("retries")
        self._policy.sleep(self._policy.seconds(self._failures, error.retry_after))


def retry_after_seconds(header: str | None, now: datetime | None = None) -> float | None:
    """Return what a Retry-After header asks for in seconds, None where there is none or it is not valid.

    >>> retry_after_seconds("120")
    120.0
    >>> retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT", datetime(2015, 10, 21, 7, 27, 30, tzinfo=UTC))
    30.0
    """
    if not header:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
