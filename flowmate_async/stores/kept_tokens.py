"""Stores that keep the users' tokens from run to run, sealed like the credentials.

A token opens everything of its user at FlowMate for as long as it lives, so it is kept only where somebody
asked for that. It is written with the user's checkpoint (:attr:`~.base.UserWrite.token`); what is kept is one
token a user, the last one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from flowmate_async.errors import ConfigurationError
from flowmate_async.stores.base import Store
from flowmate_async.values.models import TOKEN_IDLE_SECONDS, KeptToken


@runtime_checkable
class KeepsTokens(Protocol):
    """A store that can keep the users' tokens as well, sealed: one a user, the last one.

    Its ``write`` keeps the token of a :class:`~flowmate_async.stores.base.UserWrite` together with the
    checkpoint, or forgets the user's token when there is none; its ``note_missing`` forgets the tokens of
    these users. The laws are in ``flowmate_async.testing.token_laws``.
    """

    async def kept_tokens(self, usernames: Sequence[str]) -> Mapping[str, KeptToken]:
        """Return the kept tokens of these users; users without a token that opens are left out.

        Args:
            usernames: the users.
        """
        ...

    async def forget_tokens(self, *, used_before: float) -> None:
        """Forget the tokens that were used last before a time.

        Args:
            used_before: in seconds since the Unix epoch.
        """
        ...


def require_keeper(store: Store) -> KeepsTokens:
    """Return the store as one that keeps tokens.

    Raises:
        ConfigurationError: it cannot.
    """
    if isinstance(store, KeepsTokens):
        return store
    raise ConfigurationError(
        "this store cannot keep the users' tokens",
        advice="Stores at sqlite:, postgresql: and memory: can; or leave keep_tokens (--keep-tokens) out",
    )


async def forget_tokens(store: Store, *, keep: bool, now: float) -> None:
    """Before a run: forget the tokens that are dead by now; all of them, if none are to be kept.

    Args:
        store: where they may be.
        keep: whether tokens are to be kept.
        now: seconds since the Unix epoch.
    """
    if isinstance(store, KeepsTokens):
        await store.forget_tokens(used_before=now - TOKEN_IDLE_SECONDS if keep else math.inf)
