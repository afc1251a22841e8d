"""One error tree, sorted by who must act; each class maps to one exit code and one HTTP status."""

from __future__ import annotations


class QuarterdeckError(Exception):
    """Base of every error that carries a sentence for a person.

    `code` is a stable word for programs, `message` says what happened, to what, and what to do
    next, `detail` holds further fields of a problem document.
    """

    exit_code = 1
    http_status = 500
    title = "Error"

    def __init__(self, code: str, message: str, **detail: object) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail


class Invalid(QuarterdeckError):
    """The caller must change the input."""

    exit_code = 2
    http_status = 400
    title = "Invalid request"


class NotFound(QuarterdeckError):
    """The caller named something that does not exist."""

    exit_code = 5
    http_status = 404
    title = "Not found"


class Conflict(QuarterdeckError):
    """The caller must look at the present state and decide again."""

    exit_code = 6
    http_status = 409
    title = "Conflict"


class Denied(QuarterdeckError):
    """The caller lacks the right; an administrator must act."""

    exit_code = 4
    http_status = 403
    title = "Denied"


class Unavailable(QuarterdeckError):
    """Something is away or full; the operator must act, then the same call may succeed."""

    exit_code = 3
    http_status = 503
    title = "Unavailable"


class TooOften(Unavailable):
    """The caller came too often and must wait; `detail` says how long as `retry_after_s`."""

    http_status = 429
    title = "Too many requests"


class Broken(QuarterdeckError):
    """A promise inside quarterdeck does not hold; the developers must act."""

    exit_code = 1
    http_status = 500
    title = "Internal error"


def error_for_status(status: int) -> type[QuarterdeckError]:
    """The error class that an HTTP status stands for (the reverse of `http_status`)."""
    if status in (401, 403):
        return Denied
    for kind in (NotFound, Conflict, TooOften, Unavailable):
        if kind.http_status == status:
            return kind
    return Invalid if 400 <= status < 500 else Broken
