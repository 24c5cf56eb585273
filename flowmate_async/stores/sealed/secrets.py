"""The rows that a batch writes: sealed credentials, and only those that differ from the stored ones.

Nothing here knows where the rows are.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from flowmate_async.stores.base import RecordKey, Run, UserWrite
from flowmate_async.stores.sealed.sealing import Sealed, Sealing
from flowmate_async.values.dates import iso
from flowmate_async.values.secrets import Secret


class SecretRow(msgspec.Struct, frozen=True, gc=False):
    """A credential to be written; its fields are the columns, in their order.

    Attributes:
        username: the user.
        secret_id: the secret.
        type: upstream's word for its type.
        expires_at: when it expires, in ISO 8601; ``None`` when it does not, or when that is not known.
        run_id: the run under whose subkey it is sealed.
        stored_at: when it was read, in seconds since the Unix epoch.
        fingerprint: see :class:`~flowmate_async.stores.sealed.sealing.Sealed`.
        sealed: nonce, ciphertext and tag.
    """

    username: str
    secret_id: str
    type: str
    expires_at: str | None
    run_id: str
    stored_at: float
    fingerprint: bytes
    sealed: bytes


def stored_keys(batch: Sequence[UserWrite], stored: Sequence[tuple[str, str, bool]]) -> list[RecordKey]:
    """Return the keys of a batch's credentials that are already stored, each once, in order.

    Args:
        batch: the credentials.
        stored: username and secret id of all stored credentials of these users, and further data.
    """
    if not stored:
        return []
    wanted = {(user.checkpoint.username, secret.id) for user in batch for secret in user.secrets}
    wanted |= {(user.checkpoint.username, secret_id) for user in batch for secret_id in user.renamed}
    return sorted(wanted.intersection((username, secret_id) for username, secret_id, _ in stored))


def sealed_secrets(
    sealing: Sealing, run: Run, batch: Sequence[UserWrite], stored: Mapping[RecordKey, Sealed]
) -> tuple[list[SecretRow], int]:
    """Return the credentials of a batch that differ from what is stored, sealed; the last of duplicates wins.

    Args:
        sealing: seals them.
        run: the run they were read in.
        batch: the credentials.
        stored: the stored records at their :func:`stored_keys`.

    Returns:
        The rows, and how many of the fetched credentials differed, counting duplicates.
    """
    now = dict(stored)
    rows: dict[RecordKey, SecretRow] = {}
    changed = 0
    for user in batch:
        username, at = user.checkpoint.username, user.checkpoint.at
        for secrets in user.secrets, _renamed(sealing, user, now):
            for secret, sealed in sealing.changed(username, secrets, run_id=run.id, stored=now):
                place = (username, secret.id)
                now[place] = sealed
                expires_at = iso(secret.expires_at) or None
                rows[place] = SecretRow(
                    *place, secret.kind, expires_at, run.id, at, sealed.fingerprint, sealed.data
                )
                changed += secrets is user.secrets
    return [rows[place] for place in sorted(rows)], changed


def _renamed(sealing: Sealing, user: UserWrite, stored: Mapping[RecordKey, Sealed]) -> Iterator[Secret]:
    """Yield the renamed stored credentials of a user; a damaged one is left unchanged."""
    username = user.checkpoint.username
    for secret_id, name in user.renamed.items():
        sealed = stored.get((username, secret_id))
        secret = None if sealed is None else sealing.opened(username, secret_id, sealed)
        if secret is not None:
            yield msgspec.structs.replace(secret, name=name)
