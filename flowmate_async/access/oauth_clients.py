"""Finding out which OAuth client is behind a secret of which nothing is known."""

import asyncio
from contextlib import suppress

from flowmate_async.access.listing import Lister
from flowmate_async.contract.ids import user_key
from flowmate_async.contract.known_secrets import KnownSecrets
from flowmate_async.engine.call import Call
from flowmate_async.engine.priority import Priority
from flowmate_async.errors import FlowMateError
from flowmate_async.system.finishing import cancel_and_wait


class OAuthClients:
    """Lists a secret's user to learn its OAuth client. Concurrent calls share one listing per user.

    Args:
        lister: lists a user's secrets, from which ``known`` learns.
        known: what is known about secrets.
    """

    def __init__(self, lister: Lister, known: KnownSecrets) -> None:
        self._lister = lister
        self._known = known
        self._listings: dict[tuple[str, Priority], asyncio.Task[None]] = {}

    async def identify(self, call: Call) -> None:
        """Find out which OAuth client is behind a call's secret.

        A listing that fails or does not show the secret gives no information, and does not fail the call.
        """
        username, secret_id = call.request.username or "", call.request.secret_id or ""
        key = (user_key(username), call.priority)
        listing = self._listings.get(key)
        if listing is None:
            listing = asyncio.get_running_loop().create_task(self._list(username, call.priority))
            self._listings[key] = listing
            listing.add_done_callback(lambda _: self._listings.pop(key, None))
        await asyncio.shield(listing)
        self._known.note_unlisted(secret_id)

    async def aclose(self) -> None:
        """End every listing."""
        await cancel_and_wait(*self._listings.values())

    async def _list(self, username: str, priority: Priority) -> None:
        with suppress(FlowMateError):
            await self._lister.list(username, priority)
