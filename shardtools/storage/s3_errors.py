"""From the answers of S3 and the exceptions of botocore to our errors."""

from __future__ import annotations

from botocore import exceptions as failures

from shardtools.errors import (
    AccessError,
    ChangedError,
    FullError,
    NotFoundError,
    RefusedError,
    StorageError,
)
from shardtools.storage.http_client import connection_error
from shardtools.storage.retry import TRANSIENT_STATUSES, TransientError, retry_after_seconds

EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
"""The codes for credentials, or signatures, that have expired."""

_TRANSIENT_CODES = frozenset(
    {
        "BadDigest",  # the bytes were damaged on their way
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "XAmzContentSHA256Mismatch",
    }
)
_NOT_FOUND_CODES = ("NoSuchKey", "NoSuchBucket", "NoSuchUpload", "404", "NotFound", "Not Found")
_SIGN_IN = "run 'aws sso login', or check where your AWS credentials come from ('aws configure list')"
_NO_CREDENTIALS = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run 'aws configure'"
_CHECK_RIGHTS = "check whose credentials are used ('aws sts get-caller-identity') and what they allow"
_BAD_CREDENTIALS = {
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID or the profile, and the endpoint: this service knows no such key",
    "InvalidToken": "check AWS_SESSION_TOKEN: it belongs to one access key only",
    "RequestTimeTooSkewed": "set the clock of this machine",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY or the profile: it is not the secret of this access key",
}
"""What to do about invalid credentials, by error code."""
_CREDENTIAL_FAILURES = (
    failures.CredentialRetrievalError,
    failures.NoCredentialsError,
    failures.PartialCredentialsError,
    failures.ProfileNotFound,
    failures.SSOError,
    failures.TokenRetrievalError,
    failures.UnknownCredentialError,
    failures.ConfigNotFound,
    failures.ConfigParseError,
    failures.InvalidConfigError,
    failures.RefreshWithMFAUnsupportedError,
)


def is_transient(code: str) -> bool:
    """Return whether an error code tells of a failure that may pass by itself."""
    return code in _TRANSIENT_CODES


def answered(error: failures.ClientError) -> tuple[str, int]:
    """Return code and status of the answer that an exception is about."""
    response = error.response
    return response.get("Error", {}).get("Code", ""), response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def client_error(error: failures.BotoCoreError | failures.ClientError, url: str, *, unsigned: bool) -> Exception:
    """Return the TransientError or StorageError that an exception of botocore means."""
    if isinstance(error, failures.ClientError):
        code, status = answered(error)
        if code in _TRANSIENT_CODES or status in TRANSIENT_STATUSES:
            headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            return TransientError(f"S3 answered {status} {code}", retry_after_seconds(headers.get("retry-after")))
        return answer_error(status, code, url, unsigned=unsigned)
    if isinstance(error, _CREDENTIAL_FAILURES):
        return AccessError(f"the AWS credentials cannot be loaded ({error})", url=url, fix=_SIGN_IN)
    if isinstance(error, (failures.ParamValidationError, ValueError)):
        return RefusedError(f"botocore refuses this ({error})", url=url, fix="check the URL and AWS_ENDPOINT_URL")
    if isinstance(error, (failures.HTTPClientError, failures.ConnectionError, OSError)):
        return connection_error(error, url)
    return StorageError(f"botocore failed ({error})", url=url, fix="check the AWS configuration")


def answer_error(status: int, code: str, url: str, *, unsigned: bool) -> StorageError:
    """Return the error that a status and an error code mean; ``unsigned``: the request had no credentials."""
    said = f"{status} {code}".strip()
    if code == "NoSuchBucket":
        return NotFoundError(f"there is no such bucket ({said})", url=url, fix="check its name, and the endpoint")
    if code in _NOT_FOUND_CODES or status == 404:
        return NotFoundError(f"there is no such object ({said})", url=url, fix="check the URL")
    if code in EXPIRED_CODES:
        return AccessError(f"the credentials have expired ({said})", url=url, fix=_SIGN_IN)
    if code == "InvalidObjectState":
        return RefusedError(f"the object is in an archive storage class ({said})", url=url, fix="restore it first")
    if code in _BAD_CREDENTIALS:
        return AccessError(f"S3 rejects these credentials ({said})", url=url, fix=_BAD_CREDENTIALS[code])
    if status in (401, 403) and unsigned:
        what = f"S3 does not allow this, and there are no credentials ({said})"
        return AccessError(what, url=url, fix=_NO_CREDENTIALS)
    if status in (401, 403):
        return AccessError(f"S3 does not allow this with these credentials ({said})", url=url, fix=_CHECK_RIGHTS)
    if status == 412:
        return ChangedError(f"the object has changed ({said})", url=url, fix="run again")
    if status == 416:
        return RefusedError(f"the object does not have the bytes asked for ({said})", url=url, fix="check its index")
    if status == 507 or code in ("XMinioStorageFull", "QuotaExceeded"):
        return FullError(f"there is no space left ({said})", url=url, fix="free some space there")
    if status in (301, 307):
        return RefusedError(f"the bucket is in another region ({said})", url=url, fix="set AWS_REGION to its region")
    return RefusedError(f"S3 refused ({said})", url=url, fix="check the URL and AWS_ENDPOINT_URL")
