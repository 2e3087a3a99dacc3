"""URLs of places in object stores. Needs no package for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from tracksided.errors import SettingsError

_SEPARATOR = "://"


@dataclass(frozen=True, slots=True)
class Scheme:
    """A kind of object store."""

    module: str
    """That implements it for fsspec."""

    extra: str
    """Of trackside, that installs it."""

    errors: tuple[tuple[str, str], ...]
    """(module, class) of what its library raises besides OSError."""

    unreachable: tuple[tuple[str, str], ...]
    """Those of them that are not about one object."""

    credentials: str
    """Where to look when access is denied."""


_HTTP_ERRORS = (("aiohttp", "ClientError"), ("asyncio", "TimeoutError"))
SCHEMES: Mapping[str, Scheme] = {
    "s3": Scheme(
        "s3fs",
        "s3",
        (
            ("botocore.exceptions", "BotoCoreError"),
            ("botocore.exceptions", "ClientError"),
            *_HTTP_ERRORS,
        ),
        (
            ("botocore.exceptions", "EndpointConnectionError"),
            ("botocore.exceptions", "ConnectionClosedError"),
            ("botocore.exceptions", "ConnectTimeoutError"),
            ("botocore.exceptions", "ReadTimeoutError"),
        ),
        "AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the policy of the bucket",
    ),
    "gs": Scheme(
        "gcsfs",
        "gs",
        (
            ("google.auth.exceptions", "GoogleAuthError"),
            ("gcsfs.retry", "HttpError"),
            *_HTTP_ERRORS,
        ),
        (("aiohttp", "ClientConnectionError"), ("asyncio", "TimeoutError")),
        "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or the roles "
        "on the bucket",
    ),
}


@dataclass(frozen=True, slots=True)
class RemoteAddress:
    """A bucket, or a prefix in one, that is used like a directory."""

    scheme: str
    path: str
    """Bucket and prefix, without a slash at either end."""

    def __str__(self) -> str:
        return f"{self.scheme}{_SEPARATOR}{self.path}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Take a URL apart; return None where the text is none, but a path.

        Raises:
            SettingsError: the URL is of another kind, names no bucket, or asks for a version.
        """
        scheme, separator, rest = text.partition(_SEPARATOR)
        if not separator:
            return None
        if scheme not in SCHEMES:
            known = ", ".join(f"{name}://" for name in SCHEMES)
            raise SettingsError(f"{text!r}: {scheme}:// is not read here; use {known} or a path")
        if not rest.strip("/"):
            raise SettingsError(f"{text!r} names no bucket")
        if "?" in rest or (scheme == "gs" and "#" in rest):
            raise SettingsError(
                f"{text!r} asks for a version, and only the newest objects are read; give "
                f"{scheme}://BUCKET/PREFIX alone"
            )
        return cls(scheme, rest.strip("/"))
