"""The exceptions of shardtools, all of them, as one tree.

    ShardtoolsError
    ├── SpecError            (ValueError)         a spec that names no shards, or the same one twice
    ├── StorageError         (OSError)            bytes at a URL
    │   ├── NotFoundError        (FileNotFoundError)
    │   ├── ExistsError          (FileExistsError)
    │   ├── AccessError          (PermissionError)    401, 403, file modes
    │   ├── RefusedError                              the server does not support this: 405, 413, 416, 501
    │   │   └── PlaceRefusedError                     index files cannot be written beside their shards
    │   ├── FullError                                 no space left: ENOSPC, 507
    │   ├── ChangedError                              the object was replaced while it was read
    │   ├── ConflictError                             somebody else has changed the same thing
    │   ├── ConflictUnsupportedError                  the server has no exclusive create
    │   └── UnavailableError     (ConnectionError)    still failing after every retry
    ├── ShardError           (ValueError)         what is inside a shard
    │   ├── TruncatedError                            it ends too early
    │   ├── CorruptError                              it is damaged, or not what its name says
    │   ├── DuplicateKeyError                         two samples with one key, or two members with one field
    │   └── StaleTableError                           a sidecar that does not match its shard
    ├── LimitError           (ValueError)         data from outside is larger than `shardtools.limits` allows
    ├── FieldError           (TypeError)          a value that its field's extension cannot encode or decode
    ├── ScriptError          (ValueError)         a user's script that cannot be used
    │   └── SampleError                               a user's function failed on a sample
    ├── EngineError          (RuntimeError)       the job could not be run
    │   ├── SchedulerError       (ConnectionError)    no scheduler, or no usable workers
    │   └── LostWorkersError                          every worker that ran the task has died
    └── JobError             (ValueError)         a job that must not start
        └── OutputExistsError    (FileExistsError)
            └── OutputBusyError                       another job is writing it

Every error is one line, ``URL [member]: what; fix``. Known secrets are left out of it.

>>> str(NotFoundError("there is no such object", url="http://me:secret@host/a.tar?sig=1", fix="check the name"))
'http://host/a.tar: there is no such object; check the name'
"""

from __future__ import annotations

import re
from typing import Any, Self

from shardtools.redaction import conceal
from shardtools.redaction import redact as redact

# Characters that move the cursor or reorder text: C0, DEL, C1, line and paragraph separators, writing directions; and
# bytes that are not text, since a terminal may read some of them as C1.
_CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\udc80-\udcff]")


def printable(text: str, *, keep: str = "") -> str:
    """Return a text with control characters as escapes, except those in ``keep``.

    Names of files and keys of samples come from outside, and a terminal would execute control sequences in them.

    >>> printable("a\x1b[2Jb\u202ec")
    'a\\\\x1b[2Jb\\\\u202ec'
    """
    if text.isprintable():
        return text
    return _CONTROLS.sub(lambda match: match[0] if match[0] in keep else _escape(ord(match[0])), text)


def _escape(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no text
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class ShardtoolsError(Exception):
    """Base of every error that shardtools raises.

    ``what`` says what is wrong and ``fix`` what to do about it; ``url`` and ``member`` say where. Pickling keeps all of
    them, so that an error on a worker reaches the client complete.
    """

    def __init__(self, what: str, *, url: str | None = None, member: str | None = None, fix: str | None = None):
        self.url = None if url is None else redact(url)
        self.what = conceal(what)
        self.member = member
        self.fix = None if fix is None else conceal(fix)
        super().__init__(self.what)

    def at(self, url: str | None = None, member: str | None = None) -> Self:
        """Return this error with ``url`` and ``member`` filled in where they are missing."""
        return type(self)(self.what, url=self.url or url, member=self.member or member, fix=self.fix)

    def __str__(self) -> str:
        place = " ".join(part for part in (self.url, self.member and f"[{self.member}]") if part)
        text = f"{place}: {self.what}" if place else self.what
        if self.fix:
            text = f"{text}; {self.fix}"
        return printable(" ".join(text.split()))

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.what, self.url, self.member, self.fix))


def _rebuild(
    cls: type[ShardtoolsError], what: str, url: str | None, member: str | None, fix: str | None
) -> ShardtoolsError:
    return cls(what, url=url, member=member, fix=fix)


class SpecError(ShardtoolsError, ValueError):
    """A spec names no shards, the same shard twice, or cannot be read."""


class StorageError(ShardtoolsError, OSError):
    """Bytes at a URL could not be read or written."""


class NotFoundError(StorageError, FileNotFoundError):
    """There is no object at the URL."""


class ExistsError(StorageError, FileExistsError):
    """There is already an object at the URL."""


class AccessError(StorageError, PermissionError):
    """The credentials do not allow this."""


class RefusedError(StorageError):
    """The server, or the kind of storage, does not support the request."""


class PlaceRefusedError(RefusedError):
    """Index files cannot be written beside their shards."""


class FullError(StorageError):
    """There is no space left."""


class ChangedError(StorageError):
    """The object was replaced while it was being read."""


class ConflictError(StorageError):
    """Somebody else has meanwhile changed what a write touches or depends on."""


class ConflictUnsupportedError(StorageError):
    """The service lets several writers create the same object exclusively."""


class UnavailableError(StorageError, ConnectionError):
    """The storage kept failing until the retries were used up."""


class ShardError(ShardtoolsError, ValueError):
    """The contents of a shard are wrong."""


class TruncatedError(ShardError):
    """A shard ends before it is complete."""


class CorruptError(ShardError):
    """A shard is damaged, or is not what its name says."""


class DuplicateKeyError(ShardError):
    """Two samples have one key, or two members of a sample one field."""


class StaleTableError(ShardError):
    """A sidecar does not match the shard beside it."""


class LimitError(ShardtoolsError, ValueError):
    """Data from outside is larger than the limit for its kind; see `shardtools.limits`."""


class FieldError(ShardtoolsError, TypeError):
    """A value cannot be encoded or decoded by its field's extension."""


class ScriptError(ShardtoolsError, ValueError):
    """A user's script cannot be used."""


class SampleError(ScriptError):
    """A user's function failed on a sample."""


class EngineError(ShardtoolsError, RuntimeError):
    """A list of tasks could not be run."""


class SchedulerError(EngineError, ConnectionError):
    """There is no Dask scheduler at the address, or its workers cannot be used."""


class LostWorkersError(EngineError):
    """Workers died whenever they ran a task."""


class JobError(ShardtoolsError, ValueError):
    """A job's arguments contradict each other; nothing was done."""


class OutputExistsError(JobError, FileExistsError):
    """An output exists already; nothing was done."""


class OutputBusyError(OutputExistsError):
    """Another job is writing the outputs."""
