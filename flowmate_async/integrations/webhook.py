"""Notices as signed webhooks (Standard Webhooks), over the library's own transport.

TLS is verified and redirects are not followed. Only the status of the receiver's answer counts.
"""

from types import TracebackType
from typing import Self

from flowmate_async.clock import Clock, SystemClock
from flowmate_async.health.webhook import Message, SigningKey, headers
from flowmate_async.integrations.receiver_url import ReceiverUrl
from flowmate_async.redaction import Headers, Redacted
from flowmate_async.sync.delivery import NotDeliveredError
from flowmate_async.transport.base import Limits, Transport, TransportError
from flowmate_async.transport.factory import transport_by_name

__all__ = ["Webhook"]

_LIMITS = Limits(timeout_seconds=15.0, max_body_bytes=64 * 1024)
_BUSY = (408, 425, 429)


class _GivenKey(Redacted, frozen=True):
    """A key as passed in, kept out of the locals of frames that raise."""

    key: str | SigningKey

    def parsed(self) -> SigningKey:
        return self.key if isinstance(self.key, SigningKey) else SigningKey.parse(self.key)


class Webhook:
    """A receiver of notices: ``async with Webhook(url, key=…) as webhook: await fm.notify(store, webhook)``.

    Args:
        url: where to send them: https, or http to this machine. Its path and query may hold a secret, so no
            message repeats them.
        key: the receiver's verification key: ``whsec_`` and base64.
        transport: carries the messages; by default the library's own for this URL.
        clock: timestamps the messages.

    Raises:
        ConfigurationError: the URL or the key is invalid.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | SigningKey,
        transport: Transport | None = None,
        clock: Clock | None = None,
    ) -> None:
        named, url = ReceiverUrl(url), ""
        given, key = _GivenKey(key), ""
        self._key = given.parsed()
        example = "https://app.example/hooks/flowmate"
        self._receiver = named.receiver(what="the webhook's URL", example=example)
        self._transport = transport or transport_by_name(
            "auto", self._receiver.origin, ca_file=None, proxy=None, trust_env=False
        )
        self._clock = clock or SystemClock()

    async def __aenter__(self) -> Self:
        """Open the transport."""
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    async def send(self, message: Message) -> None:
        """Deliver one message.

        Args:
            message: what to deliver.

        Raises:
            NotDeliveredError: the receiver did not answer with 2xx.
        """
        sent = Headers(tuple(headers(self._key, message, now=self._clock.wall()).items()))
        try:
            answer = await self._transport.send("POST", self._receiver.target, sent, message.body, _LIMITS)
        except TransportError as broken:
            failure = broken.failure
        else:
            if 200 <= answer.status < 300:
                return
            raise NotDeliveredError(
                f"the receiver answered {answer.status}", retry=answer.status >= 500 or answer.status in _BUSY
            )
        raise NotDeliveredError(f"the receiver cannot be reached: {failure.replace('_', ' ')}")
