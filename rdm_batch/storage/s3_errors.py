"""What the answers of an S3 store mean: worth another try, or what the user must change."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from botocore import exceptions as aws
from botocore.parsers import ResponseParserError

from rdm_batch.storage.uri import redact

_TRANSIENT_CODES = {
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "ConditionalRequestConflict",
}
# NotImplemented is a definite answer although its status is 501.
_TRANSIENT_STATUSES = {429, 500, 502, 503, 504}
_TRANSIENT_ERRORS = (
    aws.HTTPClientError,
    aws.EndpointConnectionError,
    aws.ConnectTimeoutError,
    ResponseParserError,
    aiohttp.ClientError,
    asyncio.TimeoutError,
    ConnectionError,
)
_CREDENTIAL_ERRORS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
)
_SET_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE with ~/.aws/credentials"
)
_MISSING = ("NoSuchKey", "404", "NotFound")

Reason = tuple[str, str, str]


def is_transient(problem: Exception) -> bool:
    """Tell whether the same request may succeed when made again."""
    cause = _cause(problem)
    if isinstance(cause, aws.ClientError):
        return code_of(problem) in _TRANSIENT_CODES or status_of(problem) in _TRANSIENT_STATUSES
    return isinstance(cause, _TRANSIENT_ERRORS)


def code_of(problem: Exception) -> str:
    """Error code the store answered with; empty when there was no answer."""
    return str(_response(problem).get("Error", {}).get("Code", ""))


def status_of(problem: Exception) -> int:
    """HTTP status the store answered with; 0 when there was no answer."""
    return int(_response(problem).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def explain(problem: Exception, bucket: str, endpoint: str | None, attempts: int) -> Reason | None:
    """Say what was found, needed and can be done, without any secret.

    Args:
        problem: What the client raised.
        bucket: Bucket the request was for.
        endpoint: Endpoint URL. None means AWS itself.
        attempts: Number of times the request was made.

    Returns:
        The parts of an error message. None when the failure is none of the store's or the
        user's making: a defect, to be seen with its traceback.
    """
    cause = _cause(problem)
    server = redact(endpoint) if endpoint else "AWS S3"
    tries = f" ({attempts} tries)" if attempts > 1 else ""
    if isinstance(cause, aws.ClientError):
        return _explain_answer(problem, bucket, server, tries)
    if isinstance(cause, _CREDENTIAL_ERRORS):
        return (f"no credentials for {server}", "an access key and its secret", _SET_CREDENTIALS)
    if isinstance(cause, aws.ProfileNotFound):
        return ("AWS_PROFILE names a profile that ~/.aws does not have", "", _SET_CREDENTIALS)
    if isinstance(cause, aws.NoRegionError):
        return ("no region is set", "", "set AWS_REGION")
    if isinstance(cause, aws.EndpointConnectionError | aws.ConnectTimeoutError):
        return (f"{server} cannot be reached{tries}", "", "check AWS_ENDPOINT_URL and the network")
    if isinstance(cause, aws.SSLError):
        return (f"{server} has no valid TLS certificate", "", "check AWS_ENDPOINT_URL")
    if isinstance(cause, ValueError) and "Invalid endpoint" in str(cause):
        return ("AWS_ENDPOINT_URL is not a URL", "http://host:port", "")
    if isinstance(cause, aws.ParamValidationError):
        return (f"{bucket!r} is not a valid bucket name", "", "correct the URI")
    if isinstance(cause, _TRANSIENT_ERRORS):
        return (f"{server} broke off with {type(cause).__name__}{tries}", "", "try again later")
    return None


def _explain_answer(problem: Exception, bucket: str, server: str, tries: str) -> Reason:
    code = code_of(problem)
    match code:
        case "NoSuchBucket":
            return (f"bucket {bucket} does not exist on {server}", "", "create it or correct it")
        case "InvalidAccessKeyId" | "SignatureDoesNotMatch":
            # Not every store tells an unknown key from a wrong secret.
            found = f"{server} refused the access key or its secret ({code})"
            return (found, "", _SET_CREDENTIALS)
        case "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired":
            return (f"{server} refused the session token ({code})", "", "log in again")
        case "RequestTimeTooSkewed":
            return (f"{server} refused this machine's clock", "", "correct the time")
        case "PermanentRedirect" | "AuthorizationHeaderMalformed" | "301":
            return (f"bucket {bucket} is in another region", "", "set AWS_REGION to it")
        case _ if code in _MISSING:
            return ("does not exist", "", "")
        case _ if status_of(problem) in (401, 403):
            operation = getattr(_cause(problem), "operation_name", "the request")
            return (f"access denied by {server}", f"permission for {operation}", "")
        case _:
            status = status_of(problem)
            return (f"{server} answered {status} {code}{tries}", "", "")


def _cause(problem: BaseException) -> BaseException:
    # s3fs raises an OSError of its own and keeps the client's answer as the cause.
    cause = problem.__cause__
    return cause if isinstance(cause, aws.ClientError) else problem


def _response(problem: Exception) -> dict[str, Any]:
    cause = _cause(problem)
    return dict(cause.response) if isinstance(cause, aws.ClientError) else {}
