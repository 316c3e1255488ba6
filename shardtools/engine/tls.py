"""TLS by Dask's configuration, checked before Dask uses it, so that errors name the setting."""

from __future__ import annotations

import ssl

import dask
from distributed.security import Security
from distributed.utils import import_term

from shardtools.errors import SchedulerError

PREFIX = "distributed.comm.tls."
CA_FILE, CERT, KEY = (PREFIX + name for name in ("ca-file", "client.cert", "client.key"))
ENCRYPTION = "distributed.comm.require-encryption"
LOADER = "distributed.client.security-loader"

ENCRYPTED = ("tls", "wss")


def variable(setting: str) -> str:
    """Return the environment variable that gives a setting of Dask.

    >>> variable("distributed.comm.tls.ca-file")
    'DASK_DISTRIBUTED__COMM__TLS__CA_FILE'
    """
    return "DASK_" + setting.replace(".", "__").replace("-", "_").upper()


def security_for(address: str, scheme: str) -> Security:
    """Return what Dask's configuration says of connections to an address of this scheme.

    Raises:
        SchedulerError: a setting that is needed is missing, or what it names cannot be used.
    """
    if loader := dask.config.get(LOADER):
        try:
            security = import_term(loader)({"address": address})
        except Exception as error:
            raise SchedulerError(f"{LOADER}: {loader} failed: {error}", fix="correct Dask's configuration") from error
        if security is not None:
            return security
    ca, cert, key = (dask.config.get(setting) for setting in (CA_FILE, CERT, KEY))
    if ca and cert:
        _check_authority(ca)
        _check_certificate(cert, key)
    elif scheme in ENCRYPTED:
        missing = [setting for setting, value in ((CA_FILE, ca), (CERT, cert)) if not value]
        raise SchedulerError(
            f"{scheme}:// needs {' and '.join(missing)}, which Dask's configuration does not have",
            fix=f"set it there, or as {' and '.join(map(variable, missing))}",
        )
    elif dask.config.get(ENCRYPTION):
        raise SchedulerError(
            f"{ENCRYPTION} of Dask's configuration forbids {scheme}://", fix="write tls://HOST:PORT, or change it"
        )
    try:
        return Security()
    except ValueError as error:
        raise SchedulerError(f"Dask's configuration: {error}", fix="correct it") from error


def _check_authority(ca: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if "\n" in ca:
            context.load_verify_locations(cadata=ca)
        else:
            context.load_verify_locations(cafile=ca)
    except OSError as error:  # also ssl.SSLError
        raise _unusable(CA_FILE, ca, error) from error


def _check_certificate(cert: str, key: str | None) -> None:
    if "\n" in cert or (key and "\n" in key):  # not in files: Dask writes them into some
        return
    for setting, path in ((CERT, cert), (KEY, key)):
        try:
            with open(path or cert, "rb"):
                pass
        except OSError as error:
            raise _unusable(setting, path or cert, error) from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key)
    except (OSError, ValueError) as error:
        raise _unusable(f"{CERT} and {KEY}", f"{cert}, {key}", error) from error


def _unusable(setting: str, value: str, error: Exception) -> SchedulerError:
    shown = "(in memory)" if "\n" in value else value
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return SchedulerError(f"{setting} of Dask's configuration: {shown}: {reason}", fix="correct it")


def describe_refusal(where: str, error: ssl.SSLError) -> SchedulerError:
    """Return the error of a scheduler with which TLS cannot be agreed on."""
    reason = f"{error.reason or error}".upper()
    if isinstance(error, ssl.SSLCertVerificationError):
        what = f"the certificate of the scheduler at {where} is not trusted: {error.verify_message}"
        return SchedulerError(what, fix=f"let {CA_FILE} be the file that signed it: {dask.config.get(CA_FILE)}")
    if "WRONG_VERSION" in reason or "RECORD_LAYER" in reason or "UNEXPECTED_MESSAGE" in reason:
        return no_tls(where)
    if "ALERT" in reason:
        what = f"the scheduler at {where} does not accept {CERT}: {error.reason}"
        return SchedulerError(what, fix=f"let its own {CA_FILE} be the one that signed {dask.config.get(CERT)}")
    return SchedulerError(f"TLS with the scheduler at {where} failed: {error}", fix=f"check {PREFIX}* of Dask")


def no_tls(where: str) -> SchedulerError:
    """Return the error of a scheduler that does not use TLS."""
    return SchedulerError(f"the scheduler at {where} does not use TLS", fix="write tcp://HOST:PORT")
