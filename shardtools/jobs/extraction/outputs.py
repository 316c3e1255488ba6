"""One file from the rows of all shards.

bytes and schema of some rows, in order -> Output -> sink
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from shardtools.errors import CorruptError, JobError
from shardtools.jobs.extraction.formats import RowFormat, Schema, encoder
from shardtools.jobs.extraction.row_batches import RowBatch
from shardtools.jobs.forward import ForwardFile
from shardtools.sources.cells import ENTRY, MAX_EXACT_BYTES, ExactValues, dump_exact, parse_exact
from shardtools.storage import Sink
from shardtools.storage.files import os_errors


class Output:
    """One file made of what the encoders return; this base class is for text, which is written as it comes."""

    def __init__(self, sink: Sink, format: RowFormat):
        self._sink = sink
        self._format = format
        self._started = False

    def add(self, schema: Schema, content: BinaryIO, size: int) -> None:
        """Add rows: the first ``size`` bytes of ``content``."""
        if not self._started:
            self._started = True
            if self._format.header and schema is not None:
                self._sink.write(self._header(schema))
        for piece in _pieces(content, size):
            self._sink.write(piece)

    def finish(self) -> None:
        """Write what comes last."""

    def close(self) -> None:
        """Let go of what is held. Rows that were not finished are not written."""

    def _header(self, schema: tuple[Any, ...]) -> bytes:
        rows = RowBatch("", ["key"], {str(i): [name] for i, name in enumerate(schema)})
        return encoder(RowFormat(self._format.name)).encode(rows)


class _ParquetOutput(Output):
    def __init__(self, sink: Sink, format: RowFormat):
        super().__init__(sink, format)
        self._file = ForwardFile(sink)
        self._writer: Any = None
        self._rows = 0
        self._exact: ExactValues = {}
        self._room = MAX_EXACT_BYTES

    def add(self, schema: Schema, content: BinaryIO, size: int) -> None:
        import pyarrow as arrow
        from pyarrow import parquet

        at = 0
        while at < size:
            length = int.from_bytes(content.read(8), "little")
            at += 8 + length
            table = arrow.ipc.open_stream(content.read(length)).read_all()
            self._note(parse_exact((table.schema.metadata or {}).get(ENTRY)))
            self._rows += table.num_rows
            table = table.replace_schema_metadata(None)
            if self._writer is None:
                self._writer = parquet.ParquetWriter(arrow.PythonFile(self._file, "w"), table.schema)
            self._writer.write_table(table)

    def _note(self, exact: ExactValues) -> None:
        """Keep the exact values of the next rows.

        Raises:
            JobError: they have too many bytes.
        """
        for (row, column), data in exact.items():
            self._exact[self._rows + row, column] = data
            self._room -= len(data)
            if self._room < 0:
                values = "values that are not UTF-8 text, or not plain numbers"
                what = f"{column} and other columns have more than {MAX_EXACT_BYTES:,} bytes of {values}"
                raise JobError(what, fix="use --raw, which writes all fields as bytes")

    def finish(self) -> None:
        if self._writer is not None:
            if self._exact:
                self._writer.add_key_value_metadata({ENTRY: dump_exact(self._exact)})
            self._writer.close()
            self._writer = None

    def close(self) -> None:
        if self._writer is not None:  # else it would write its end when it is collected, into a file that is given up
            self._file.give_up()
            self._writer.close()


class _NpyOutput(Output):
    """Collects rows in a temporary file, since their number stands before them."""

    def __init__(self, sink: Sink, format: RowFormat):
        super().__init__(sink, format)
        self._rows = tempfile.TemporaryFile()  # noqa: SIM115  # closed by finish, or with this object
        self._schema: Schema = None

    def add(self, schema: Schema, content: BinaryIO, size: int) -> None:
        self._schema = schema
        for piece in _pieces(content, size):
            with os_errors(tempfile.gettempdir()):
                self._rows.write(piece)

    def finish(self) -> None:
        dtype, shape = self._schema or ("<f8", ())
        kind = np.dtype(dtype)
        size = self._rows.tell()
        row = kind.itemsize * int(np.prod(shape, dtype=np.int64))
        header = {"descr": kind.str, "fortran_order": False, "shape": (size // row if row else 0, *shape)}
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, header)
        self._sink.write(head.getvalue())
        with os_errors(tempfile.gettempdir()):
            self._rows.seek(0)
        for piece in _pieces(self._rows, size):
            self._sink.write(piece)
        self._rows.close()


def _pieces(content: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the first ``size`` bytes of a file of rows.

    Raises:
        CorruptError: it has fewer.
    """
    while size:
        if not (piece := content.read(min(size, 1 << 20))):
            raise CorruptError("rows that waited in a temporary file are lost", fix="run again, with another TMPDIR")
        size -= len(piece)
        yield piece


_OUTPUTS: dict[str, Callable[[Sink, RowFormat], Output]] = {"parquet": _ParquetOutput, "npy": _NpyOutput}


def open_output(sink: Sink, format: RowFormat) -> Output:
    """Return the output that writes a file of this format to ``sink``."""
    return _OUTPUTS.get(format.name, Output)(sink, format)
