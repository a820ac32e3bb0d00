"""What an S3 store and its SDK can say against us, each in one line with a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from data.errors import UserError
from tasks.failures import ServiceError

_FORBIDDEN = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden", "ExpiredToken"}
ABSENT = {"404", "NoSuchKey", "NotFound"}
CONFLICT = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}


class NotStored(UserError):
    """Nothing lies under the key that was asked for."""


@contextmanager
def told(what: str, store: str) -> Iterator[None]:
    """Within this block the SDK's many errors become `UserError`, `NotStored` among them.

    Args:
        what: what failed then ("cannot read s3://bucket/key").
        store: the store's address.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError
    from botocore.exceptions import ConnectionError as NoConnection

    try:
        yield
    except NoCredentialsError as error:
        raise UserError(f"{what}: no credentials", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
    except (NoConnection, HTTPClientError) as error:
        raise ServiceError(f"{what}: {store} does not answer", "Check its address and that it runs") from error
    except ClientError as error:
        raise _translate(error, what) from error
    except (Boto3Error, BotoCoreError) as error:
        raise UserError(f"{what}: {_line(error)}", "Check the storage settings") from error
    except OSError as error:
        raise UserError(f"{what}: {error.strerror or error}", "Check the local file and the free space") from error


def _translate(error: Any, what: str) -> UserError:
    """The UserError for an answer of the store that refuses."""
    code = code_of(error)
    if code == "NoSuchBucket":
        return UserError(f"{what}: there is no such bucket", "Create the bucket or mend its name in the settings")
    if code in ABSENT:
        return NotStored(f"{what}: it is not there", "Check the name, or store it first")
    if code in _FORBIDDEN:
        return UserError(f"{what}: the store refuses these credentials ({code})", "Check AWS_* and the bucket's policy")
    return UserError(f"{what}: {_line(error)}", "See the store's log")


def code_of(error: Any) -> str:
    """The store's own name for an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
