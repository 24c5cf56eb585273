"""The boundary to third-party code: drivers, HTTP clients, the keyring.

Their frames have passwords, tokens and bodies among their locals, and error trackers print the locals of
every frame. :class:`DriverBoundary` goes around each call into such code. Nothing here knows any driver.
"""

from types import TracebackType


class DriverBoundary:
    """Context manager that drops the frames of everything raised inside it: errors, timeouts, cancellation.

    The exception stays the same, but without the frames from inside the ``with`` block and without its chain
    of other exceptions. Keep plain secrets out of the frames around the block. Convert errors into messages
    outside it, or inside if the chain is needed::

        try:
            with DriverBoundary():
                return await connection.fetch(query)
        except DriverError as error:
            failure = _translated(error)
        raise failure
    """

    __slots__ = ()

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop the frames and the chain of the exception, if there is one."""
        if error is not None:
            forget_frames(error)


def forget_frames(error: BaseException) -> None:
    """Drop the frames and the chain of an exception.

    Args:
        error: the exception, which goes on being raised; an exception group with all that is in it.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None
    error.__suppress_context__ = False  # setting the cause sets this, too
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            forget_frames(one)
