"""The one client of S3 of this process, and the settings it is made from.

Endpoint and credentials come from the usual AWS environment and files alone
(``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``, ...).
"""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import Any

import s3fs

from rdm_batch.storage.s3_errors import SettingsRefused

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
MAX_SETTINGS_BYTES = 1 << 20
# Smallest part S3 accepts is 5 MiB and it takes 10,000 of them: 16 MiB reach 160 GB.
PART_BYTES = 16 << 20

_FILES = {
    "AWS_CONFIG_FILE": "~/.aws/config",
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
    "AWS_CA_BUNDLE": None,
    "AWS_WEB_IDENTITY_TOKEN_FILE": None,
    "BOTO_CONFIG": None,
}
"""Variables that name files the client reads, and what it reads where they are not set."""


class Connections:
    """The one client of this process, remade after a fork and when the environment changes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made_for: dict[str, str] | None = None
        self._filesystem: Any = None
        self._inherited: list[Any] = []
        os.register_at_fork(after_in_child=self._start_over)

    def _start_over(self) -> None:
        # A client that is collected takes its sockets out of the event queue, which parent
        # and child share: the parent would wait for answers in vain. So it is kept, unused.
        self._inherited.append(self._filesystem)
        self._lock = threading.Lock()
        self._made_for = None

    def filesystem(self) -> Any:
        """Return the file system for the environment as it is now.

        Raises:
            SettingsRefused: The environment names an endpoint or a file that cannot be used.
        """
        environment = {name: value for name, value in os.environ.items() if _matters(name)}
        with self._lock:
            if self._made_for != environment:
                _check_files()
                refuse_unusual(endpoint_url())
                self._filesystem = _new_filesystem()
                self._made_for = environment
            return self._filesystem


connections = Connections()


async def open_session(filesystem: Any) -> None:
    """Make the client itself, from the AWS files too, where it was not made yet.

    Raises:
        SettingsRefused: The AWS files name an endpoint that cannot be used.
    """
    client = await filesystem.set_session()
    refuse_unusual(client.meta.endpoint_url)


def endpoint_url() -> str | None:
    """Tell the endpoint the environment asks for. None means AWS itself or a config file's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def refuse_unusual(endpoint: str | None) -> None:
    """Refuse an endpoint that holds more than the place of a server.

    A user name or a key in it would be sent to nobody and shown by whatever fails.

    Raises:
        SettingsRefused: It carries credentials or a query. The message repeats nothing of it.
    """
    if endpoint is not None and any(mark in endpoint for mark in "@?#"):
        raise SettingsRefused(
            "the endpoint URL carries credentials or a query",
            "http://host:port or https://host",
            "put the keys into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or ~/.aws/credentials",
        )


def _matters(name: str) -> bool:
    return name.startswith("AWS_") or name.upper().endswith("_PROXY")


def _check_files() -> None:
    """Refuse settings files that cannot be read: a FIFO would be waited for without end."""
    for variable, usual in _FILES.items():
        named = os.environ.get(variable) or usual
        if named is None or named == os.devnull:
            continue
        path = Path(named).expanduser()
        try:
            status = path.stat()
        except OSError:
            continue  # the client has words for a file that is not there
        if variable == "AWS_CA_BUNDLE" and path.is_dir():
            continue
        if not stat.S_ISREG(status.st_mode):
            raise SettingsRefused(f"{variable} names something that is not a file", "a file", "")
        if status.st_size > MAX_SETTINGS_BYTES:
            raise SettingsRefused(
                f"{variable} names a file of {status.st_size:,} bytes",
                f"at most {MAX_SETTINGS_BYTES:,}",
                "",
            )


def _new_filesystem() -> Any:
    # Retries are made in one place, S3Requests.retry; every layer below tries once.
    config: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        "max_pool_connections": 32,
        # Stores other than AWS refuse the trailing checksums newer clients add unasked.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    if endpoint_url() is not None:
        config["s3"] = {"addressing_style": "path"}
    filesystem = s3fs.S3FileSystem(
        config_kwargs=config,
        use_listings_cache=False,
        skip_instance_cache=True,
        default_block_size=PART_BYTES,
    )
    filesystem.retries = 1
    return filesystem
