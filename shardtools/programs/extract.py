"""htextract as a function: rows of a dataset, as a table in memory or a file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Unpack, get_args, overload

from shardtools.errors import JobError
from shardtools.jobs.extraction.extract_shard import ExtractOptions, Missing
from shardtools.jobs.extraction.formats import Binary, FormatName, RowFormat
from shardtools.jobs.extraction.spill import Spill
from shardtools.programs.choosing import ChoiceKeywords, choice_of
from shardtools.programs.keywords import READ, ReadKeywords, check_keywords, spelled_out
from shardtools.programs.progress import Progress, python_progress
from shardtools.programs.running import CallKeywords, Specs, UserCode, called, choice, named_by, read_code, run_options
from shardtools.shards.names import KEY_FIELD
from shardtools.urls import at_home, name_of

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from shardtools.jobs.choice import Choice
    from shardtools.jobs.extraction.extract import ExtractResult
    from shardtools.jobs.options import RunOptions
    from shardtools.jobs.report import Skipped
    from shardtools.jobs.script import Code
    from shardtools.storage.expansion import SourceSpecs

_ENDINGS: Mapping[str, FormatName] = {
    "": "tsv",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".npy": "npy",
}


class Rows(Sequence[Mapping[str, object]]):
    """Rows in memory: each is a dict of the sample's ``"key"`` and a value for each field.

    A value is what a Parquet file of htextract has: an int for cls and the like, a text for txt and json, else bytes.
    A sample without the field has None. ``skipped`` is what was left out, with ``on_error="skip"``.
    """

    def __init__(self, table: pyarrow.Table, skipped: Sequence[Skipped] = ()):
        self._table = table
        self.skipped = skipped

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, object]: ...

    @overload
    def __getitem__(self, index: slice) -> Rows: ...

    def __getitem__(self, index: int | slice) -> Mapping[str, object] | Rows:
        """Return one row, or those of a slice."""
        places = range(len(self))[index]
        if isinstance(places, int):
            row: dict[str, object] = self._table.slice(places, 1).to_pylist()[0]
            return row
        return Rows(self._table.take(list(places)), self.skipped)

    def __iter__(self) -> Iterator[Mapping[str, object]]:
        for batch in self._table.to_batches(max_chunksize=1024):
            yield from batch.to_pylist()

    def __repr__(self) -> str:
        return f"Rows({len(self):,} of {', '.join(self._table.column_names)})"

    def to_arrow(self) -> pyarrow.Table:
        """Return the rows as a `pyarrow.Table`, without a copy."""
        return self._table

    def to_pandas(self) -> pandas.DataFrame:
        """Return the rows as a `pandas.DataFrame`.

        Raises:
            JobError: pandas is not installed.
        """
        try:
            import pandas  # noqa: F401
        except ImportError as error:
            raise JobError("a DataFrame needs pandas", fix="install it: pip install pandas") from error
        return self._table.to_pandas()


class RowKeywords(ReadKeywords, ChoiceKeywords, total=False):
    """Which rows `extract` brings out, and how it runs.

    ``fields``: the columns, beside the key; without any the keys alone. ``rename`` gives them other names. A sample
    without them is a row, too.
    ``limit``: no more than so many rows.
    ``seed``: the seed of ``sample``.
    ``function``: makes a row of each record in place of ``fields``: a dict of columns, a value, or None for none. It is
    a function, or the name of a script that defines ``extract_sample(record)``; ``params`` are keywords for it, and for
    ``version`` see `shardtools.map`.
    ``missing``: what to do with a sample that has not all of the fields: ``"empty"`` (the default), ``"skip"``,
    ``"error"``.
    ``progress``: show a bar.
    """

    function: UserCode | None
    params: Mapping[str, object] | None
    version: str | None
    missing: Missing
    seed: int
    progress: bool


def _extract(
    sources: Specs,
    output: str,
    how: RowFormat,
    *,
    function: UserCode | None = None,
    params: Mapping[str, object] | None = None,
    version: str | None = None,
    missing: Missing = "empty",
    seed: int = 0,
    progress: bool = False,
    **keywords: Unpack[CallKeywords],
) -> ExtractResult:
    with called(extract, sources, None, output, seed=seed, **keywords) as call:
        code = None if function is None else read_code(function, ("extract_sample",), params, version, resumes=False)
        what = extract_options(call.choice, code, missing, how)
        named = named_by(call.sources, call.options)
        with python_progress(len(named.urls), progress) as shown:
            return carry_out(named, what, output, call.options, shown)


@overload
def extract(sources: Specs, *, output: None = None, **keywords: Unpack[RowKeywords]) -> Rows: ...


@overload
def extract(
    sources: Specs,
    *,
    output: str,
    format: FormatName | None = None,
    header: bool = False,
    raw: bool = False,
    base64: bool = False,
    **keywords: Unpack[RowKeywords],
) -> ExtractResult: ...


@spelled_out((*READ, ChoiceKeywords, RowKeywords), _extract, choice_of, run_options)
def extract(
    sources: Specs,
    *,
    output: str | None = None,
    format: FormatName | None = None,
    header: bool = False,
    raw: bool = False,
    base64: bool = False,
    **keywords: Unpack[RowKeywords],
) -> Rows | ExtractResult:
    """Return rows of ``sources``, in the order of shards and samples; or write them to the file ``output``.

    See `RowKeywords` for ``keywords``. Rows that are returned are held in memory. A file appears whole or not at all;
    its ``format`` is told by its name unless it is given, ``header`` begins a tsv with the names of columns, and
    ``raw`` and ``base64`` say how bytes are written that are no text. What is returned then says how many rows there
    are.

    Raises:
        SpecError: a spec is wrong.
        JobError: a field exists nowhere, the options make no sense, or pyarrow is not installed, which rows need.
        OutputExistsError: ``output`` exists, and may not be replaced.
        ShardtoolsError: the first error of a shard or sample, if ``on_error`` is not ``"skip"``.

    >>> import shardtools as st
    >>> rows = st.extract("train-@2.tar", fields=["cls", "txt"], where="cls = 1")
    >>> rows[0], rows.to_arrow().column_names
    ({'key': 'bee', 'cls': 1, 'txt': 'a bee'}, ['key', 'cls', 'txt'])
    >>> st.extract("train-@2.tar", function=lambda record: {"n": len(record["txt"])}, output="sizes.csv").rows
    4
    """
    if output is None and (format is not None or header or raw or base64):
        raise JobError("a format is for a file", fix="give output, or leave out format, header, raw and base64")
    check_keywords(extract, keywords)
    if output is not None:
        output = at_home(output)
        return _extract(sources, output, row_format(output, format, header=header, raw=raw, base64=base64), **keywords)
    with closing(Spill()) as spill:
        path = os.path.join(spill.path(), "rows.parquet")
        result = _extract(sources, path, RowFormat("parquet"), **keywords)
        return Rows(_read(path), result.skipped)


def _read(path: str) -> pyarrow.Table:
    import pyarrow
    import pyarrow.parquet

    if not os.path.getsize(path):  # no sample at all
        return pyarrow.table({"key": pyarrow.array([], pyarrow.string())})
    return pyarrow.parquet.read_table(path)


def extract_options(chosen: Choice, code: Code | None, missing: Missing, how: RowFormat) -> ExtractOptions:
    """Return which rows to bring out of what is chosen.

    Raises:
        JobError: the options make no sense together.
    """
    fields = chosen.fields
    if len(set(fields)) < len(fields):
        raise JobError("a field is given twice with -f", fix="give each field once")
    if KEY_FIELD in fields:
        raise JobError("key is no field, and each row begins with the key", fix="leave it out of the fields (-f)")
    if fields and code is not None:
        raise JobError("-f and -p cannot be used together", fix="choose one of them")
    if chosen.drop and code is None:
        raise JobError("--drop does not go with rows of fields", fix="name the fields with -f, or give a script")
    if {old for old, _ in chosen.rename} - {*fields} and code is None:
        raise JobError("--rename names a field that is not shown", fix="name it with -f as well")
    if chosen.class_from is not None:
        raise JobError("class_from is for what writes shards", fix="leave it out")
    choice("missing", missing, get_args(Missing))
    return ExtractOptions(fields, code, chosen, missing, how)


def row_format(output: str, chosen: FormatName | None, *, header: bool, raw: bool, base64: bool) -> RowFormat:
    """Return how rows are written to ``output``, whose name says it unless a format is chosen.

    Raises:
        JobError: the options make no sense together.
    """
    if chosen is not None:
        choice("format", chosen, get_args(FormatName))
    if raw and base64:
        raise JobError("--raw and --base64 cannot be used together", fix="give one of them")
    name = name_of(output).lower()
    ending = os.path.splitext(name)[1]
    named = _ENDINGS.get(ending)
    if None not in (chosen, named) and chosen != named and ending not in ("", ".txt"):
        raise JobError(f"the name {name} does not fit --format {chosen}", fix="change one of them")
    kind = chosen or named
    if kind is None:
        what = f"the name {name} says no format"
        raise JobError(what, fix=f"give --format, or one of {', '.join(filter(None, _ENDINGS))}")
    if header and kind not in ("tsv", "csv"):
        raise JobError(f"--header does not go with {kind}", fix="leave it out; it is for tsv")
    if raw and kind in ("csv", "jsonl"):
        raise JobError(f"--raw does not go with {kind}", fix="use --base64, or parquet")
    binary: Binary = "raw" if raw else "base64" if base64 else "describe"
    return RowFormat(kind, binary, header=header or kind == "csv")


def carry_out(
    sources: SourceSpecs, what: ExtractOptions, output: str, options: RunOptions, progress: Progress
) -> ExtractResult:
    """Bring rows out into the file ``output``."""
    from shardtools.jobs.extraction.extract import run_extract

    return run_extract(
        sources, what, output, options, lambda extracted: progress.advance(extracted.samples, extracted.size)
    )
