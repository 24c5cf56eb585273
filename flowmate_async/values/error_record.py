"""Errors as plain values, for transfer to another process."""

import msgspec

from flowmate_async import errors
from flowmate_async.errors import FlowMateError


class ErrorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A :class:`~flowmate_async.FlowMateError` as plain values; none of them holds a credential."""

    name: str
    message: str
    advice: str
    endpoint: str
    username: str | None
    secret_id: str | None
    status: int | None

    @classmethod
    def of(cls, error: FlowMateError) -> "ErrorRecord":
        """Return the record of an error."""
        return cls(
            name=type(error).__name__,
            message=error.message,
            advice=error.advice,
            endpoint=error.endpoint,
            username=error.username,
            secret_id=error.secret_id,
            status=error.status,
        )

    def restored(self) -> FlowMateError:
        """Return the original error, of the same class."""
        kind = getattr(errors, self.name, FlowMateError)
        if not (isinstance(kind, type) and issubclass(kind, FlowMateError)):
            kind = FlowMateError
        return kind(
            self.message,
            advice=self.advice,
            endpoint=self.endpoint,
            username=self.username,
            secret_id=self.secret_id,
            status=self.status,
        )
