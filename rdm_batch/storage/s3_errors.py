"""What the answers of an S3 store mean: worth another try, or what the user must change."""

from __future__ import annotations

import asyncio
import traceback
from pathlib import Path
from typing import Any

import aiohttp
from botocore import exceptions as aws
from botocore.parsers import ResponseParserError

from rdm_batch.storage.uri import server_name

_TRANSIENT_CODES = {
    # Damaged on the way to the store, which noticed.
    "BadDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
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


class FalseAnswer(Exception):  # noqa: N818
    """An answer of a store that contradicts what is known; another may be true.

    Args:
        found: What is wrong, as the end of a sentence that begins with the object.
        action: What the user can do.
    """

    def __init__(self, found: str, action: str = "") -> None:
        super().__init__(found)
        self.found = found
        self.action = action


class SettingsRefused(Exception):  # noqa: N818
    """A setting of the environment or the AWS files that cannot be used.

    Args:
        found: What is wrong; no secret.
        needed: What would have been right.
        action: What the user can do.
    """

    def __init__(self, found: str, needed: str, action: str) -> None:
        super().__init__(found)
        self.reason = (found, needed, action)


_TRANSIENT_ERRORS = (
    FalseAnswer,
    aws.HTTPClientError,
    aws.ProxyConnectionError,
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
_NEVER_SENT = (
    ValueError,
    FileNotFoundError,
    PermissionError,
    aws.InvalidProxiesConfigError,
)
"""What the HTTP library raises over a proxy, a header or a certificate it cannot use."""
_SETTINGS_ERRORS = (
    aws.ConfigNotFound,
    aws.ConfigParseError,
    aws.InvalidProxiesConfigError,
    aws.InvalidConfigError,
    aws.InvalidRegionError,
    aws.InvalidRetryConfigurationError,
    aws.InvalidRetryModeError,
    aws.InvalidMaxRetryAttemptsError,
    aws.InvalidS3AddressingStyleError,
    aws.InvalidDefaultsMode,
)
_CHECK_SETTINGS = "check the AWS variables, AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE"
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
    if isinstance(_inner(cause), _NEVER_SENT):
        return False
    return isinstance(cause, _TRANSIENT_ERRORS)


def is_missing(problem: Exception) -> bool:
    """Tell whether the store answered that there is no such object."""
    return code_of(problem) in _MISSING


def code_of(problem: Exception) -> str:
    """Error code the store answered with; empty when there was no answer."""
    return str(_response(problem).get("Error", {}).get("Code", ""))


def status_of(problem: Exception) -> int:
    """HTTP status the store answered with; 0 when there was no answer."""
    return int(_response(problem).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def explain(problem: Exception, bucket: str, endpoint: str | None, attempts: int) -> Reason:
    """Say what was found, needed and can be done, without any secret.

    Nothing of what the client wrote into its own message is repeated: it may hold the
    endpoint, a proxy or a header as the user gave them.

    Args:
        problem: What the client raised.
        bucket: Bucket the request was for.
        endpoint: Endpoint URL. None means AWS itself.
        attempts: Number of times the request was made.

    Returns:
        The parts of an error message.
    """
    cause = _cause(problem)
    server = server_name(endpoint)
    tries = f" ({attempts} tries)" if attempts > 1 else ""
    if isinstance(cause, SettingsRefused):
        return cause.reason
    if isinstance(cause, FalseAnswer):
        return (f"{cause.found}{tries}", "", cause.action)
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
    if isinstance(cause, aws.ProxyConnectionError):
        found = f"the proxy of HTTP_PROXY or HTTPS_PROXY cannot be reached{tries}"
        return (found, "", "correct it, unset it, or name the store in NO_PROXY")
    if isinstance(cause, aws.SSLError):
        return (f"{server} has no valid TLS certificate", "", "check AWS_ENDPOINT_URL")
    if isinstance(cause, aws.EndpointProviderError) or (
        isinstance(cause, ValueError) and "Invalid endpoint" in str(cause)
    ):
        return ("AWS_ENDPOINT_URL is not a URL", "http://host:port", "")
    if isinstance(cause, aws.ParamValidationError):
        return (f"{bucket!r} is not a valid bucket name", "", "correct the URI")
    if isinstance(_inner(cause), _NEVER_SENT):
        found = f"the request could not be made ({type(_inner(cause)).__name__})"
        return (found, "", f"{_CHECK_SETTINGS}, and HTTP_PROXY and HTTPS_PROXY")
    if isinstance(cause, TimeoutError | aws.ReadTimeoutError):
        return (f"{server} did not answer in time{tries}", "", "try again later")
    if isinstance(cause, ResponseParserError):
        return (f"{server} answered with something else than S3 does{tries}", "", "try again later")
    if isinstance(cause, _TRANSIENT_ERRORS):
        return (f"{server} broke off with {type(cause).__name__}{tries}", "", "try again later")
    if isinstance(cause, _SETTINGS_ERRORS):
        found = f"the AWS settings cannot be used ({type(cause).__name__})"
        return (found, "", _CHECK_SETTINGS)
    found = f"the client of S3 failed with {type(cause).__name__} {_place(cause)}"
    return (found, "", f"{_CHECK_SETTINGS}; if they are right, report this")


def _inner(cause: BaseException) -> BaseException | None:
    """Give what the HTTP library raised, where the client only wraps it."""
    inner = cause.kwargs.get("error") if isinstance(cause, aws.HTTPClientError) else None
    return inner if isinstance(inner, BaseException) else None


def _place(problem: BaseException) -> str:
    """Name where a defect was raised, as its traceback would."""
    frames = traceback.extract_tb(problem.__traceback__)
    return f"({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _explain_answer(problem: Exception, bucket: str, server: str, tries: str) -> Reason:
    code = code_of(problem)
    match code:
        case "NoSuchBucket":
            return (f"bucket {bucket} does not exist on {server}", "", "create it or correct it")
        case "InvalidAccessKeyId" | "SignatureDoesNotMatch":
            # Not every store tells an unknown key from a wrong secret.
            found = f"{server} refused the access key or its secret ({code})"
            return (found, "", _SET_CREDENTIALS)
        case "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" | "RequestExpired":
            return (f"{server} refused the session token ({code})", "", "log in again")
        case "RequestTimeTooSkewed":
            return (f"{server} refused this machine's clock", "", "correct the time")
        case "PermanentRedirect" | "AuthorizationHeaderMalformed" | "301":
            return (f"bucket {bucket} is in another region", "", "set AWS_REGION to it")
        case _ if status_of(problem) == 407:
            return ("the proxy of HTTP_PROXY or HTTPS_PROXY asks for other credentials", "", "")
        case _ if code in _MISSING:
            return ("does not exist", "", "")
        case _ if status_of(problem) in (401, 403):
            operation = getattr(_cause(problem), "operation_name", "the request")
            return (f"access denied by {server}", f"permission for {operation}", "")
        case _:
            status = status_of(problem)
            # A code is one word; what else stands there is the store's own.
            named = f" {code}" if code.isascii() and code.isalnum() and code != str(status) else ""
            return (f"{server} answered {status}{named}{tries}", "", "")


def _cause(problem: BaseException) -> BaseException:
    # s3fs raises an OSError of its own and keeps the client's answer as the cause.
    cause = problem.__cause__
    return cause if isinstance(cause, aws.ClientError) else problem


def _response(problem: Exception) -> dict[str, Any]:
    cause = _cause(problem)
    return dict(cause.response) if isinstance(cause, aws.ClientError) else {}
