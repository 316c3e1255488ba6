"""Requests to S3: writes go through botocore; reads are signed once for each object and sent on pooled connections.

botocore's ``get_object`` takes about two milliseconds of Python for each call, however small the object. A signature
does not cover the range that is asked for, so one for each object, good for some minutes, serves all of its ranges.

The credentials, endpoint and region are those that botocore finds on the machine where the request is made; they are
never pickled or logged. Without credentials requests go unsigned, which public buckets answer.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

import requests
import urllib3
from botocore import UNSIGNED
from botocore import exceptions as failures
from botocore.config import Config
from botocore.session import Session
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

from shardtools import __version__
from shardtools.errors import RefusedError, ShardtoolsError, StorageError, redact
from shardtools.forks import PerProcess
from shardtools.storage import Coalescing
from shardtools.storage.buckets import split_url
from shardtools.storage.http_client import Client, is_address, timeouts
from shardtools.storage.retry import RetryPolicy, TransientError, retry_after_seconds
from shardtools.storage.s3_errors import EXPIRED_CODES, answer_error, answered, client_error, is_transient

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client as Api

T = TypeVar("T")

_SIGNED_SECONDS = 900
_REUSED_SECONDS = 600
_SIGNATURES = 10_000
_CODE = re.compile(rb"<Code>([^<]+)</Code>")
_CONNECTIONS = 64
_OPERATIONS = {"GET": "get_object", "HEAD": "head_object"}


@dataclass
class _Connected:
    """What one process uses until its credentials expire: sessions, connections and signatures."""

    session: Session
    timeout: tuple[float, float]
    unsigned: bool
    lock: threading.Lock = field(default_factory=threading.Lock)
    apis: dict[str | None, Api] = field(default_factory=dict)
    regions: dict[str, str] = field(default_factory=dict)
    signed: dict[tuple[str, str], tuple[float, str]] = field(default_factory=dict)
    pools: dict[tuple[str, str], urllib3.PoolManager] = field(default_factory=dict)

    def api(self, bucket: str) -> Api:
        """Return botocore's client for the region of a bucket."""
        region = self.regions.get(bucket)
        with self.lock:
            if region not in self.apis:
                self._check_endpoint(bucket)
                self.apis[region] = self._new_api(region)
            return self.apis[region]

    def _new_api(self, region: str | None) -> Api:
        chosen = self.session.get_scoped_config().get("s3") or {}
        special: Any = {}
        if self.unsigned:
            special["signature_version"] = UNSIGNED
        elif not chosen.get("signature_version"):
            special["signature_version"] = "s3v4"  # an address would get one that newer buckets do not take
        if not chosen.get("addressing_style"):
            # Other servers have no host for each bucket. At Amazon an address would name no region but for "virtual".
            special["s3"] = {"addressing_style": "path" if self._endpoint() else "virtual"}
        config = Config(
            connect_timeout=self.timeout[0],
            read_timeout=self.timeout[1],
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=_CONNECTIONS,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            user_agent_extra=f"shardtools/{__version__}",
            **special,
        )
        return cast("Api", self.session.create_client("s3", region_name=region, config=config))

    def _endpoint(self) -> tuple[str, str] | None:
        """Return the server that the environment or the profile names, and where it does; None if neither does."""
        if self.session.get_config_variable("ignore_configured_endpoint_urls"):
            return None
        for variable in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
            if named := os.environ.get(variable):
                return named, variable
        profile = self.session.get_scoped_config()
        services = self.session.full_config.get("services", {}).get(profile.get("services"), {})
        named = services.get("s3", {}).get("endpoint_url") or profile.get("endpoint_url")
        return (named, "endpoint_url of the AWS profile") if named else None

    def _check_endpoint(self, bucket: str) -> None:
        """Raise RefusedError if the server that is named has no usable address."""
        named = self._endpoint()
        if named is not None and not is_address(named[0]):
            address = redact(named[0])
            example = "minio:9000" if "://" in address else address
            raise RefusedError(
                f"{named[1]} is {address}, which is not a server's address",
                url=f"s3://{bucket}",
                fix=f"write it as http://{example} or https://{example}",
            )

    def sign(self, method: str, url: str) -> str:
        """Return an address with a signature, good for some minutes, for requests of one kind for one object."""
        known = self.signed.get((method, url))
        now = time.time()  # the date of a signature is one of this clock, which goes on while the machine sleeps
        if known is not None and now < known[0]:
            return known[1]
        bucket, key = split_url(url)
        address = self.api(bucket).generate_presigned_url(
            _OPERATIONS[method], Params={"Bucket": bucket, "Key": key}, ExpiresIn=_SIGNED_SECONDS
        )
        if len(self.signed) >= _SIGNATURES:
            self.signed.clear()
        self.signed[method, url] = (now + _REUSED_SECONDS, address)
        return address

    def pool(self, address: str) -> tuple[urllib3.HTTPConnectionPool, str]:
        """Return the connections to a server, and what to ask it for."""
        parts = urlsplit(address)
        server = (parts.scheme, parts.netloc)
        manager = self.pools.get(server)
        if manager is None:
            manager = self.pools.setdefault(server, self._new_manager(address))
        connections = manager.connection_from_host(parts.hostname, parts.port, parts.scheme)
        proxied = getattr(manager, "proxy", None) is not None and parts.scheme == "http"
        return connections, address if proxied else f"{parts.path}?{parts.query}" if parts.query else parts.path

    def _new_manager(self, address: str) -> urllib3.PoolManager:
        bundle = self.session.get_config_variable("ca_bundle")
        bundle = bundle or os.environ.get("REQUESTS_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
        options: dict[str, Any] = {
            "maxsize": _CONNECTIONS,
            "retries": False,
            "timeout": urllib3.Timeout(connect=self.timeout[0], read=self.timeout[1]),
            "cert_reqs": "CERT_REQUIRED",
            "ca_certs": bundle,
        }
        proxy = select_proxy(address, get_environ_proxies(address))
        return urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)


def _called(call: Callable[[Api], T], api: Api, url: str) -> T:
    """Return what ``call`` returns. botocore believes numbers and dates of answers, and fails on others as it happens.

    Raises:
        RefusedError: so it did.
    """
    try:
        return call(api)
    except (failures.BotoCoreError, failures.ClientError, ShardtoolsError, TransientError, OSError):
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        fix = "check AWS_ENDPOINT_URL: this may be no S3 service"
        raise RefusedError(f"botocore cannot read the answer ({error})", url=url, fix=fix) from error


class _S3State:
    """What each process makes for itself."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connected: _Connected | None = None


class S3Client(Client):
    """Sends requests to S3. What it needs for that is made on first use in each process."""

    condition = "If-Match"  # S3 knows no If-Range
    sends_parts = True
    coalescing = Coalescing(gap=1 << 14, largest=1 << 24)

    def __init__(self, policy: RetryPolicy, timeout: float):
        super().__init__(policy)
        self._timeouts = timeouts(timeout)
        self._state = PerProcess(_S3State)

    def run(self, url: str, call: Callable[[Api], T]) -> T:
        """Return ``call(api)``, with botocore's client for the URL's bucket; transient failures are retried.

        Raises:
            StorageError: what botocore raised, in our terms.
            UnavailableError: it kept failing.
        """
        return self.policy.run(url, lambda: self.attempt(url, call))

    def attempt(self, url: str, call: Callable[[Api], T]) -> T:
        """Like `run`, once; but for credentials that have expired, which are looked up again."""
        bucket = split_url(url, prefix=True)[0]
        connected = self._connect(url)
        try:
            return _called(call, connected.api(bucket), url)
        except (failures.BotoCoreError, failures.ClientError) as error:
            code = answered(error)[0] if isinstance(error, failures.ClientError) else ""
            if code not in EXPIRED_CODES and code != "400":  # the answer to HEAD has no body that could say why
                raise client_error(error, url, unsigned=connected.unsigned) from error
        connected = self._connect(url, instead_of=connected)
        try:
            return _called(call, connected.api(bucket), url)
        except (failures.BotoCoreError, failures.ClientError) as error:
            raise client_error(error, url, unsigned=connected.unsigned) from error

    def request(self, method: str, url: str, headers: Mapping[str, str] | None, body: object) -> requests.Response:
        connected = self._connect(url)
        response = self._request(connected, method, url, headers)
        region = response.headers.get("x-amz-bucket-region")
        bucket = split_url(url)[0]
        if response.status_code in (301, 307, 400) and region and connected.regions.get(bucket) != region:
            connected.regions[bucket] = region
            connected.signed.pop((method, url), None)
            response.close()
            response = self._request(connected, method, url, headers)
        # The answer to HEAD has no body that could say why.
        expired = response.reason in EXPIRED_CODES or (method == "HEAD" and response.status_code == 400)
        if expired:
            response.close()
            response = self._request(self._connect(url, instead_of=connected), method, url, headers)
        return response

    def check_transient(self, response: requests.Response) -> None:
        if is_transient(response.reason):
            response.close()
            wait = retry_after_seconds(response.headers.get("Retry-After"))
            raise TransientError(f"S3 answered {response.status_code} {response.reason}", wait)
        super().check_transient(response)

    def answer_error(self, response: requests.Response, url: str, meanings: Mapping[int, Any] = {}) -> StorageError:
        return answer_error(response.status_code, response.reason, url, unsigned=self._connect(url).unsigned)

    def _request(
        self, connected: _Connected, method: str, url: str, headers: Mapping[str, str] | None
    ) -> requests.Response:
        try:
            pool, target = connected.pool(connected.sign(method, url))
        except failures.BotoCoreError as error:
            raise client_error(error, url, unsigned=connected.unsigned) from error
        raw = pool.urlopen(
            method,
            target,
            headers={"Accept-Encoding": "identity", **(headers or {})},
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
            assert_same_host=False,
        )
        response = requests.Response()
        response.status_code = raw.status
        response.headers = CaseInsensitiveDict(raw.headers)
        response.raw = raw
        response.reason = raw.reason or ""
        if raw.status >= 300 and method == "GET":
            code = _CODE.search(raw.read(1 << 16))
            response.reason = code[1].decode("latin-1") if code else response.reason
            raw.close()
        return response

    def _connect(self, url: str, instead_of: _Connected | None = None) -> _Connected:
        """Return what this process uses; made anew, with the credentials that are found now, ``instead_of`` the old."""
        state = self._state.get()
        with state.lock:
            if state.connected is None or state.connected is instead_of:
                try:
                    session = Session()
                    unsigned = session.get_credentials() is None
                except failures.BotoCoreError as error:
                    raise client_error(error, url, unsigned=False) from error
                state.connected = _Connected(session, self._timeouts, unsigned)
            return state.connected
