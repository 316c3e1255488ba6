"""From a spec to the URLs of its shards. Pure text, no I/O.

A **spec** names the shards of a dataset:

* ``train-@1000.tgz``: the last ``@digits`` of the path. The number is the count and the digits written are the
  width: ``train-0000.tgz`` to ``train-0999.tgz``. ``x-@000012.tar`` is ``x-000000.tar`` to ``x-000011.tar``.
* ``{000..123}`` and ``{train,val}``: braces, as in bash.
* ``a-@10.tar::b-@20.tar``: several specs, one after another; a Python list of specs means the same.
* ``x-*.tar``: a star in the last component, where the storage can list. Matches are sorted.
* ``-``: standard input or output, as one shard.
* ``x-@auto.tar``: for outputs only, as many shards as the job makes.
* anything else is one shard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import chain, islice
from urllib.parse import unquote

from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]

from shardtools.errors import SpecError, redact
from shardtools.urls import absolute, at_home, beside, identity, name_of, server_of, split_path

MAX_SHARDS = 1_000_000
"""A spec that names more shards than this is assumed to be a typing error."""
_COUNT = re.compile(r"@([0-9]+|auto(?![A-Za-z0-9]))")
_IPV6 = re.compile(r"://(?:[^/\[\]]*@)?\[[^/\[\]]*\]")
_RANGE = re.compile(r"\{(-?[0-9]+)\.\.(-?[0-9]+)(?:\.\.-?([0-9]+))?\}")


def servers_of(specs: str | Iterable[str]) -> frozenset[str]:
    """Return the web servers in ``specs``, as `server_of` writes them. Nothing is looked up or checked.

    >>> sorted(servers_of(["http://me:pw@a/x-@3.tar::b.tar", "{https://c,http://d:81}/{0..9}.tar"]))
    ['http://a', 'http://d:81', 'https://c']
    """
    found: set[str] = set()
    for spec in _flatten(specs):
        head = split_path(spec)[0]
        try:
            urls = [head] if head and "{" not in head else _expand_braces(spec)
        except SpecError:  # whoever reads the spec says so
            continue
        found.update(server_of(url) for url in urls if url[:4].lower() == "http" and "://" in url)
    return frozenset(found)


def _split_list(spec: str) -> list[str]:
    """Split at ``::``, but not inside the brackets of an IPv6 host."""
    hosts = [match.span() for match in _IPV6.finditer(spec)]
    cuts = [m.span() for m in re.finditer("::", spec) if not any(start < m.start() < stop for start, stop in hosts)]
    starts, stops = [0, *(stop for _, stop in cuts)], [*(start for start, _ in cuts), len(spec)]
    return [spec[start:stop] for start, stop in zip(starts, stops, strict=True)]


def _expand_braces(spec: str) -> list[str]:
    if "{" not in spec:
        return [spec]
    for match in _RANGE.finditer(spec):  # braceexpand makes a list of each range
        if any(len(number) > 18 for number in match.groups("")) or _length(match) > MAX_SHARDS:
            raise _too_many(spec)
    try:
        found = list(islice(braceexpand(spec), MAX_SHARDS + 1))
    except UnbalancedBracesError as error:
        raise SpecError("unbalanced braces", url=spec, fix="write {000..123} or {train,val}") from error
    if len(found) > MAX_SHARDS:
        raise _too_many(spec)
    return found


def _length(range_match: re.Match[str]) -> int:
    start, stop, step = range_match.groups("1")
    return abs(int(stop) - int(start)) // max(1, int(step)) + 1


def _too_many(spec: str) -> SpecError:
    return SpecError(f"the spec names more than {MAX_SHARDS:,} shards", url=spec, fix="check the number")


def find_count(url: str) -> tuple[str, str, str] | None:
    """Return the text before the last ``@count`` of the path, the count as written, and the text after it.

    >>> find_count("http://me@host/x-@3.tar")
    ('http://me@host/x-', '3', '.tar')
    """
    head, path, tail = split_path(url)
    matches = list(_COUNT.finditer(path))
    if not matches:
        return None
    last = matches[-1]
    return head + path[: last.start()], last[1], path[last.end() :] + tail


def _count(digits: str, url: str) -> int:
    """Return how many shards the ``@digits`` of a URL name."""
    if digits == "auto":
        raise SpecError("@auto is for outputs only", url=url, fix="give the number of shards, as in @1000")
    significant = digits.lstrip("0")
    if not significant:
        raise SpecError("the spec names zero shards", url=url, fix="give the number of shards, as in @1000")
    if len(significant) > len(str(MAX_SHARDS)) or int(significant) > MAX_SHARDS:
        raise _too_many(url)
    return int(significant)


def _number(url: str, parts: tuple[str, str, str] | None) -> list[str]:
    """Expand the ``@N`` of one URL, which `find_count` has split."""
    if parts is None:
        return [url]
    before, digits, after = parts
    width = len(digits)
    return [f"{before}{i:0{width}d}{after}" for i in range(_count(digits, url))]


def _match_star(url: str, list_urls: Callable[[str], Sequence[str]] | None) -> list[str]:
    """Expand the ``*`` of one URL with the URLs that the storage lists."""
    head, path, _ = split_path(url)
    if "*" not in path:
        return [url]
    folder, _, name = path.rpartition("/")
    if "*" in folder:
        raise SpecError("a * is only allowed in the last part of the path", url=url, fix="use braces for folders")
    if list_urls is None:
        raise SpecError("a * is not allowed here", url=url, fix="give the number of shards, as in @1000")
    prefix = head + path[: path.index("*")]
    pattern = "*".join(part.replace("[", "[[]").replace("?", "[?]") for part in name.split("*"))
    # A listing over HTTP has names with %-escapes; what a user types after the star may be the character itself.
    names = {url: (name_of(url), unquote(name_of(url))) for url in list_urls(prefix)}
    found = sorted(url for url, spelt in names.items() if any(fnmatchcase(name, pattern) for name in spelt))
    if not found:
        raise SpecError("no shards match this pattern", url=url, fix="check the name")
    return found


_SERVER_ALONE = re.compile(r"https?://[^/\[\]]*", re.IGNORECASE)


_NO_SERVER = re.compile(
    r"(https?):(?:/(?!/)|//[^/?#@\[\]{}]*:(?![0-9]*(?:[/?#{]|$))[^/?#@\[\]{}]*(?:[/?#]|$))", re.IGNORECASE
)


def _check_server(spec: str) -> None:
    """Raise if a spec begins like a URL and names no server: the rest may be a part of a password."""
    if match := _NO_SERVER.match(spec):
        fix = "check the host and the port: http://host:port/path; in a password write : / # ? @ as %3A %2F %23 %3F %40"
        raise SpecError("this is not a valid URL", url=f"{match[1]}://…", fix=fix)


def _check_whole(spec: str, pieces: Sequence[str]) -> None:
    """Raise if a part of a spec names only a server: the next part may be the rest of a password, not a path."""
    if len(pieces) > 1 and any(_SERVER_ALONE.fullmatch(piece) for piece in pieces):
        raise SpecError(
            "this names a server, but no shard on it",
            url=spec,
            fix="give the name of a shard; in a password write : / # ? @ as %3A %2F %23 %3F %40",
        )


def which_spec(specs: Iterable[str], url: str) -> str | None:
    """Return the single spec, of ``specs``, that names the shard ``url``, or ``url`` itself; without secrets.

    >>> which_spec(["/a.tar::http://me:pw@host/{x,y}-@100.tar?sig=1"], "http://host/y-007.tar")
    'http://me:pw@host/y-@100.tar?sig=1'
    """
    for spec in (single for some in _flatten(specs) for single in map(at_home, _expand_braces(some))):
        shown = redact(absolute(spec))
        before, digits, after = find_count(shown) or (shown, "", "")
        number = url[len(before) : len(url) - len(after)]
        is_one = url == before + number + after and len(number) == len(digits) and (number.isdigit() or not digits)
        if is_one or url == redact(spec):
            return spec
    return None


def _flatten(specs: str | Iterable[str]) -> Iterator[str]:
    for spec in [specs] if isinstance(specs, str) else specs:
        yield from _split_list(spec)


def parts_of(specs: str | Iterable[str]) -> list[str]:
    """Return the single specs in ``specs``: lists are flattened, and specs are split at ``::``.

    >>> parts_of(["a-@2.tar::b-@3.tar", "c.tar"])
    ['a-@2.tar', 'b-@3.tar', 'c.tar']
    """
    return list(_flatten(specs))


def expand(specs: str | Iterable[str], list_urls: Callable[[str], Sequence[str]] | None = None) -> list[str]:
    """Return the URLs of all shards that ``specs`` name, in order; paths are made absolute.

    ``list_urls`` returns the URLs that the storage has under a prefix; without it a ``*`` is an error.

    Raises:
        SpecError: no shard is named, a shard is named twice, or the text is not a valid spec.

    >>> expand("http://me@host/x-@3.tar")
    ['http://me@host/x-0.tar', 'http://me@host/x-1.tar', 'http://me@host/x-2.tar']
    >>> expand("/d/{a,b}-{08..10}.tar::/e/@02.tar")[-3:]
    ['/d/b-10.tar', '/e/00.tar', '/e/01.tar']
    """
    return list(chain.from_iterable(expand_each([specs] if isinstance(specs, str) else specs, list_urls)))


def expand_each(specs: Iterable[str], list_urls: Callable[[str], Sequence[str]] | None = None) -> list[list[str]]:
    """Return the URLs of the shards that each of ``specs`` names; see `expand`.

    >>> expand_each(["/a-@2.tar::/b.tar", "/c.tar"])
    [['/a-0.tar', '/a-1.tar', '/b.tar'], ['/c.tar']]
    """
    wholes = list(specs)
    check_specs(wholes)
    named: list[list[str]] = []
    total = 0
    for whole in wholes:
        named.append([])
        for spec in _flatten(whole):
            if not spec:
                raise SpecError("the spec is empty", fix="name at least one shard")
            for url in map(at_home, _expand_braces(spec)):
                parts = find_count(url)
                if total + len(named[-1]) + (_count(parts[1], url) if parts else 1) > MAX_SHARDS:
                    raise _too_many(spec)
                for shard in _number(url, parts):
                    named[-1] += map(absolute, _match_star(shard, list_urls))
        total += len(named[-1])
    _check_named(named)
    return named


def check_specs(specs: Iterable[str]) -> None:
    """Raise if one of ``specs``, before it is split, may have a password that was cut into pieces.

    Raises:
        SpecError: one may.
    """
    for whole in specs:
        _check_whole(whole, _split_list(whole))
        _check_server(whole)


def _check_named(named: Iterable[Iterable[str]]) -> None:
    """Raise if no shard is named, or one is named twice."""
    seen: set[str] = set()
    for url in chain.from_iterable(named):
        if (same := identity(url)) in seen:
            raise SpecError("this shard is named twice", url=url, fix="name each shard once")
        seen.add(same)
    if not seen:
        raise SpecError("the spec names no shards", fix="name at least one shard")


class Destination:
    """Where a job's shards go: one URL with ``@N`` or ``@auto``, or one plain URL for one shard, or ``-``.

    >>> out = Destination("/d/out-@20.tgz")
    >>> out.count, out.urls()[19], out.manifest
    (20, '/d/out-19.tgz', '/d/out-@20.tgz.json')
    >>> Destination("/d/out-@auto.tgz").resolve(3).spec
    '/d/out-@000003.tgz'
    """

    def __init__(self, spec: str):
        if not spec or len(_split_list(spec)) > 1 or len(_expand_braces(spec)) > 1 or "*" in split_path(spec)[1]:
            raise SpecError(
                "the destination must be a single URL",
                url=spec or None,
                fix="give one spec with @N, such as out-@1000.tgz",
            )
        self.spec = absolute(at_home(spec))
        # An @ in the name of the working folder is not a count.
        self._parts = find_count(self.spec) if find_count(spec) else None
        self.is_auto = self._parts is not None and self._parts[1] == "auto"
        if self._parts and not self.is_auto:
            _count(self._parts[1], self.spec)

    @classmethod
    def of(cls, spec: str) -> Destination | None:
        """Return where the files of a dataset lie that is named so; None if it has none of its own.

        >>> Destination.of("/d/in-{0..9}.tar"), Destination.of("/d/in-@10.tar").spec
        (None, '/d/in-@10.tar')
        """
        try:
            return cls(spec)
        except SpecError:
            return None

    @property
    def count(self) -> int | None:
        """The number of shards, None for ``@auto``."""
        if self.is_auto:
            return None
        return _count(self._parts[1], self.spec) if self._parts else 1

    @property
    def manifest(self) -> str:
        """The URL of the dataset's manifest."""
        return beside(self.spec, ".json")

    def resolve(self, count: int) -> Destination:
        """Return the destination with ``@auto`` replaced by ``count``, in six digits at least; itself otherwise."""
        if not self.is_auto or self._parts is None:
            return self
        return Destination(f"{self._parts[0]}@{count:06d}{self._parts[2]}")

    def urls(self) -> list[str]:
        """Return the URLs of the shards.

        Raises:
            SpecError: the destination is ``@auto`` and not yet resolved.
        """
        return _number(self.spec, self._parts)

    def pattern(self) -> tuple[str, int, str] | None:
        """Return the text before a shard's number, the number of digits, and the text after it; None without ``@N``.

        >>> Destination("/d/out-@0020.tgz").pattern()
        ('/d/out-', 4, '.tgz')
        """
        if self._parts is None or self.is_auto:
            return None
        return self._parts[0], len(self._parts[1]), self._parts[2]

    def url(self, number: int) -> str:
        """Return the URL of the shard with this number, which may be beyond the last of `urls`."""
        before, width, after = self.pattern() or (self.spec, 0, "")
        return f"{before}{number:0{width}d}{after}" if width else before


_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)([kmgt]?)b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parse_size(text: str) -> int:
    """Return the number of bytes in a text such as ``500MB``, 0 if it is not a valid size.

    A size is a number, then perhaps k, M, G or T (powers of 1000), then perhaps B, in upper or lower case.

    >>> parse_size("500MB"), parse_size("1.5g"), parse_size("20000"), parse_size("10 apples")
    (500000000, 1500000000, 20000, 0)
    """
    match = _SIZE.fullmatch(text)
    return int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
