"""Reducing: a script makes new records of all the records that have the same sort key.

spans in order -> records -> groups with one order -> reduce_samples(key, records) -> records
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby

from shardtools.engine import check_cancelled
from shardtools.errors import SampleError, ShardtoolsError
from shardtools.jobs.exchange.keying import Keying, value_of
from shardtools.jobs.script import Code, failure, function
from shardtools.shards.samples import Composer, Members, Record

REDUCE, COMBINE = "reduce_samples", "combine_samples"
"""What a script's functions are called."""


class Reducer:
    """Calls a function of a script for each group of records with one order.

    If the function fails, or does not return records, ``on_failure`` is called with the key of the group's first sample
    and the error; if it returns, the group is skipped.
    """

    def __init__(self, script: Code, name: str, keying: Keying, on_failure: Callable[[str, ShardtoolsError], None]):
        self._script = script
        self._name = name
        self._keying = keying
        self._on_failure = on_failure
        self._call = function(script, name, positional=2)
        self._composer = Composer()

    def reduce(
        self, records: Iterable[tuple[bytes, Record]]
    ) -> Iterator[tuple[bytes, Record, list[tuple[str, Members]]]]:
        """Yield for each group its order, its first record, and the samples that the function makes of it.

        Records are read as the function asks for them; it need not take all of them.
        """
        for order, group in groupby(records, lambda item: item[0]):
            check_cancelled()
            of_group = (record for _, record in group)
            first = next(of_group)
            try:
                samples = self._of_group(first, of_group)
            except ShardtoolsError as error:
                self._on_failure(first["key"], error)
                continue
            yield order, first, samples

    def _of_group(self, first: Record, others: Iterator[Record]) -> list[tuple[str, Members]]:
        def everyone() -> Iterator[Record]:
            yield first
            for record in others:
                check_cancelled()
                yield record

        try:
            key = value_of(self._keying, first)
            returned = self._call.call(key, everyone())
            if returned is None:
                return []
            if isinstance(returned, str | bytes) or not isinstance(returned, Iterable):
                fix = "return None, a record (a dict), or several records"
                raise SampleError(f"{self._call.title} returned {type(returned).__name__}", fix=fix)
            made = [returned] if isinstance(returned, Mapping) else list(returned)
        except ShardtoolsError:
            raise
        except (Exception, SystemExit) as error:
            raise failure(error, self._script, self._name, "groups") from error
        return [self._composer.compose(record) for record in made]
