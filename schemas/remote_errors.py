"""What went wrong at a store: whether to try again, and how to say it. None of its clients is imported."""

from __future__ import annotations

import asyncio
import re

from schemas.errors import HeadraceError

_AGAIN = {408, 425, 429}  # and 5xx
# What was sent came damaged (S3, GCS); a token has expired; two conditional writes met.
_AGAIN_IF = {
    400: re.compile("BadDigest|match calculated"),
    401: re.compile("Invalid Credentials"),
    409: re.compile("ConditionalRequestConflict"),
}
# Errors without an HTTP status that mean the network: by name, so that no client has to be imported to know them.
_NETWORK = {
    "ClientError",  # aiohttp
    "ConnectionError", "HTTPClientError", "IncompleteRead", "ResponseParserError",  # botocore
    "RequestException", "RefreshError", "TransportError", "ChecksumError",  # requests, google.auth, gcsfs
    "JSONDecodeError",  # of what a store tells of a file
}  # fmt: skip
_SECRETS = re.compile(r"(?<=://)[^/@\s'\"]+@|\?[^\s'\")\]]+")


class UndeliveredError(HeadraceError):
    """A store did not answer, or not what was asked for; nothing is known of the file."""


def undelivered(where: str, problem: str) -> UndeliveredError:
    """The error for a store that was tried until the patience ended."""
    return UndeliveredError(
        "The store does not deliver.",
        where=where,
        value=problem,
        hint="Check that it can be reached from here and answers range requests; training can go on from "
        "its last state once it does, and a job by the same command.",
    )


def refusal(where: str, error: Exception, status: int | None) -> Exception:
    """The error for what is not worth another try.

    FileNotFoundError where nothing is there, FileExistsError where a precondition of the request does not hold.
    """
    ours = _ours(error)
    if ours is not None:
        return ours
    if status in (401, 403) or isinstance(error, PermissionError) or "redentials" in type(error).__name__:
        return HeadraceError(
            "The store refuses access.",
            where=where,
            value=told(error),
            hint="Check the credentials that the store's own tools use here (GOOGLE_APPLICATION_CREDENTIALS, "
            "AWS_PROFILE …) or give storage_options; some stores answer so for a wrong name too. Public data need "
            "none with FSSPEC_S3_ANON=true.",
        )
    if isinstance(error, FileNotFoundError) or status == 404:
        return FileNotFoundError(where)
    if isinstance(error, FileExistsError) or status == 412:
        return FileExistsError(where)
    return HeadraceError("The store refuses the request.", where=where, value=told(error))


def _ours(error: BaseException | None) -> HeadraceError | None:
    """Our own error, where a client has made another one of it."""
    while error is not None and not isinstance(error, HeadraceError):
        error = error.__cause__
    return error


def redacted(text: str) -> str:
    """`text` without passwords and signatures of URLs in it."""
    return _SECRETS.sub("", text)


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status behind an error of aiohttp, gcsfs or botocore."""
    while error is not None:
        response = getattr(error, "response", None)
        metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        found = metadata.get("HTTPStatusCode") or getattr(error, "status", None)
        if found is None and type(error).__name__ == "HttpError":  # of gcsfs
            found = getattr(error, "code", None)
        if str(found).isdigit():
            return int(str(found))
        if str(error).startswith("Forbidden"):  # gcsfs keeps no more of a 403
            return 403
        # s3fs and fsspec's HTTP hide what came in an OSError; other causes may tell of a broken body, as a 400.
        error = error.__cause__ if isinstance(error, OSError) else None
    return None


def is_transient(error: BaseException, status: int | None) -> bool:
    """Whether the same request may well succeed in a moment."""
    if status is not None and status >= 400:
        sign = _AGAIN_IF.get(status)
        return status >= 500 or status in _AGAIN or bool(sign and sign.search(f"{error} {error.__cause__}"))
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return is_transient(error.__cause__, None)  # over HTTP fsspec calls every failure so
    if isinstance(
        error, HeadraceError | FileNotFoundError | FileExistsError | PermissionError | IsADirectoryError
    ):
        return False
    names = {base.__name__ for kind in (error, error.__cause__) for base in type(kind).__mro__}
    return isinstance(error, OSError | TimeoutError | asyncio.TimeoutError | EOFError) or bool(
        names & _NETWORK
    )


def told(error: BaseException) -> str:
    """An error in a few words, without secrets."""
    return redacted(f"{type(error).__name__}: {error}".removesuffix(": "))
