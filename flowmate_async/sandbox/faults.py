"""Faults: what may go wrong with a share of the requests. Values only, without behaviour.

    Faults(seed=7, rules=(Latency(seconds=0.02), Reset(share=0.01, routes=("GET /secrets/{id}",))))

Every kind says whether the endpoint had *processed* the request when the fault struck: whether a refresh was
started, a token issued, a page counted. A client can rarely tell; a test has to. Of the rules that strike one
request, all delays and changes of the world apply, and the first of the others.
"""

from enum import StrEnum
from random import Random
from typing import Literal, get_args

import msgspec

from flowmate_async.sandbox.provider_faults import ProviderFault
from flowmate_async.sandbox.routes import GET_SECRET, LIST_SECRETS, ROUTES

__all__ = [
    "ACCUMULATING",
    "KINDS",
    "DatabaseDown",
    "Distribution",
    "Error",
    "ErrorAfter",
    "Fault",
    "Faults",
    "Hang",
    "HangAfter",
    "HangInBody",
    "Html",
    "HugeJson",
    "IamDown",
    "IngressPage",
    "InvalidJson",
    "InvalidUtf8",
    "ItemsMove",
    "Latency",
    "Overlong",
    "Provider",
    "Refused",
    "Reset",
    "ResetAfter",
    "ResetInBody",
    "ResetInHeaders",
    "SlowLoris",
    "StaleKeepAlive",
    "StaleNextRequest",
    "Throttle",
    "TokenRevoked",
    "Truncated",
    "UserDeleted",
    "WrongLength",
]

_TAIL_SHAPE = 1.5
_MOST_HUGE_BYTES = 256 * 1024 * 1024


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


class _Rule(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag=_snake
):
    """The fields of every kind of fault."""

    share: float = 1.0
    """Probability with which it strikes a request of its routes."""

    routes: tuple[str, ...] = ()
    """Route templates as the statistics name them (``GET /secrets/{id}``); none means every route."""

    skip: int = 0
    """How many requests of its routes are skipped first."""

    at_most: int | None = None
    """Maximum number of times it strikes."""

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        if not 0 <= self.share <= 1:
            raise ValueError("share must be between 0 and 1")
        if self.skip < 0 or (self.at_most is not None and self.at_most < 0):
            raise ValueError("skip and at_most cannot be negative")
        if (getattr(self, "seconds", 0.0) or 0.0) < 0:
            raise ValueError("seconds cannot be negative")
        unknown = set(self.routes) - set(ROUTES)
        if unknown:
            raise ValueError(f"unknown route {min(unknown)!r}; there are {', '.join(ROUTES)}")

    @property
    def kind(self) -> str:
        """The name in JSON, on the command line and in the statistics."""
        return str(self.__struct_config__.tag)


class Distribution(StrEnum):
    """Latency distribution. ``seconds`` is the mean of each (except for the cap on the heavy tail)."""

    FIXED = "fixed"
    UNIFORM = "uniform"
    """From 0 to twice the mean."""

    EXPONENTIAL = "exponential"
    HEAVY_TAIL = "heavy_tail"
    """Pareto of shape 1.5: most wait a third of the mean, one in a thousand over thirty times it."""


class Latency(_Rule, frozen=True, kw_only=True):
    """The request waits before it is processed.

    Attributes:
        seconds: the mean delay.
        distribution: the distribution of the delays.
        most_seconds: the maximum delay.
    """

    seconds: float
    distribution: Distribution = Distribution.FIXED
    most_seconds: float = 60.0

    def drawn(self, rng: Random) -> float:
        """Draw one delay, in seconds, from ``rng``."""
        match self.distribution:
            case Distribution.FIXED:
                seconds = self.seconds
            case Distribution.UNIFORM:
                seconds = rng.uniform(0, 2 * self.seconds)
            case Distribution.EXPONENTIAL:
                seconds = rng.expovariate(1 / self.seconds) if self.seconds else 0.0
            case Distribution.HEAVY_TAIL:
                seconds = self.seconds * (1 - 1 / _TAIL_SHAPE) * rng.paretovariate(_TAIL_SHAPE)
        return min(seconds, self.most_seconds)


class Hang(_Rule, frozen=True, kw_only=True):
    """No answer; **not processed**. It closes after ``seconds``, or when the caller disconnects."""

    seconds: float | None = None


class HangAfter(_Rule, frozen=True, kw_only=True):
    """No answer, although the request **was processed**: a refresh took place, a token was issued.

    The caller cannot know that it was; what the answer held is lost. The connection closes after
    ``seconds``, or when the caller disconnects.
    """

    seconds: float | None = None


class HangInBody(_Rule, frozen=True, kw_only=True):
    """Half of an answer, then silence for ``seconds``, or until the caller disconnects. **Processed**."""

    seconds: float | None = None


class Throttle(_Rule, frozen=True, kw_only=True):
    """429 from the gateway, even below the limit; **not processed**. ``Settings.rate`` is the limit.

    Attributes:
        retry_after: how the answer's ``Retry-After`` is written: seconds, a date, or not at all.
        retry_after_seconds: how long it asks to wait.
    """

    retry_after: Literal["seconds", "date", "none"] = "seconds"
    retry_after_seconds: int = 1


class Error(_Rule, frozen=True, kw_only=True):
    """500 (JSON), 502 or 503 (a gateway's page); **not processed**.

    Attributes:
        status: the answer's.
        retry_after_seconds: what its ``Retry-After`` says; ``None`` for no such header.
    """

    status: Literal[500, 502, 503] = 503
    retry_after_seconds: int | None = None


class ErrorAfter(_Rule, frozen=True, kw_only=True):
    """500, 502 or 503 although the request **was processed**: a rotated token stays upstream only.

    Attributes:
        status: the answer's.
        retry_after_seconds: what its ``Retry-After`` says; ``None`` for no such header.
    """

    status: Literal[500, 502, 503] = 502
    retry_after_seconds: int | None = None


class Reset(_Rule, frozen=True, kw_only=True):
    """Connection reset without a byte of an answer; **not processed**.

    The caller has sent the whole request and cannot tell this from ``ResetAfter``.
    """


class ResetAfter(_Rule, frozen=True, kw_only=True):
    """Connection reset without a byte of an answer, although the request **was processed**."""


class ResetInHeaders(_Rule, frozen=True, kw_only=True):
    """Connection reset within the headers. **Processed**."""


class ResetInBody(_Rule, frozen=True, kw_only=True):
    """Connection reset within the body. **Processed**."""


class Refused(_Rule, frozen=True, kw_only=True):
    """The listener closes for ``seconds``: new connections are refused, open ones live on.

    The request that it strikes is reset, **not processed**.
    """

    seconds: float = 0.2


class StaleKeepAlive(_Rule, frozen=True, kw_only=True):
    """Whole answer without ``Connection: close``, then the connection closes at once. **Processed**.

    Whether the next request meets the closed connection is a race; with ``StaleNextRequest`` it always does.
    """


class StaleNextRequest(_Rule, frozen=True, kw_only=True):
    """Whole answer (**processed**), but the *next* request on this connection is reset.

    That next one is **not processed**: not a byte of an answer, as if the connection had closed just
    before (docs/contract/OBSERVED.md § Connections).
    """


class Truncated(_Rule, frozen=True, kw_only=True):
    """Half of the body that ``Content-Length`` promises, then an orderly close. **Processed**."""


class Overlong(_Rule, frozen=True, kw_only=True):
    """Bytes after the body that ``Content-Length`` announced; the connection stays open. **Processed**."""


class WrongLength(_Rule, frozen=True, kw_only=True):
    """``Content-Length`` is half of the body's; the connection stays open. **Processed**.

    The rest of the body stands where the next answer of the connection would begin.
    """


class Html(_Rule, frozen=True, kw_only=True):
    """200 with an HTML page, like a captive portal's. **Processed**."""


class IngressPage(_Rule, frozen=True, kw_only=True):
    """A page of the infrastructure in front of the service, not the service's answer; **not processed**.

    docs/contract/OBSERVED.md § Second look, "Outages"

    Attributes:
        page: ``default_backend`` is a ``text/plain`` 404 during a deployment, ``firewall`` an HTML 403,
            ``unavailable`` an HTML 503, ``bad_gateway`` and ``gateway_timeout`` an HTML 502 and 504.
    """

    page: Literal["default_backend", "firewall", "unavailable", "bad_gateway", "gateway_timeout"] = (
        "default_backend"
    )


class InvalidUtf8(_Rule, frozen=True, kw_only=True):
    """JSON with an invalid UTF-8 byte, inside a string if there is one. **Processed**."""


class InvalidJson(_Rule, frozen=True, kw_only=True):
    """Half of the JSON, with a ``Content-Length`` that fits it. **Processed**."""


class HugeJson(_Rule, frozen=True, kw_only=True):
    """The true answer, padded with white space to ``size_bytes``; valid JSON. **Processed**."""

    size_bytes: int = 8 * 1024 * 1024

    def __post_init__(self) -> None:
        """Refuse sizes that a test machine cannot hold."""
        super().__post_init__()
        if not 0 < self.size_bytes <= _MOST_HUGE_BYTES:
            raise ValueError(f"size_bytes must be between 1 and {_MOST_HUGE_BYTES}")


class SlowLoris(_Rule, frozen=True, kw_only=True):
    """The whole true answer, ``piece_bytes`` at a time with ``seconds`` between. **Processed**."""

    seconds: float = 0.05
    piece_bytes: int = 1

    def __post_init__(self) -> None:
        """Refuse empty pieces."""
        super().__post_init__()
        if self.piece_bytes < 1:
            raise ValueError("piece_bytes must be at least 1")


class TokenRevoked(_Rule, frozen=True, kw_only=True):
    """All tokens of the request's user expire just before it is processed; new ones can be issued."""

    routes: tuple[str, ...] = (LIST_SECRETS, GET_SECRET)


class UserDeleted(_Rule, frozen=True, kw_only=True):
    """The request's user is deleted, with tokens and secrets, just before it is processed."""

    routes: tuple[str, ...] = (LIST_SECRETS, GET_SECRET)


class ItemsMove(_Rule, frozen=True, kw_only=True):
    """After a list page was made, the user's first secret moves to the end of the natural order.

    The next page misses one and ``meta.total`` stays: with a share of 1 no listing of several pages
    can ever be proven complete (docs/contract/OBSERVED.md § Listing).
    """

    routes: tuple[str, ...] = (LIST_SECRETS,)


class Provider(_Rule, frozen=True, kw_only=True):
    """The provider behind a secret fails; ``share`` and ``skip`` count refreshes, not requests.

    A secret's own ``fault`` comes first, then this one's, then the setting ``provider_fault``. ``routes``
    have no meaning here.
    """

    fault: ProviderFault


class DatabaseDown(_Rule, frozen=True, kw_only=True):
    """401 ``{"message":""}`` after ``seconds``; not processed (§ Errors, "database down")."""

    routes: tuple[str, ...] = (GET_SECRET,)
    seconds: float = 30.0


class IamDown(_Rule, frozen=True, kw_only=True):
    """401 ``… Details: Authorization failed``, whatever the token; not processed (§ Errors)."""

    routes: tuple[str, ...] = (LIST_SECRETS, GET_SECRET)


Fault = (
    Latency
    | Hang
    | HangAfter
    | HangInBody
    | Throttle
    | Error
    | ErrorAfter
    | Reset
    | ResetAfter
    | ResetInHeaders
    | ResetInBody
    | Refused
    | StaleKeepAlive
    | StaleNextRequest
    | Truncated
    | Overlong
    | WrongLength
    | Html
    | IngressPage
    | InvalidUtf8
    | InvalidJson
    | HugeJson
    | SlowLoris
    | TokenRevoked
    | UserDeleted
    | ItemsMove
    | Provider
    | DatabaseDown
    | IamDown
)
"""Any kind of fault."""

ACCUMULATING = (Latency, TokenRevoked, UserDeleted, ItemsMove)
"""Kinds that may strike a request together with others."""

KINDS = tuple(str(kind.__struct_config__.tag) for kind in get_args(Fault))
"""The names of all kinds."""


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Faults of a sandbox: rules, and the seed of all random decisions.

    The same seed makes the same decisions for the same sequence of requests. Setting it again, even to the
    same value, restarts the sequence.
    """

    seed: int = 0
    rules: tuple[Fault, ...] = ()
