"""One attempt at a request: every gate it passes, in order, and what each is told of how it ended.

For a refresh the bulkhead of its OAuth client; the breaker; the secret's quarantine; admission (concurrency
and rate); the breaker again, since it may have opened meanwhile; then the exchange. Whether a failed attempt
is worth another is decided above, in ``dispatch.py``.
"""

from collections.abc import Coroutine
from typing import Any

from flowmate_async.clock import Clock
from flowmate_async.contract.failures import Failure, Remedy
from flowmate_async.contract.known_secrets import KnownSecrets
from flowmate_async.contract.protocol import IMPERSONATE, Request
from flowmate_async.errors import (
    InvalidIdError,
    RefreshFailedError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from flowmate_async.events import Emitter, ProviderRefused
from flowmate_async.redaction import one_line
from flowmate_async.traffic.admission import Admission
from flowmate_async.traffic.breaker import Breaker
from flowmate_async.traffic.bulkhead import Bulkheads
from flowmate_async.traffic.call import Errand, OnOutcome, Outcome, UnawaitedErrand
from flowmate_async.traffic.exchange import Exchange
from flowmate_async.traffic.priority import Priority, current_priority
from flowmate_async.traffic.quarantine import Quarantine
from flowmate_async.transport.base import Response


class Attempts:
    """Makes single attempts.

    Args:
        exchange: sends what has passed.
        admission: the concurrency and the rate.
        breaker: keeps from sending to a sick upstream.
        bulkheads: keep from asking too much of the provider behind one OAuth client.
        quarantine: of secrets that upstream may still be refreshing.
        known: whose secrets they are, and which of them are plain reads.
        patience_seconds: how long background requests wait for a sick upstream.
        emitter: told of refreshes that were not sent.
        clock: the time it keeps.
    """

    def __init__(  # noqa: PLR0913 - a gate each
        self,
        exchange: Exchange,
        *,
        admission: Admission,
        breaker: Breaker,
        bulkheads: Bulkheads,
        quarantine: Quarantine,
        known: KnownSecrets,
        patience_seconds: float,
        emitter: Emitter,
        clock: Clock,
    ) -> None:
        self._exchange = exchange
        self._admission = admission
        self._breaker = breaker
        self._bulkheads = bulkheads
        self._quarantine = quarantine
        self._known = known
        self._patience_seconds = patience_seconds
        self._emitter = emitter
        self._clock = clock
        self._on_outcome: OnOutcome = self._ended

    def attempt(self, errand: Errand) -> Coroutine[Any, Any, Outcome]:
        """Send once, as soon as every gate is open; a failure without sending when one stays shut."""
        return self._refresh(errand) if errand.request.may_refresh else self._to_the_healthy(errand)

    def attempt_at_once(self, errand: UnawaitedErrand) -> bool:
        """Send once, if every gate stands open and the transport need not wait either.

        Args:
            errand: what to send; its receiver is told the outcome, once.

        Returns:
            Whether it was sent; if not, the receiver is never told.
        """
        request = errand.request
        if not self._breaker.closed or self._quarantine.holds(request.secret_id):
            return False
        if request.may_refresh and not self._take_slot_at_once(errand):
            return False
        sent = False
        try:
            sent = self._send_at_once(errand)
        finally:
            if not sent and errand.provider is not None:
                self._bulkheads.leave(errand.auth_client_id)
        return sent

    def _take_slot_at_once(self, errand: UnawaitedErrand) -> bool:
        """Take a slot for a refresh, if nothing has to be waited for or found out."""
        client = self._client_of(errand.request)
        if client is None and self._bulkheads.crowded:
            return False
        errand.auth_client_id = client
        errand.provider = self._bulkheads.enter_at_once(client)
        if errand.provider is None:
            return False
        errand.provider_epoch = errand.provider.epoch
        return True

    def _send_at_once(self, errand: UnawaitedErrand) -> bool:
        sent_at = self._admission.enter_at_once()
        if sent_at is None:
            return False
        errand.epoch = self._breaker.epoch
        sent = False
        errand.wire.__enter__()  # before it is sent: with an eager task it may be over when that returns
        try:
            sent = self._exchange.send_at_once(errand, sent_at, self._on_outcome)
        finally:
            if not sent:
                errand.wire.__exit__(None, None, None)
                self._admission.leave()
        return sent

    def _ended(self, errand: UnawaitedErrand, outcome: Outcome | Exception) -> None:
        request = errand.request
        failed = None if isinstance(outcome, Exception) else _upstream_failed(outcome, request)
        self._breaker.note(subject=request.username, failed=failed, epoch=errand.epoch)
        if errand.provider is not None:
            refused = None if isinstance(outcome, Exception) else _refused(outcome, errand.auth_client_id)
            errand.provider.note(subject=request.secret_id, failed=refused, epoch=errand.provider_epoch)
            self._bulkheads.leave(errand.auth_client_id)
        errand.wire.__exit__(None, None, None)
        self._admission.leave()
        errand.receiver.receive(outcome)

    async def _refresh(self, errand: Errand) -> Outcome:
        """Send in a slot of the secret's OAuth client; one whose client is unknown counts for all of them."""
        request = errand.request
        while True:
            if self._breaker.closed_for() is None:
                if (left_alone := self._left_alone(request)) is not None:
                    return left_alone
                await self._until_released(request.secret_id)  # a slot is not for waiting in
            client = self._client_of(request)
            if client is None and self._bulkheads.crowded and not self._is_known(request):
                await errand.identify()
                client = self._client_of(request)
            if self._is_plain(request):
                return await self._to_the_healthy(errand)
            async with self._bulkheads.place(client, request.secret_id or "") as provider:
                if self._is_known_by_now(request, client):
                    continue  # while it waited for a slot
                refused_for = provider.refused_for()
                if refused_for is not None:
                    self._emitter.emit(ProviderRefused(client or ""))
                    return Failure(_provider_unwell(errand, client, refused_for))
                outcome = await self._in_slot(errand, client, provider)
            if client is None and isinstance(outcome, Failure):
                await self.attribute(errand, outcome)
            return outcome

    async def _in_slot(self, errand: Errand, client: str | None, provider: Breaker) -> Outcome:
        epoch, failed = provider.epoch, None
        try:
            outcome = await self._to_the_healthy(errand)
            failed = _refused(outcome, client)
        finally:
            provider.note(subject=errand.request.secret_id, failed=failed, epoch=epoch)
        return outcome

    async def attribute(self, errand: Errand, failure: Failure) -> None:
        """Find out whose provider keeps failing, so that the rest of its secrets are left alone in time.

        Args:
            errand: one that was sent for an unknown client.
            failure: how that ended.
        """
        if not _provider_failed(failure):
            return
        if self._bulkheads.suspicious and not self._is_known(errand.request):
            await errand.identify()
        client = self._client_of(errand.request)
        self._bulkheads.note_failure(client, secret_id=errand.request.secret_id)

    def _client_of(self, request: Request) -> str | None:
        if request.auth_client_id is not None or request.secret_id is None:
            return request.auth_client_id
        return self._known.client_of(request.secret_id)

    def _is_known(self, request: Request) -> bool:
        return request.secret_id is not None and self._known.is_known(request.secret_id)

    def _is_plain(self, request: Request) -> bool:
        return request.secret_id is not None and self._known.is_plain(request.secret_id)

    def _is_known_by_now(self, request: Request, client: str | None) -> bool:
        return self._is_plain(request) or (client is None and self._client_of(request) is not None)

    async def _to_the_healthy(self, errand: Errand) -> Outcome:
        """Send when upstream is not sick: who can wait does, who cannot is told at once."""
        patience: float | None = None
        while True:
            refused_for = self._breaker.closed_for()
            if refused_for is None:
                if (left_alone := self._left_alone(errand.request)) is not None:
                    return left_alone
                if self._quarantine.holds(errand.request.secret_id):
                    await self._until_released(errand.request.secret_id)
                sent_at = self._admission.enter_at_once()
                if sent_at is None:
                    sent_at = await self._admission.enter()
                try:
                    if self._quarantine.holds(errand.request.secret_id):
                        continue  # imposed while this one waited for its turn
                    refused_for = self._breaker.refused_for()
                    if refused_for is None:
                        return await self._send(errand, sent_at)
                finally:
                    self._admission.leave()
            if patience is None:
                patience = self._patience_seconds if current_priority() is Priority.BACKGROUND else 0.0
            if refused_for > patience:
                return Failure(_unwell(errand.request, refused_for))
            patience -= refused_for
            await self._clock.sleep(refused_for)

    async def _send(self, errand: Errand, sent_at: float) -> Outcome:
        epoch, failed = self._breaker.epoch, None
        with errand.wire:
            try:
                outcome = await self._exchange.send(errand, sent_at)
                failed = _upstream_failed(outcome, errand.request)
            finally:
                self._breaker.note(subject=errand.request.username, failed=failed, epoch=epoch)
            return outcome

    def _left_alone(self, request: Request) -> Failure | None:
        """Return what an interactive request for a quarantined secret is told instead of waiting."""
        seconds = self._quarantine.remaining_seconds(request.secret_id)
        if seconds <= 0 or current_priority() is Priority.BACKGROUND:
            return None
        return Failure(_perhaps_refreshing(request, seconds))

    async def _until_released(self, secret_id: str | None) -> None:
        if secret_id is not None:
            await self._quarantine.passed(secret_id)


def _upstream_failed(outcome: Outcome, request: Request) -> bool | None:
    """Return whether upstream is sick; ``None`` if the outcome does not tell.

    A dead token, a malformed id and a provider that hangs say nothing about upstream. That a token was made
    does not show that tokens are accepted.
    """
    if isinstance(outcome, Response):
        return None if request.endpoint == IMPERSONATE else False
    waited_in_vain = isinstance(outcome.error, UpstreamTimeoutError)
    if isinstance(outcome.error, InvalidIdError):
        return None
    if (outcome.remedy is Remedy.REPLACE_TOKEN or waited_in_vain) and not outcome.sick:
        return None
    return outcome.sick


def _provider_failed(outcome: Outcome) -> bool | None:
    """Whether the provider behind a refresh failed; ``None`` when the outcome does not tell."""
    if isinstance(outcome, Response):
        return False
    refused = isinstance(outcome.error, RefreshFailedError) and outcome.remedy is not Remedy.AWAIT_LOCK
    return True if refused or isinstance(outcome.error, UpstreamTimeoutError) else None


def _refused(outcome: Outcome, client: str | None) -> bool | None:
    """Return what a client's breaker is told. A failure of an unknown client's is attributed afterwards."""
    failed = _provider_failed(outcome)
    return None if failed and client is None else failed


def _perhaps_refreshing(request: Request, seconds: float) -> RefreshFailedError:
    return RefreshFailedError(
        "FlowMate may still be refreshing this secret for an earlier request; nothing was sent",
        advice=f"Try again in {seconds:.0f} s",
        endpoint=request.endpoint,
        secret_id=request.secret_id,
    )


def _unwell(request: Request, seconds: float) -> UpstreamUnavailableError:
    return UpstreamUnavailableError(
        "FlowMate failed for many users a moment ago; nothing was sent",
        advice=f"Try again in {seconds:.0f} s",
        endpoint=request.endpoint,
        secret_id=request.secret_id,
    )


def _provider_unwell(errand: Errand, auth_client_id: str | None, seconds: float) -> RefreshFailedError:
    whose = "secrets whose OAuth client is unknown"
    if auth_client_id is not None:
        whose = f"OAuth client {one_line(auth_client_id, limit=60)}"
    return RefreshFailedError(
        f"the provider behind {whose} has just failed to refresh many secrets; nothing was sent",
        advice=f"Try again in {seconds:.0f} s; if it stays, check the OAuth client in FlowMate",
        endpoint=errand.request.endpoint,
        secret_id=errand.request.secret_id,
    )
