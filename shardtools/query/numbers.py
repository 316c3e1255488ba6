"""The number that an expression in SQL, such as ``json.width / json.height``, has for each of some samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shardtools.query.condition import Condition, Seen, in_batches, load_columns, misfit
from shardtools.query.duck import session
from shardtools.query.values import Samples

Floats = npt.NDArray[np.float64]


def number_sql(expression: Condition) -> str:
    """Return SQL for the number that an expression has, NaN for NULL."""
    return f"coalesce(CAST(({expression.sql}) AS DOUBLE), 'nan'::DOUBLE)"


def find_numbers(expression: Condition, samples: Samples) -> tuple[Floats, Seen]:
    """Return the number that an expression has for each of ``samples``, NaN for NULL, and what the samples have.

    Raises:
        JobError: the expression does not fit the types of its columns, or is no number.
        StorageError, ShardError: the data of fields cannot be read.
    """
    import duckdb

    parts, seen = [np.empty(0, np.float64)], Seen()
    for _, part in in_batches(expression, samples):
        with session() as connection:
            asked, there = load_columns(connection, expression, part)
            try:
                query = f"SELECT {number_sql(expression)} AS number FROM {asked} ORDER BY n"
                parts.append(np.asarray(connection.execute(query).fetchnumpy()["number"], np.float64))
            except duckdb.Error as error:
                raise misfit(expression, str(error)) from error
        seen |= there
    return np.concatenate(parts), seen
