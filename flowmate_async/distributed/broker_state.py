"""The broker's state as one worker sees it, and the meaning of its driver's errors."""

import logging
import ssl
from collections.abc import Callable

from flowmate_async.distributed.connection import Trouble, causes, redis_errors, trouble_of
from flowmate_async.errors import ConfigurationError, FlowMateError, UpstreamUnavailableError
from flowmate_async.redaction import one_line

BROKER_VARIABLE = "FLOWMATE_BROKER_URL"

_REJECTING = ("AccessRefused", "NotAllowed", "AuthenticationError")
"""Names of the exceptions for a rejected login, in drivers of brokers other than Redis."""

_log = logging.getLogger("flowmate_async")


class BrokerState:
    """The state of the connection to the broker; written by Celery's thread, read by others.

    Args:
        on_ready: called once, when the worker can take its first shard.

    Attributes:
        problem: why no shard can be taken; empty if one can.
        refusal: the error to end with, if the broker never accepted this worker and gave a reason.
    """

    def __init__(self, on_ready: Callable[[], object]) -> None:
        self._on_ready: Callable[[], object] | None = on_ready
        self.problem: str = "the broker has not been reached yet"
        self.refusal: ConfigurationError | None = None

    @property
    def is_up(self) -> bool:
        """Whether shards can be taken."""
        return not self.problem

    def ready(self) -> None:
        """Note that the worker takes shards."""
        if self._on_ready is not None:
            self._on_ready()
            self._on_ready = None
        elif self.problem:
            _log.warning("The broker is back")
        self.problem = ""

    def lost(self, trouble: Trouble) -> bool:
        """Note that the broker cannot be used. Return whether retrying is pointless."""
        # A login that worked before may work again.
        if trouble.kind != "away" and self._on_ready is not None:
            self.refusal = broker_refused(trouble)
            return True
        problem = f"the broker cannot be used: {trouble.text}"
        if self.problem != problem:
            _log.warning("%s; trying again", problem)
            self.problem = problem
        return False


def broker_trouble(error: BaseException) -> Trouble:
    """Return what an exception of a broker's driver means.

    Args:
        error: with its chain.
    """
    chain = list(causes(error))
    for one in chain:
        if isinstance(one, redis_errors()):
            found = trouble_of(one)
            if found.kind != "away":
                return found
        if type(one).__name__ in _REJECTING:
            return Trouble("refused", "it rejects the user name or the password")
        if isinstance(one, ssl.SSLCertVerificationError):
            return Trouble("refused", f"its certificate is not trusted: {one_line(one.verify_message)}")
    return Trouble("away", _text(chain[-1]))


def broker_refused(trouble: Trouble) -> ConfigurationError:
    """Return the error for a broker that refuses this process."""
    return ConfigurationError(
        f"the broker cannot be used: {trouble.text}",
        advice=f"Check {BROKER_VARIABLE} and what its user may do",
    )


def broker_error(error: BaseException) -> FlowMateError:
    """Return the error for a broker that did not accept a message.

    Args:
        error: the driver's, with its chain.
    """
    trouble = broker_trouble(error)
    if trouble.kind != "away":
        return broker_refused(trouble)
    return UpstreamUnavailableError(
        f"the broker cannot be used: {trouble.text}", advice=f"Check that it runs, and {BROKER_VARIABLE}"
    )


def _text(error: BaseException) -> str:
    text = one_line(str(error)) if isinstance(error, OSError) else ""
    return text or type(error).__name__
