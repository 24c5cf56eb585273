"""World: the users, secrets and tokens of a sandbox, to inspect and to change.

Users and secrets are generated on first use and do not depend on the order of access. Access rules and HTTP
are in other modules.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from flowmate_async.sandbox.accounts import Accounts
from flowmate_async.sandbox.ids import IdSpace
from flowmate_async.sandbox.options import SandboxOptions
from flowmate_async.sandbox.secret import Owner, Secret, Value
from flowmate_async.sandbox.secret_cache import SecretCache
from flowmate_async.sandbox.secret_generator import SecretGenerator
from flowmate_async.sandbox.timestamps import iso
from flowmate_async.sandbox.tokens import Tokens
from flowmate_async.sandbox.truth import Truth, truth_of
from flowmate_async.sandbox.user import RAW_READ, User


class World:
    """Data of a sandbox: accounts, secrets and user tokens.

    Args:
        options: how many users there are, and the seed that makes them.
    """

    def __init__(self, options: SandboxOptions) -> None:
        self._now: Callable[[], float] = options.now
        size = 0 if options.empty_world else options.users
        self._accounts = Accounts(seed=options.seed, size=size, masked_share=options.masked_share)
        self._creates_users = options.create_users_on_impersonate
        self._secrets = SecretCache(
            SecretGenerator(
                seed=options.seed,
                born_at=options.now(),
                no_expires_in_share=options.no_expires_in_share,
                looks_masked_share=options.looks_masked_share,
            )
        )
        self._added_ids = IdSpace(options.seed, "added")
        self._added = 0
        self._by_username: dict[str, User] = {}
        self._by_id: dict[str, User] = {}
        self._outsiders: list[User] = []
        self._deleted: set[int] = set()
        self.tokens: Tokens = Tokens(
            IdSpace(options.seed, "token"),
            life_seconds=options.token_life_seconds,
            now=options.now,
        )
        self.administrator: User = self._admit(self._accounts.administrator())
        if not options.empty_world:
            self._settle(options)

    def _settle(self, options: SandboxOptions) -> None:
        for user in self._accounts.others(options.disabled_users):
            self._admit(user)
        self._secrets.add_tenant_secrets(self.tenant_id)
        self._share(options.shared_secrets, options.owners_per_shared_secret)

    def _share(self, secrets: int, owners_each: int) -> None:
        """Generate secrets with several owners: the first users share the first, the next ones the next."""
        size = self._accounts.size
        owners_each = min(owners_each, size)
        for number in range(secrets if size else 0):
            indices = [(number * owners_each + place) % size for place in range(owners_each)]
            owners = tuple(Owner(self._touch(index).id) for index in indices)
            secret = self._secrets.generator.shared(number, owners)
            for owner in owners:
                self._give(owner, secret)

    @property
    def tenant_id(self) -> str:
        """The one tenant's id."""
        return self._accounts.tenant_id

    @property
    def user_count(self) -> int:
        """How many accounts there are, administrators and service accounts included."""
        return len(self._outsiders) + self._accounts.size - len(self._deleted)

    def users(self) -> Iterator[User]:
        """Iterate over all accounts; untouched generated ones are made and dropped."""
        yield from self._outsiders
        for index in range(self._accounts.size):
            if index in self._deleted:
                continue
            made = self._accounts.at(index)
            yield self._by_username.get(made.username, made)

    def user(self, username: str) -> User | None:
        """Find an account by its username in any case (§ Second look, "Requests"); changes to it last."""
        username = username.lower()
        known = self._by_username.get(username)
        if known is not None:
            return known
        index = self._accounts.index_of_username(username)
        return None if index is None or index in self._deleted else self._touch(index)

    def impersonated(self, username: str) -> User | None:
        """Find the user ``username``, whom FlowMate makes if unknown and IAM does not (§ Impersonation)."""
        user = self.user(username)
        if user is None and self._creates_users and username.strip():
            user = self.add_user(username)
        return user

    def user_by_id(self, user_id: str) -> User | None:
        """Find an account by its internal id, ``user_id``."""
        known = self._by_id.get(user_id)
        if known is not None:
            return known
        index = self._accounts.index_of_id(user_id)
        return None if index is None or index in self._deleted else self._touch(index)

    def add_user(
        self,
        username: str,
        *,
        user_id: str | None = None,
        in_tenant: bool = True,
        status: str = "ACTIVE",
        confirmed: bool = True,
        roles: tuple[str, ...] = (),
        permissions: tuple[str, ...] = (RAW_READ,),
    ) -> User:
        """Add an account without secrets.

        Args:
            username: what it is impersonated by; kept in lower case.
            user_id: its internal id; a new one when left out.
            in_tenant: whether it belongs to the tenant, as users do and administrators do not.
            status: ``ACTIVE``, or it cannot be impersonated.
            confirmed: only displayed.
            roles: with any, it is an administrator and not one of "all users".
            permissions: without ``RAW_READ`` it sees masked credentials.

        Raises:
            ValueError: the username exists.
        """
        if self.user(username) is not None:
            message = f"the world has a user {username!r} already"
            raise ValueError(message)
        born = self.timestamp()
        return self._admit(
            User(
                username=username.lower(),
                firstname=username.partition("@")[0],
                lastname="Added",
                status=status,
                confirmed=confirmed,
                tenant=self.tenant_id if in_tenant else msgspec.UNSET,
                roles=roles,
                permissions=permissions,
                id=user_id or self._new_id(),
                created_at=born,
                updated_at=born,
            )
        )

    def delete_user(self, username: str) -> None:
        """Delete an account with its tokens and the secrets that have no other owner.

        Args:
            username: the user.

        Raises:
            ValueError: the user does not exist.
        """
        user = self._known(username)
        index = self._index_of(user)
        for secret in self.secrets_of(username):
            if secret.owners == (Owner(user.id),):
                self._secrets.remove(secret)
        self.revoke_tokens(username)
        self._by_username.pop(user.username, None)
        self._by_id.pop(user.id, None)
        if index is None:
            self._outsiders.remove(user)
        else:
            self._deleted.add(index)

    def secrets_of(self, username: str) -> tuple[Secret, ...]:
        """Return a user's secrets in natural order; those of the tenant are not among them.

        Args:
            username: the user.

        Raises:
            ValueError: the user does not exist.
        """
        return tuple(self._secrets.of(self._index_of(self._known(username)), self._known(username)))

    def live_secrets_of(self, user: User) -> list[Secret]:
        """Return the live list behind ``secrets_of``, for the server's own use.

        Args:
            user: the user, as the world holds it.
        """
        return self._secrets.of(self._index_of(user), user)

    def tenant_secrets(self) -> tuple[Secret, ...]:
        """Return the secrets that the tenant owns."""
        return tuple(self._secrets.tenant_secrets)

    def secret(self, secret_id: str) -> Secret | None:
        """Find a secret by ``secret_id``; changes to it last."""
        found = self.glance(secret_id)
        if found is not None:
            self._secrets.keep(found)
        return found

    def glance(self, secret_id: str) -> Secret | None:
        """Find a secret by ``secret_id`` to read it; an untouched one may be dropped and made again."""
        found = self._secrets.find(secret_id)
        if found is not None:
            return found
        index = self._secrets.generator.owner_index_of(secret_id)
        if index is None or not 0 <= index < self._accounts.size or index in self._deleted:
            return None
        self._secrets.of(index, self._by_index(index))
        return self._secrets.find(secret_id)

    def keep(self, secret: Secret) -> None:
        """Keep a secret in memory from now on, because it is about to change."""
        self._secrets.keep(secret)

    def add_secret(  # noqa: PLR0913 - one keyword for each property of a secret
        self,
        username: str,
        *,
        type: str,  # noqa: A002 - the contract's word
        value: Value,
        secret_id: str | None = None,
        name: str | None = None,
        owners: tuple[Owner, ...] | None = None,
        sealed: dict[str, str] | None = None,
        domain: str | None = None,
        mixed_properties: dict[str, Any] | None = None,
    ) -> Secret:
        """Add a secret at the end of a user's natural order, or of each of ``owners``.

        Args:
            username: the user.
            type: the contract's word for its type.
            value: the credential, with the contract's field names.
            secret_id: its id; a new one when left out.
            name: made of type and id when left out.
            owners: the user alone when left out.
            sealed: what readers get instead of single fields of the value.
            domain: only displayed.
            mixed_properties: for type ``MIXED``, only displayed.

        Raises:
            ValueError: the user does not exist.
        """
        user = self._known(username)
        born = self.timestamp()
        made_id = secret_id or self._new_id()
        secret = Secret(
            id=made_id,
            name=name or f"{type.lower()}-{made_id[-4:]}",
            owners=(Owner(user.id),) if owners is None else owners,
            type=type,
            value=value,
            created_at=born,
            updated_at=born,
            sealed=sealed or {},
            domain=domain,
            mixed_properties=mixed_properties,
        )
        for owner in secret.owners:
            self._give(owner, secret)
        return secret

    def set_owners(self, secret: Secret, owners: tuple[Owner, ...]) -> None:
        """Change a secret's owners; remaining owners keep its position in their natural order.

        Args:
            secret: which.
            owners: all of them from now on.
        """
        self._secrets.keep(secret)
        before, secret.owners = secret.owners, owners
        for owner in before:
            if owner not in owners:
                self._secrets.take(owner, secret)
        for owner in owners:
            if owner not in before:
                self._give(owner, secret)

    def new_value(self, type: str) -> Value:  # noqa: A002 - the contract's word
        """Generate a credential of a type.

        Args:
            type: the contract's word.

        Raises:
            ValueError: the type is unknown.
        """
        self._added += 1
        return self._secrets.generator.new_value(type, self._added)

    def timestamp(self) -> str:
        """Return the current time in the services' format."""
        return iso(self._now())

    def remove_secret(self, secret_id: str) -> None:
        """Delete a secret, as its user would in the Integration Center.

        Args:
            secret_id: which.

        Raises:
            ValueError: the secret does not exist.
        """
        secret = self.secret(secret_id)
        if secret is None:
            message = f"the world has no secret {secret_id!r}"
            raise ValueError(message)
        self._secrets.remove(secret)

    def release_locks(self, client: str | None) -> None:
        """Release the locks that failed refreshes have left behind.

        Args:
            client: the ``authClientId``; ``None`` for all OAuth clients.
        """
        self._secrets.release_locks(client)

    def move_first_secret_last(self, username: str) -> None:
        """Move an item between two pages, as the unsorted natural order may (§ Listing).

        Args:
            username: the user.

        Raises:
            ValueError: the user does not exist.
        """
        listed = self.live_secrets_of(self._known(username))
        if listed:
            self._secrets.keep(listed[0])
            listed.append(listed.pop(0))

    def revoke_tokens(self, username: str | None = None) -> int:
        """Revoke the user tokens of one user or of all; return how many there were.

        Args:
            username: the user; ``None`` for all users.
        """
        return self.tokens.revoke(None if username is None else username.lower())

    def truth(self) -> Iterator[Truth]:
        """Iterate over every active tenant user's secrets as they are now upstream, in plaintext."""
        for user in self.users():
            if user.active_tenant_user:
                for secret in tuple(self.live_secrets_of(user)):
                    yield truth_of(user, secret)

    def _give(self, owner: Owner, secret: Secret) -> None:
        user = self.user_by_id(owner.id) if owner.type == "USER" else None
        if user is None:
            self._secrets.add_unlisted(secret)
        else:
            self._secrets.add(self._index_of(user), user, secret)

    def _admit(self, user: User) -> User:
        self._by_username[user.username] = user
        self._by_id[user.id] = user
        self._outsiders.append(user)
        return user

    def _touch(self, index: int) -> User:
        user = self._by_index(index)
        self._by_username[user.username] = user
        self._by_id[user.id] = user
        return user

    def _by_index(self, index: int) -> User:
        made = self._accounts.at(index)
        return self._by_username.get(made.username, made)

    def _index_of(self, user: User) -> int | None:
        return self._accounts.index_of_id(user.id)

    def _known(self, username: str) -> User:
        user = self.user(username)
        if user is None:
            message = f"the world has no user {username!r}"
            raise ValueError(message)
        return user

    def _new_id(self) -> str:
        self._added += 1
        return self._added_ids.id_of(self._added)
