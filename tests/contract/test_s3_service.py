"""S3 as a service: credentials, regions, endpoints, and what its answers mean, over real sockets."""

from __future__ import annotations

import re
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from shardtools.errors import AccessError, ExistsError, RefusedError, StorageError, UnavailableError, redact
from shardtools.storage import ByteRange
from shardtools.storage.retry import RetryPolicy
from shardtools.storage.s3 import S3Storage
from shardtools.storage.s3_upload import PART
from tests.contract.faults import Fault, FaultyProxy
from tests.contract.suite import MEGABYTES, OBJECT, TrustedPlaces
from tests.moto_server import MotoServer, moto_server, use_environment

WAITS = [0.25, 0.5, 1.0, 2.0, 4.0]
"""What the default policy waits after each failure in a row, at most."""

SECRETS = ("s3cr3t", "t0ken", "X-Amz-Signature", "X-Amz-Security-Token")


def answer(status: str, code: str = "", *headers: str, message: str = "said the server") -> bytes:
    """Return an answer with the error that S3 would put into its body."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>" if code else ""
    lines = [f"HTTP/1.1 {status}", "Connection: close", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with moto_server() as server:
        server.client().create_bucket(Bucket="bucket")
        yield server


@dataclass
class Line:
    """A storage, the proxy that it goes through, and boto3 as the way around both."""

    storage: S3Storage
    proxy: FaultyProxy
    client: Any
    waits: list[float]
    name: str = field(default_factory=lambda: f"{uuid.uuid4().hex}.tar")

    @property
    def url(self) -> str:
        return f"s3://bucket/{self.name}"

    def put(self, data: bytes) -> None:
        self.client.put_object(Bucket="bucket", Key=self.name, Body=data)

    def get(self) -> bytes:
        data: bytes = self.client.get_object(Bucket="bucket", Key=self.name)["Body"].read()
        return data

    def left(self) -> list[str]:
        """Return what there is of the object, finished or not."""
        there = self.client.list_objects_v2(Bucket="bucket", Prefix=self.name).get("Contents", [])
        begun = self.client.list_multipart_uploads(Bucket="bucket", Prefix=self.name).get("Uploads", [])
        return [entry["Key"] for entry in there] + [f"unfinished {entry['Key']}" for entry in begun]

    def signers(self, method: str) -> list[str]:
        """Return the access keys that the requests were signed with, "" for an unsigned one."""
        return [signature(head)[0] for head in self.proxy.heads if head.startswith(method)]

    def regions(self, method: str) -> list[str]:
        """Return the regions that the requests were signed for."""
        return [signature(head)[1] for head in self.proxy.heads if head.startswith(method)]


def signature(head: str) -> tuple[str, str]:
    """Return access key and region of a request's signature, wherever it has one."""
    query = parse_qs(urlsplit(head.split(" ")[1]).query)
    found = query.get("X-Amz-Credential", [""])[0] or head.partition("Credential=")[2].partition(",")[0]
    if not found:
        assert "Signature" not in head and "Authorization" not in head
        return "", ""
    key, _, region, *_ = found.split("/")
    return key, region


@pytest.fixture
def connect(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Line]]:
    """Makes a `Line` through a proxy with some faults; ``variables`` change the environment, None takes one away."""
    proxies: list[FaultyProxy] = []

    def make(
        *faults: Fault,
        choose: Callable[[bytes], Fault | None] = lambda head: None,
        variables: dict[str, str | None] | None = None,
    ) -> Line:
        proxy = FaultyProxy(moto.url, list(faults), choose)
        proxies.append(proxy.__enter__())
        endpoint = {"AWS_ENDPOINT_URL": proxy.url.rstrip("/")}
        use_environment(monkeypatch, {**moto.environment(), **endpoint, **(variables or {})})
        waits: list[float] = []
        return Line(S3Storage(RetryPolicy(sleep=waits.append, random=lambda: 1.0)), proxy, moto.client(), waits)

    yield make
    for proxy in proxies:
        proxy.__exit__()


NO_KEYS: dict[str, str | None] = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}


class TestExpiredCredentials:
    @pytest.fixture
    def variables(self, tmp_path: Path) -> dict[str, str | None]:
        """A profile whose program hands out KEY1, KEY2 and so on."""
        program = tmp_path / "hand_out.py"
        program.write_text(
            "import json, pathlib\n"
            f"calls = pathlib.Path({str(tmp_path / 'calls')!r})\n"
            "calls.open('a').write('x')\n"
            "key = f'KEY{calls.stat().st_size}'\n"
            "print(json.dumps({'Version': 1, 'AccessKeyId': key, 'SecretAccessKey': 's3cr3t',\n"
            "                  'SessionToken': 't0ken', 'Expiration': '2999-01-01T00:00:00Z'}))\n"
        )
        config = tmp_path / "config"
        config.write_text(f"[profile job]\ncredential_process = {sys.executable} {program}\nregion = us-east-1\n")
        return {**NO_KEYS, "AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "job"}

    def test_a_read_goes_on_with_new_ones(
        self, connect: Callable[..., Line], variables: dict[str, str | None], tmp_path: Path
    ) -> None:
        cut = Fault(b"GET ", after=2_000_000, of_body=True)
        expired = Fault(b"GET ", answer=answer("400 Bad Request", "ExpiredToken"))
        line = connect(cut, expired, variables=variables)
        line.put(MEGABYTES)
        assert line.storage.read(line.url) == MEGABYTES
        assert line.signers("GET") == ["KEY1", "KEY1", "KEY2"]
        assert line.storage.read_ranges(line.url, [ByteRange(5, 50)]) == [MEGABYTES[5:50]]
        assert line.signers("GET")[-1] == "KEY2"
        assert (tmp_path / "calls").read_text() == "xx"
        assert line.waits == WAITS[:1]  # for the connection that broke, not for the credentials

    @pytest.mark.parametrize("code", ["ExpiredToken", "TokenRefreshRequired", "RequestExpired"])
    def test_a_write_goes_on_with_new_ones(
        self, connect: Callable[..., Line], variables: dict[str, str | None], code: str
    ) -> None:
        line = connect(Fault(b"PUT ", answer=answer("400 Bad Request", code)), variables=variables)
        with line.storage.create(line.url) as sink:
            sink.write(OBJECT)
        assert line.get() == OBJECT
        assert line.signers("PUT") == ["KEY1", "KEY2"] and line.waits == []

    def test_a_part_goes_on_with_new_ones(self, connect: Callable[..., Line], variables: dict[str, str | None]) -> None:
        line = connect(Fault(b"PUT ", answer=answer("400 Bad Request", "ExpiredToken")), variables=variables)
        with line.storage.create(line.url) as sink:
            for _ in range(4):
                sink.write(MEGABYTES)
        assert line.get() == MEGABYTES * 4 and line.left() == [line.name]
        assert set(line.signers("PUT")) == {"KEY1", "KEY2"} and line.signers("PUT").count("KEY1") >= 1

    def test_stat_goes_on_with_new_ones(self, connect: Callable[..., Line], variables: dict[str, str | None]) -> None:
        """The answer to HEAD has no body that could say why."""
        line = connect(Fault(b"HEAD ", answer=answer("400 Bad Request")), variables=variables)
        line.put(OBJECT)
        assert line.storage.stat(line.url).size == len(OBJECT)
        assert line.signers("HEAD") == ["KEY1", "KEY2"] and line.waits == []

    def test_the_check_of_an_upload_goes_on_with_new_ones(
        self, connect: Callable[..., Line], variables: dict[str, str | None]
    ) -> None:
        def refuse(head: bytes) -> Fault | None:
            expired = head.startswith(b"HEAD ") and b"KEY1" in head
            return Fault(answer=answer("400 Bad Request")) if expired else None

        line = connect(choose=refuse, variables=variables)
        with line.storage.create(line.url) as sink:
            sink.write(MEGABYTES)
            sink.write(MEGABYTES)
        assert line.get() == MEGABYTES * 2 and line.left() == [line.name]
        assert line.signers("HEAD")[-1] == "KEY2"

    def test_those_that_stay_expired_are_told(
        self, connect: Callable[..., Line], variables: dict[str, str | None]
    ) -> None:
        line = connect(*[Fault(b"GET ", answer=answer("400 Bad Request", "ExpiredToken"))] * 2, variables=variables)
        line.put(OBJECT)
        with pytest.raises(AccessError, match=r"expired \(400 ExpiredToken\); run 'aws sso login'"):
            line.storage.read(line.url)
        assert line.waits == [] and len(line.signers("GET")) == 2

    def test_a_program_that_gives_none_is_told(
        self, connect: Callable[..., Line], variables: dict[str, str | None], tmp_path: Path
    ) -> None:
        (tmp_path / "hand_out.py").write_text("import sys; sys.exit('the vault is closed')")
        line = connect(variables=variables)
        with pytest.raises(AccessError, match=r"the AWS credentials cannot be loaded \(.*the vault is closed.*\); "):
            line.storage.read(line.url)
        assert line.proxy.heads == []


class TestNoCredentials:
    def test_a_public_bucket_is_read_unsigned(self, connect: Callable[..., Line]) -> None:
        line = connect(variables=NO_KEYS)
        line.client.put_object(Bucket="bucket", Key=line.name, Body=OBJECT, ACL="public-read")
        assert line.storage.read(line.url) == OBJECT
        assert line.storage.read_ranges(line.url, [ByteRange(5, 50)]) == [OBJECT[5:50]]
        assert line.storage.stat(line.url).size == len(OBJECT)
        assert line.storage.list(line.url) == [line.url]
        assert {signature(head)[0] for head in line.proxy.heads} == {""} and len(line.proxy.heads) == 4

    def test_a_private_object_tells_how_to_give_some(self, connect: Callable[..., Line]) -> None:
        line = connect(variables=NO_KEYS)
        line.put(OBJECT)  # which moto's server lets nobody read who does not sign
        with pytest.raises(AccessError, match=r"no credentials .*403 .*; set AWS_PROFILE, or AWS_ACCESS_KEY_ID"):
            line.storage.read(line.url)

    def test_a_private_bucket_tells_how_to_give_some(self, connect: Callable[..., Line]) -> None:
        line = connect(choose=lambda head: Fault(answer=answer("403 Forbidden", "AccessDenied")), variables=NO_KEYS)
        for call in (line.storage.read, line.storage.stat, line.storage.list, line.storage.delete):
            with pytest.raises(
                AccessError, match=r"there are no credentials .*; set AWS_PROFILE, or AWS_ACCESS_KEY_ID"
            ):
                call(line.url)
        assert line.waits == [] and len(line.proxy.heads) == 4


class TestTransientCodes:
    @pytest.mark.parametrize(
        ("status", "code"),
        [
            ("400 Bad Request", "RequestTimeout"),
            ("500 Internal Server Error", "InternalError"),
            ("503 Slow Down", "SlowDown"),
            ("503 Service Unavailable", "ServiceUnavailable"),
        ],
    )
    def test_are_tried_again(self, connect: Callable[..., Line], status: str, code: str) -> None:
        said = answer(status, code)
        line = connect(Fault(b"PUT ", answer=said), Fault(b"GET ", answer=said), Fault(b"GET ", answer=said))
        with line.storage.create(line.url) as sink:
            sink.write(OBJECT)
        assert line.waits == WAITS[:1]
        assert line.storage.read(line.url) == OBJECT
        assert line.waits == WAITS[:1] + WAITS[:2] and not line.proxy.faults

    def test_the_wait_that_is_asked_for_is_kept(self, connect: Callable[..., Line]) -> None:
        busy = answer("503 Slow Down", "SlowDown", "Retry-After: 7")
        line = connect(Fault(b"PUT ", answer=busy), Fault(b"GET ", answer=busy), Fault(b"HEAD ", answer=busy))
        with line.storage.create(line.url) as sink:
            sink.write(OBJECT)
        assert line.storage.read(line.url) == OBJECT
        assert line.storage.stat(line.url).size == len(OBJECT)
        assert line.waits == [7.0, 7.0, 7.0]

    @pytest.mark.parametrize("size", [1, 3])
    @pytest.mark.parametrize("said", ["x-amz-checksum-crc32: AAAAAA==", f'ETag: "{"0" * 32}"'])
    def test_other_bytes_than_were_sent_are_sent_again(
        self, connect: Callable[..., Line], said: str, size: int
    ) -> None:
        """The service says of what it has got that it is something else, of an object or of a part."""
        line = connect(Fault(b"PUT ", instead=answer("200 OK", "", said)))
        with line.storage.create(line.url) as sink:
            for _ in range(size):
                sink.write(MEGABYTES)
        assert line.get() == MEGABYTES * size and line.left() == [line.name]
        assert line.waits == WAITS[:1] and not line.proxy.faults

    @pytest.mark.parametrize("stored", [True, False])
    def test_a_completion_that_fails_within_a_good_answer(self, connect: Callable[..., Line], stored: bool) -> None:
        """S3 answers 200 as soon as it begins to put the parts together, and what came of it at the end."""
        said = answer("200 OK", "InternalError")
        failed = Fault(b"POST ", instead=said) if stored else Fault(b"POST ", answer=said)
        line = connect(Fault(b"POST ", after=1 << 30), failed)
        with line.storage.create(line.url) as sink:
            sink.write(MEGABYTES)
            sink.write(MEGABYTES)
        assert line.get() == MEGABYTES * 2 and line.left() == [line.name]
        assert line.waits == WAITS[:1] and not line.proxy.faults

    def test_a_completion_whose_answer_was_lost_and_of_which_the_service_knows_nothing_more(
        self, connect: Callable[..., Line]
    ) -> None:
        gone = answer("404 Not Found", "NoSuchUpload")
        line = connect(Fault(b"POST ", after=1 << 30), Fault(b"POST "), Fault(b"POST ", answer=gone))
        with line.storage.create(line.url) as sink:
            sink.write(MEGABYTES)
            sink.write(MEGABYTES)
        assert line.get() == MEGABYTES * 2 and line.left() == [line.name] and not line.proxy.faults

    @pytest.mark.parametrize("mine", [True, False])
    def test_an_exclusive_create_that_is_refused_when_it_is_tried_again(
        self, connect: Callable[..., Line], monkeypatch: pytest.MonkeyPatch, mine: bool
    ) -> None:
        """The service had stored the object and did not say so, or another came first: the id of the write tells."""
        monkeypatch.setattr("shardtools.storage.exclusive._known", TrustedPlaces())

        def store() -> None:
            found = re.search(r"x-amz-meta-shardtools-write: (\w+)", line.proxy.heads[-1])
            assert found is not None
            write = {"shardtools-write": found[1] if mine else "another"}
            line.client.put_object(Bucket="bucket", Key=line.name, Body=b"data", Metadata=write)

        line = connect(
            Fault(b"PUT ", answer=answer("503 Slow Down", "SlowDown"), then=store),
            Fault(b"PUT ", answer=answer("412 Precondition Failed", "PreconditionFailed")),
        )
        with nullcontext() if mine else pytest.raises(ExistsError):
            line.storage.create_exclusive(line.url, b"data")
        assert line.get() == b"data" and not line.proxy.faults


class TestRegions:
    @pytest.mark.parametrize(
        ("status", "code"),
        [
            ("301 Moved Permanently", "PermanentRedirect"),
            ("307 Temporary Redirect", "TemporaryRedirect"),
            ("400 Bad Request", "AuthorizationHeaderMalformed"),
        ],
    )
    def test_a_bucket_elsewhere_is_asked_there(self, connect: Callable[..., Line], status: str, code: str) -> None:
        line = connect(Fault(b"GET ", answer=answer(status, code, "x-amz-bucket-region: eu-west-3")))
        line.put(OBJECT)
        assert line.storage.read(line.url) == OBJECT
        assert line.storage.read(line.url) == OBJECT
        assert line.storage.read_ranges(line.url, [ByteRange(5, 50)]) == [OBJECT[5:50]]
        assert line.regions("GET") == ["us-east-1", "eu-west-3", "eu-west-3", "eu-west-3"]
        with line.storage.create(line.url) as sink:
            sink.write(b"new")
        assert line.regions("PUT") == ["eu-west-3"] and line.waits == []

    def test_stat_finds_it_too(self, connect: Callable[..., Line]) -> None:
        line = connect(Fault(b"HEAD ", answer=answer("400 Bad Request", "", "x-amz-bucket-region: eu-west-3")))
        line.put(OBJECT)
        assert line.storage.stat(line.url).size == len(OBJECT)
        assert line.regions("HEAD") == ["us-east-1", "eu-west-3"]

    def test_one_that_is_sent_around_in_circles_is_told(self, connect: Callable[..., Line]) -> None:
        said = answer("301 Moved Permanently", "PermanentRedirect", "x-amz-bucket-region: eu-west-3")
        line = connect(choose=lambda head: Fault(answer=said))
        with pytest.raises(RefusedError, match=r"the bucket is in another region .*; set AWS_REGION"):
            line.storage.read(line.url)
        assert line.regions("GET") == ["us-east-1", "eu-west-3"] and line.waits == []


class TestEndpoints:
    def test_that_of_the_service_wins_over_that_of_all(self, connect: Callable[..., Line]) -> None:
        general, special = connect(), connect()
        endpoints = {"AWS_ENDPOINT_URL": general.proxy.url, "AWS_ENDPOINT_URL_S3": special.proxy.url}
        line = connect(variables=endpoints)
        line.put(OBJECT)
        assert line.storage.read(line.url) == OBJECT and line.storage.list(line.url) == [line.url]
        assert len(special.proxy.heads) == 2 and general.proxy.heads == []

    @pytest.mark.parametrize("services", [True, False])
    def test_that_of_a_profile(self, connect: Callable[..., Line], tmp_path: Path, services: bool) -> None:
        """By its name, and without a host for each bucket."""
        server = connect()
        config = tmp_path / "config"
        endpoint = f"endpoint_url = {server.proxy.url.replace('127.0.0.1', 'localhost')}\n"
        variables: dict[str, str | None] = {"AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "minio"}
        profile = "[profile minio]\naws_access_key_id = KEY9\naws_secret_access_key = s3cr3t\n"
        if services:
            config.write_text(f"{profile}services = ours\n[services ours]\ns3 =\n  {endpoint}")
        else:
            config.write_text(profile + endpoint)
        line = connect(variables={**NO_KEYS, **variables, "AWS_ENDPOINT_URL": None})
        line.put(OBJECT)
        assert line.storage.read(line.url) == OBJECT and line.storage.list(line.url) == [line.url]
        assert line.proxy.heads == [] and server.signers("GET") == ["KEY9", "KEY9"]
        assert all("\r\nHost: localhost:" in head for head in server.proxy.heads)

    @pytest.mark.parametrize(
        ("bucket", "region", "host"),
        [
            ("train", "eu-west-1", "train.s3.eu-west-1.amazonaws.com"),
            ("my.data", "eu-west-1", "s3.eu-west-1.amazonaws.com"),
            ("train", "cn-north-1", "train.s3.cn-north-1.amazonaws.com.cn"),
        ],
    )
    def test_amazons_own(self, connect: Callable[..., Line], bucket: str, region: str, host: str) -> None:
        """That of the region: the one of all regions knows a new bucket only after hours."""
        with tunnel_refuser() as (address, asked):
            line = connect(variables={"AWS_ENDPOINT_URL": None, "AWS_DEFAULT_REGION": region, "HTTPS_PROXY": address})
            for call in (line.storage.read, line.storage.list):
                with pytest.raises(StorageError):
                    call(f"s3://{bucket}/x.tar")
        assert {request.split()[1] for request in asked} == {f"{host}:443"}

    @pytest.mark.parametrize("value", ["minio:9000", "minio", "http://minio:port", "ftp://minio:9000"])
    @pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "profile"])
    def test_that_is_no_address(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str
    ) -> None:
        config = tmp_path / "config"
        config.write_text(f"[default]\nendpoint_url = {value}\n" if variable == "profile" else "")
        named = {} if variable == "profile" else {variable: value}
        keys = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "s3cr3t"}
        use_environment(monkeypatch, {**keys, **named, "AWS_CONFIG_FILE": str(config)})
        storage = S3Storage(RetryPolicy(attempts=1))

        def create(url: str) -> None:
            with storage.create(url) as sink:
                sink.write(b"x")

        for action in (storage.read, storage.stat, storage.list, storage.delete, create):
            told = rf"{variable} .*{re.escape(redact(value))}, which is not a server's address; .*http://minio"
            with pytest.raises(RefusedError, match=told):
                action("s3://bucket/x.tar")


@contextmanager
def tunnel_refuser() -> Iterator[tuple[str, list[str]]]:
    """Run a proxy that refuses every tunnel; give out its address, and the first lines of what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

        def do_CONNECT(self) -> None:
            asked.append(self.requestline)
            self.send_error(403)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=[0.05], daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_address[1]}", asked
        finally:
            httpd.shutdown()
            thread.join()


def text_of(error: BaseException) -> str:
    """Return all that a traceback would print."""
    return "".join(traceback.format_exception(error))


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "code", "fix"),
        [
            ("403 Forbidden", "AccessDenied", "check whose credentials are used"),
            ("403 Forbidden", "SignatureDoesNotMatch", "check AWS_SECRET_ACCESS_KEY"),
            ("403 Forbidden", "InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID"),
            ("403 Forbidden", "RequestTimeTooSkewed", "set the clock"),
            ("400 Bad Request", "InvalidToken", "check AWS_SESSION_TOKEN"),
        ],
    )
    def test_tell_what_to_do_and_no_secret(
        self, connect: Callable[..., Line], status: str, code: str, fix: str
    ) -> None:
        said = answer(status, code, message="SignatureProvided: s3cr3t")
        line = connect(choose=lambda head: Fault(answer=said), variables={"AWS_SESSION_TOKEN": "t0ken"})

        def write(url: str) -> None:
            with line.storage.create(url) as sink:
                sink.write(b"x")

        for call in (line.storage.read, line.storage.list, write):
            with pytest.raises(AccessError, match=rf"\({status[:3]} {code}\); {fix}") as raised:
                call(line.url)
            assert str(raised.value).startswith(f"{line.url}: ")
            assert not any(secret in str(raised.value) for secret in SECRETS)
        assert line.waits == [] and len(line.proxy.heads) == 3

    def test_an_archived_object(self, connect: Callable[..., Line]) -> None:
        line = connect(Fault(b"GET ", answer=answer("403 Forbidden", "InvalidObjectState")))
        line.put(OBJECT)
        with pytest.raises(
            RefusedError, match=r"in an archive storage class \(403 InvalidObjectState\); restore it first"
        ):
            line.storage.read(line.url)

    @pytest.mark.parametrize(
        "fault", [Fault(b"", answer=b""), Fault(b"", answer=answer("503 Slow Down", "SlowDown")), Fault(b"", after=9)]
    )
    def test_no_secret_is_in_a_traceback(self, connect: Callable[..., Line], fault: Fault) -> None:
        """Not even in that of a connection that breaks, whose address is signed."""
        line = connect(choose=lambda head: fault, variables={"AWS_SESSION_TOKEN": "t0ken"})
        for call in (line.storage.read, line.storage.stat, line.storage.list):
            with pytest.raises(UnavailableError) as raised:
                call(line.url)
            assert not any(secret in text_of(raised.value) for secret in SECRETS)
        assert any("t0ken" in head for head in line.proxy.heads)


@dataclass
class Held:
    """Chooses the faults of an upload: its parts are still on their way when it ends, and stay so for a while.

    Each part counts as ``begun``, and is held up until ``ended``, and then for as long as it takes an upload that does
    not wait for its parts to be aborted. The first is answered ``refused`` instead, once two more have begun.
    """

    refused: bytes | None = None
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ended: threading.Event = field(default_factory=threading.Event)
    aborted: threading.Event = field(default_factory=threading.Event)
    too_early: bool = False

    def __call__(self, head: bytes) -> Fault | None:
        if head.startswith(b"DELETE "):
            self.aborted.set()
        if not head.startswith(b"PUT "):
            return None
        if self.refused is not None and re.match(rb"\S+ \S+[?&]partNumber=1[& ]", head):
            self.wait_for(2)
            return Fault(answer=self.refused, then=self.ended.set)
        self.begun.release()
        self.ended.wait(60)
        if self.aborted.wait(0.5):
            self.too_early = True
        return None

    def wait_for(self, parts: int) -> None:
        """Wait until so many parts are on their way."""
        for _ in range(parts):
            if not self.begun.acquire(timeout=60):
                raise TimeoutError("the parts did not come")


class TestUploadsThatEnd:
    """With parts on their way; nothing is left of them, finished or not."""

    def write(self, line: Line, parts: int) -> None:
        with line.storage.create(line.url) as sink:
            for _ in range(parts):
                sink.write(bytes(PART))

    @pytest.mark.parametrize("parts", [3, 4, 6])
    def test_by_a_part_that_is_refused(self, connect: Callable[..., Line], parts: int) -> None:
        held = Held(answer("403 Forbidden", "AccessDenied"))
        line = connect(choose=held)
        with pytest.raises(AccessError, match="403 AccessDenied"):
            self.write(line, parts)
        assert line.left() == [] and held.aborted.is_set() and not held.too_early

    def test_by_a_part_that_keeps_failing(self, connect: Callable[..., Line]) -> None:
        def choose(head: bytes) -> Fault | None:
            busy = head.startswith(b"PUT ") and b"partNumber=2" in head
            return Fault(answer=answer("503 Slow Down", "SlowDown")) if busy else None

        line = connect(choose=choose)
        with pytest.raises(UnavailableError, match="S3 answered 503 SlowDown, 6 times in a row"):
            self.write(line, 4)
        assert line.left() == [] and line.waits == WAITS

    @pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, GeneratorExit])
    def test_by_the_users_exception(self, connect: Callable[..., Line], kind: type[BaseException]) -> None:
        held = Held()
        line = connect(choose=held)
        with pytest.raises(kind), line.storage.create(line.url) as sink:
            for _ in range(3):
                sink.write(bytes(PART))
            held.wait_for(3)
            held.ended.set()
            raise kind
        assert line.left() == [] and held.aborted.is_set() and not held.too_early

    def test_the_object_that_was_there_stays(self, connect: Callable[..., Line]) -> None:
        line = connect(Fault(b"POST ", after=1 << 30), Fault(b"POST ", answer=answer("400 Bad Request", "InvalidPart")))
        line.put(OBJECT)
        with pytest.raises(RefusedError, match="400 InvalidPart"):
            self.write(line, 2)
        assert line.left() == [line.name] and line.get() == OBJECT

    def test_the_abort_is_tried_again(self, connect: Callable[..., Line]) -> None:
        line = connect(Fault(b"DELETE ", answer=answer("503 Slow Down", "SlowDown")))
        with pytest.raises(ValueError), line.storage.create(line.url) as sink:
            sink.write(bytes(PART))
            raise ValueError
        assert line.left() == [] and line.waits == WAITS[:1]

    def test_what_failed_is_told_even_if_the_abort_fails_too(self, connect: Callable[..., Line]) -> None:
        denied, refused = answer("403 Forbidden", "AccessDenied"), answer("400 Bad Request", "InvalidRequest")
        line = connect(Fault(b"PUT ", answer=denied), Fault(b"DELETE ", answer=refused))
        with pytest.raises(AccessError, match="403 AccessDenied"):
            self.write(line, 1)
        assert line.left() == [f"unfinished {line.name}"] and not line.proxy.faults
