"""Stores that keep the users' tokens from run to run, sealed like the credentials.

A token gives access to everything of its user at FlowMate while it is valid, so tokens are kept only on
request. A token is written with the user's checkpoint (:attr:`~.base.UserWrite.token`); only the last token
of each user is kept.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from flowmate_async.errors import ConfigurationError
from flowmate_async.stores.base import Store
from flowmate_async.values.models import TOKEN_IDLE_SECONDS, KeptToken


@runtime_checkable
class KeepsTokens(Protocol):
    """A store that can also keep the users' tokens, sealed: the last token of each user.

    Its ``write`` keeps the token of a :class:`~flowmate_async.stores.base.UserWrite` together with the
    checkpoint, or drops the user's token when there is none; its ``note_missing`` drops the tokens of these
    users. The laws are in ``flowmate_async.testing.token_laws``.
    """

    async def kept_tokens(self, usernames: Sequence[str]) -> Mapping[str, KeptToken]:
        """Return the kept tokens of these users, without tokens that cannot be decrypted.

        Args:
            usernames: the users.
        """
        ...

    async def forget_tokens(self, *, used_before: float) -> None:
        """Drop the tokens last used before a time.

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
    """Before a run, drop expired tokens; drop all of them if none are to be kept.

    Args:
        store: the store that may hold tokens.
        keep: whether tokens are to be kept.
        now: seconds since the Unix epoch.
    """
    if isinstance(store, KeepsTokens):
        await store.forget_tokens(used_before=now - TOKEN_IDLE_SECONDS if keep else math.inf)
