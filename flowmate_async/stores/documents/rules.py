"""Pure rules of document stores, and the errors for documents that are not ours."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from flowmate_async.errors import StoreError
from flowmate_async.stores.base import Checkpoint, Removal, Run, UserWrite
from flowmate_async.stores.documents.base import (
    DocumentRefused,
    StoreState,
    UserDocument,
    opened,
    username_of,
)
from flowmate_async.values.secrets import Secret

_RUNS_KEPT_OF_A_SELECTION = 2
_RUNS_KEPT = 40
_REFUSED_DOCUMENTS = 50
"""With more refused users in a run than this, something is wrong with all of them."""


def kept(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """Return the last two runs of each selection, up to a limit: the list would grow forever."""
    of_selection: dict[str, int] = {}
    kept: list[Run] = []
    for run in reversed(runs):
        of_selection[run.selection] = of_selection.get(run.selection, 0) + 1
        if of_selection[run.selection] <= _RUNS_KEPT_OF_A_SELECTION and len(kept) < _RUNS_KEPT:
            kept.append(run)
    return tuple(reversed(kept))


def without_missing(user: UserDocument, run: Run, *, how: Removal, at: float) -> UserDocument:
    """Return a user's document with what a run noted as missing deleted or marked."""
    secrets = dict(user.secrets)
    for secret_id, stored in user.secrets.items():
        if stored.missing_run == run.id and how == "delete":
            del secrets[secret_id]
        elif stored.missing_run == run.id:
            removed_at = at if stored.removed_at is None else stored.removed_at
            secrets[secret_id] = replace(stored, removed_at=removed_at)
    return replace(user, secrets=secrets)


def opened_secret(user: UserDocument, secret_id: str) -> Secret:
    """Return a stored credential.

    Raises:
        StoreError: it is damaged.
    """
    secret = opened(user.secrets[secret_id], secret_id)
    if secret is None:
        raise damaged_document(user.username, secret_id)
    return secret


def refuse(name: str, found: UserDocument | None) -> None:
    """Refuse a damaged or foreign document; another user's document counts as absent."""
    if found is None:
        raise damaged_document(username_of(name) or name, None)


def damaged_document(username: str, secret_id: str | None) -> StoreError:
    """Return the error for a document, or a credential in it, that is not the user's."""
    return StoreError(
        "what is stored is not this user's: it was damaged, moved here, or written by another program",
        advice="Sync this user again, which replaces it, or remove it if there is no such user",
        username=username,
        secret_id=secret_id,
    )


def refused_ends(batch: Sequence[UserWrite], refused: Mapping[str, DocumentRefused]) -> dict[str, Checkpoint]:
    """Return the checkpoints of users whose documents were refused, by name."""
    return {
        user.checkpoint.username: replace(
            user.checkpoint,
            status="failed",
            secrets=0,
            error=error.kind,
            message=str(error),
            listing_proven=False,
            seen="",
        )
        for user in batch
        if (error := refused.get(user.checkpoint.username)) is not None
    }


def with_refused(
    state: StoreState, run: Run, ends: Mapping[str, Checkpoint], written: frozenset[str]
) -> StoreState:
    """Return the store's own document with these checkpoints of a run, without users written since.

    Drops the notes about runs that the store has forgotten.
    """
    of_run = {**state.refused.get(run.id, {}), **ends}
    of_run = {name: end for name, end in of_run.items() if name not in written}
    known = {one.id for one in state.runs}
    others = {one: found for one, found in state.refused.items() if one in known}
    return replace(state, refused={**others, run.id: of_run})


def require_few(state: StoreState, run: Run, refused: Mapping[str, DocumentRefused]) -> None:
    """Refuse to go on once the refusals are no longer about single documents.

    Raises:
        DocumentRefused: the service has refused many of this run.
    """
    if refused and len(state.refused[run.id]) > _REFUSED_DOCUMENTS:
        raise next(iter(refused.values()))
