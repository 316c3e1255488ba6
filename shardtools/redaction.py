"""Hide passwords, tokens and signatures, in URLs and in any other text.

``redact`` is for a URL, or a spec of several: it leaves out every part that may be secret. ``conceal`` is for any text,
such as another library's message or traceback: it hides the known secrets, wherever they occur. Known are the secrets
that this process was given: user and query of URLs, values of ``SHARDTOOLS_HTTP_HEADERS``, and environment variables
whose names sound secret.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from shardtools.schemes import SERVERS

HIDDEN = "…"

# One http URL of a text: up to the next spec, or the next URL in braces; "::" may stand inside an IPv6 host.
_HTTP = re.compile(r"https?://.*?(?=(?<!\[)::(?![^\[]*\])|,https?://|$)", re.IGNORECASE | re.DOTALL)
# Up to the last @ before the path: a password may have any other character, escaped or not. A slash may be missing.
_SERVERS = "|".join((*SERVERS, "ftps?"))
_USER = re.compile(rf"((?:{_SERVERS}):/{{0,2}}|[A-Za-z][A-Za-z0-9+.-]*://)([^/]*)@", re.IGNORECASE)
_USER_IN_TEXT = re.compile(rf"((?:{_SERVERS}):/{{1,2}}|[A-Za-z][A-Za-z0-9+.-]*://)([^/\s'\"<>]*)@", re.IGNORECASE)
_QUERY_IN_TEXT = re.compile(r"(https?://[^\s'\"<>?]*)\?[^\s'\"<>]*[^\s'\"<>;:,.)]", re.IGNORECASE)
_BAD_PORT = re.compile(r"(https?://[^/:?#\[\]]*:)[^/?#]*([^?#]*)", re.IGNORECASE)
_NO_COUNT = re.compile(r"@(?![0-9]|auto)")
# A user with a slash in the password: what looks like a host and a port is none, or is no usual one.
_SLASHED = re.compile(
    r"(?P<user>[^/@]*:[^/@]*[^/@0-9][^/@]*/[^@?]*|[^/.@]*:(?P<number>[0-9]*/[^@?]*))@(?![0-9]+(?:\.[A-Za-z]|$)|auto)"
)
_NAMES = (
    "X-(?:Amz|Goog)-[A-Za-z-]+|AWSAccessKeyId|GoogleAccessId|Signature|Key-Pair-Id|Policy|sig|"
    "(?:access_?|id_?|auth_?)?token|api_?key|secret|password"
)
_PARAMETER = re.compile(rf"(?<=[?&])({_NAMES})=[^&\s'\"<>;,)]+", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(r"(?:SECRET|TOKEN|PASSWORD)(?:_ACCESS_KEY|_KEY)?$", re.IGNORECASE)
_HEADERS_VARIABLE = "SHARDTOOLS_HTTP_HEADERS"
_OPEN_HEADERS = ("user-agent", "accept", "accept-encoding", "accept-language", "content-type", "referer")

_SHORTEST = 4
"""A shorter password is hidden in URLs only: elsewhere it could be any word."""

_LONG = 16
"""A value of a query with so many letters is hidden everywhere."""

_MOST = 1000
_seen: dict[str, None] = {}  # secrets that this process has come across, in the order in which it did


def redact(text: str) -> str:
    """Return a URL, or a spec of several, without user, password and query.

    >>> redact("https://user:pw@host:81/a@3.tar?X-Amz-Signature=abc")
    'https://host:81/a@3.tar'
    >>> redact("data/a@3.tar?x::{http://me:pw@host/b,http://me:pw@host/c}.tar")
    'data/a@3.tar?x::{http://host/b,http://host/c}.tar'
    >>> redact("http://me:p::w#x@host/a.tar"), redact("http:/me:pw@host/a.tar"), redact("http://me:p/w@host/a.tar")
    ('http://host/a.tar', 'http:/host/a.tar', 'http://…')
    """
    remember(text)
    return _HTTP.sub(_without_secrets, _USER.sub(r"\1", text))


def _without_secrets(match: re.Match[str]) -> str:
    """Return an http URL that has no user without its query, and only the scheme of one that is ambiguous."""
    whole = f"{match[0].partition('://')[0]}://{HIDDEN}"
    try:
        parts = urlsplit(match[0])
        port = parts.port
    except ValueError:  # an unbalanced bracket, say, or a password with a slash: nothing of it need be harmless
        bad = None if "@" in match[0] else _BAD_PORT.match(match[0])
        return f"{bad[1]}{HIDDEN}{bad[2]}" if bad else whole
    host = parts.hostname or ""
    if port is not None and "." not in host and host != "localhost" and _NO_COUNT.search(parts.path):
        return whole  # me:123/45@host/…
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


def conceal(text: str) -> str:
    """Return a text without the known secrets.

    >>> conceal("Max retries exceeded with url: /b/x.tar?X-Amz-Date=1&X-Amz-Signature=0a1b (Caused by ...)")
    'Max retries exceeded with url: /b/x.tar?X-Amz-Date=…&X-Amz-Signature=… (Caused by ...)'
    >>> conceal("http://me:pw@host/a.tar?sig=x: it is gone; see s3://bucket/a?b=c#d.tar, and me@example.com")
    'http://host/a.tar: it is gone; see s3://bucket/a?b=c#d.tar, and me@example.com'
    """
    if "@" in text:
        text = _USER_IN_TEXT.sub(r"\1", text)
    if "?" in text or "&" in text:
        text = _PARAMETER.sub(rf"\1={HIDDEN}", _QUERY_IN_TEXT.sub(r"\1", text))
    known = frozenset(_seen) | _of_environment()
    return _pattern(known).sub(HIDDEN, text) if known else text


def remember(text: str) -> None:
    """Add the secrets in a URL, or a spec of several, to the known ones."""
    for secret in _secrets_of(text) if "@" in text or "?" in text else ():
        _seen.pop(secret, None)
        _seen[secret] = None
    while len(_seen) > _MOST:
        del _seen[next(iter(_seen))]


def _secrets_of(text: str) -> Iterator[str]:
    """Yield user and password of URLs, escaped or not, and long values of their queries."""
    for match in _USER.finditer(text):
        yield from _of_user(match[2])
    for match in _HTTP.finditer(text):
        rest = match[0].partition("://")[2]
        if slashed := _SLASHED.match(rest):
            yield from _of_user(slashed["user"]) if slashed["number"] is None else [slashed["number"]]
        for _, value in parse_qsl(rest.partition("?")[2], keep_blank_values=True):
            yield from (value, unquote(value)) if len(value) >= _LONG else ()


def _of_user(text: str) -> Iterator[str]:
    """Yield the secrets in ``user:password``: the password in all its spellings, or a token that has none."""
    user, colon, password = text.partition(":")
    if not colon and len(user) < _LONG:  # a name
        return
    secret = password if colon else user
    plain = unquote(secret)
    pieces = [piece for piece in re.split(r"[/#?:@]+", secret) if piece != secret]
    for form in (secret, plain, *pieces):
        if len(form) >= _SHORTEST:
            yield form
    if colon:
        yield b64encode(f"{unquote(user)}:{plain}".encode(errors="replace")).decode()


def _of_environment() -> frozenset[str]:
    """Return the secrets in the environment."""
    named = tuple(value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name))
    return _of_variables(named, os.environ.get(_HEADERS_VARIABLE, ""))


@lru_cache(maxsize=16)
def _of_variables(values: tuple[str, ...], headers: str) -> frozenset[str]:
    found = {value for value in values if len(value) >= 2 * _SHORTEST}
    for line in headers.splitlines():
        name, _, value = re.sub(r"^\s*https?://\S+\s+", "", line, flags=re.IGNORECASE).partition(":")
        if name.strip().lower() not in _OPEN_HEADERS:
            found.update(form for form in (value.strip(), *value.split()[-1:]) if len(form) >= _SHORTEST)
    return frozenset(found)


@lru_cache(maxsize=16)
def _pattern(known: frozenset[str]) -> re.Pattern[str]:
    """Return a pattern of all secrets, the longest first, since one may be a part of another."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(known, key=len, reverse=True)))})(?!\w)")
