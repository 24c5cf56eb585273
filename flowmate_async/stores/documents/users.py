"""The documents of a store's users: read, listed by username, and changed. Nothing here knows a service."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

from flowmate_async.containers import chunked
from flowmate_async.stores.documents.base import (
    USERS,
    Document,
    Documents,
    UserDocument,
    decoded_user,
    is_hashed,
    name_of,
    user_of,
    username_of,
)
from flowmate_async.stores.documents.writes import check_and_set

_PAGE = 100

OnRejected = Callable[[str, UserDocument | None], object]
"""Called with the name of a document and its content: another user's document, or ``None``."""


class UserDocuments:
    """All users' documents in a service.

    Args:
        documents: the service.
        require_open: raises unless the store is open.
        sleep: waits before a write is tried again.
    """

    def __init__(
        self,
        documents: Documents,
        *,
        require_open: Callable[[], None],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._documents = documents
        self._require_open = require_open
        self._sleep = sleep

    async def all(
        self, username: str | None = None, *, on_rejected: OnRejected | None = None
    ) -> AsyncIterator[UserDocument]:
        """Yield all users' documents by username, or one user's; see :meth:`read` for ``on_rejected``."""
        names = await self._names() if username is None else [name_of(username)]
        for chunk in chunked(names, _PAGE):
            page = await self.read(chunk, on_rejected=on_rejected)
            for user in sorted(page, key=lambda one: one.username):
                yield user

    async def named(self, usernames: Sequence[str]) -> AsyncIterator[UserDocument]:
        """Yield the existing documents of these users."""
        for chunk in chunked(usernames, _PAGE):
            for user in await self.read(map(name_of, chunk)):
                yield user

    async def read(
        self, names: Iterable[str], *, on_rejected: OnRejected | None = None
    ) -> list[UserDocument]:
        """Return the users' documents with these names, without those that are gone.

        Args:
            names: the documents' names.
            on_rejected: called with what is not a user's document. Without it such a document is skipped, so
                that it does not stop the others.
        """
        self._require_open()
        users = []
        for name, document in (await self._documents.read_many(list(names))).items():
            if document.is_gone:
                continue
            user = decoded_user(document)
            if user is not None and name_of(user.username) == name:
                users.append(user)
            elif on_rejected is not None:
                on_rejected(name, user)
        return users

    async def change(
        self, username: str, change: Callable[[UserDocument], UserDocument], *, create: bool = False
    ) -> None:
        """Change a user's document on top of what others write; without ``create``, only an existing one."""

        def changed(found: Document | None) -> UserDocument:
            if found is None:
                return change(UserDocument(username=username)) if create else UserDocument(username=username)
            # A damaged or foreign document is overwritten by this write, so it heals.
            return change(user_of(found, name) or UserDocument(username=username))

        name = name_of(username)
        if not create:
            found = await self._documents.read(name)
            if found is None or user_of(found, name) is None:
                return
        await check_and_set(self._documents, name, changed, sleep=self._sleep)

    async def _names(self) -> list[str]:
        """Return the names of all users' documents, in the order of the usernames.

        Names that cannot be a user's, such as folders, belong to other programs.
        """
        self._require_open()
        known: dict[str, str] = {}
        hashed: list[str] = []
        async for name in self._documents.names(USERS):
            username = username_of(name)
            if username is not None:
                known[name] = username
            elif is_hashed(name):
                known[name] = ""
                hashed.append(name)
        for user in await self.read(hashed):
            known[name_of(user.username)] = user.username
        return sorted(known, key=lambda name: known[name])
