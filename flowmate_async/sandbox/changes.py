"""Changes of the world in the admin API's form: users and secrets that are added or changed.

Each is a value that can be applied to a ``World``. ``world.py`` defines what a world holds.
"""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from flowmate_async.sandbox.ids import object_id_of
from flowmate_async.sandbox.provider_faults import ProviderFault
from flowmate_async.sandbox.secret import Owner, Secret, Value
from flowmate_async.sandbox.user import RAW_READ, User
from flowmate_async.sandbox.world import World

_ROTATED = {
    "SIMPLE": ("passphrase",),
    "API_KEY": ("key",),
    "OA2_AUTHORIZATION_CODE": ("accessToken", "refreshToken", "expires"),
    "SESSION_AUTH": ("accessToken",),
    "MIXED": ("payload",),
    "OA1_TWO_LEGGED": ("expiresAt",),
    "OA1_THREE_LEGGED": ("accessToken", "accessTokenSecret", "expires"),
    "FUTURE_TYPE": ("passkey",),
}


class _Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class NewUser(_Change, frozen=True, kw_only=True):
    """A user to add; see ``World.add_user``.

    Attributes:
        username: the name to impersonate it by.
        user_id: its internal id; a new one when left out.
        in_tenant: whether it belongs to the tenant.
        status: ``ACTIVE``, or it cannot be impersonated.
        confirmed: only displayed.
        roles: with any, it is an administrator.
        permissions: without ``secrets.secret.readRaw`` it sees masked credentials.
    """

    username: str
    user_id: str | None = None
    in_tenant: bool = True
    status: str = "ACTIVE"
    confirmed: bool = True
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = (RAW_READ,)

    def apply(self, world: World) -> User:
        """Add the user; raise ``ValueError`` if it exists, has no name or a malformed id."""
        if not self.username.strip():
            raise ValueError("the username is empty")
        user_id = _checked_id(self.user_id)
        if user_id is not None and world.user_by_id(user_id) is not None:
            raise ValueError(f"the world has a user with the id {user_id}")
        return world.add_user(
            self.username,
            user_id=user_id,
            in_tenant=self.in_tenant,
            status=self.status,
            confirmed=self.confirmed,
            roles=self.roles,
            permissions=self.permissions,
        )


class UserChange(_Change, frozen=True, kw_only=True):
    """Partial update of a user; omitted fields stay unchanged.

    Attributes:
        status: ``ACTIVE``, or it cannot be impersonated.
        confirmed: only displayed.
        roles: with any, it is an administrator.
        permissions: all of them.
        raw_read: whether the permission to read credentials in clear is among them.
    """

    status: str | UnsetType = UNSET
    confirmed: bool | UnsetType = UNSET
    roles: tuple[str, ...] | UnsetType = UNSET
    permissions: tuple[str, ...] | UnsetType = UNSET
    raw_read: bool | UnsetType = UNSET

    def apply(self, world: World, user: User) -> User:
        """Change the user; the next request sees it."""
        for name in ("status", "confirmed", "roles", "permissions"):
            if (value := getattr(self, name)) is not UNSET:
                setattr(user, name, value)
        if self.raw_read is not UNSET:
            others = tuple(one for one in user.permissions if one != RAW_READ)
            user.permissions = (*others, RAW_READ) if self.raw_read else others
        user.updated_at = world.timestamp()
        return user


class NewSecret(_Change, frozen=True, kw_only=True):
    """A secret to add; see ``World.add_secret``.

    Attributes:
        type: the contract's word for its type.
        owners: usernames of its owners; the first is its user.
        tenant_owned: whether the tenant owns it instead, so that no user's listing shows it.
        value: the credential; a generated one when left out.
        secret_id: its id; a new one when left out.
        name: made of type and id when left out.
        domain: only displayed.
        fault: how its provider misbehaves.
    """

    type: str
    owners: tuple[str, ...] = ()
    tenant_owned: bool = False
    value: Value | None = None
    secret_id: str | None = None
    name: str | None = None
    domain: str | None = None
    fault: ProviderFault | None = None

    def apply(self, world: World) -> Secret:
        """Add the secret; raise ``ValueError`` for an unknown owner or type, a taken or malformed id."""
        secret_id = _checked_id(self.secret_id)
        if secret_id is not None and world.secret(secret_id) is not None:
            raise ValueError(f"the world has a secret with the id {secret_id}")
        secret = world.add_secret(
            self.owners[0] if self.owners else world.administrator.username,
            type=self.type,
            value=world.new_value(self.type) if self.value is None else self.value,
            secret_id=secret_id,
            name=self.name,
            owners=_owners(world, self.owners, tenant_owned=self.tenant_owned),
            domain=self.domain,
        )
        secret.fault = self.fault
        return secret


class SecretChange(_Change, frozen=True, kw_only=True):
    """Partial update of a secret; omitted fields stay unchanged.

    Attributes:
        name: the name its user gave it.
        value: fields of the credential to set; the others stay.
        without: fields of the credential to remove.
        owners: usernames of all its owners from now on.
        tenant_owned: whether the tenant owns it instead.
        fault: how its provider misbehaves; ``null`` for no fault.
        current_error: the last refresh's failure; ``null`` for none.
        looks_masked: whether its ciphertexts look like a mask.
    """

    name: str | UnsetType = UNSET
    value: Value | UnsetType = UNSET
    without: tuple[str, ...] = ()
    owners: tuple[str, ...] | UnsetType = UNSET
    tenant_owned: bool | UnsetType = UNSET
    fault: ProviderFault | UnsetType | None = UNSET
    current_error: dict[str, Any] | UnsetType | None = UNSET
    looks_masked: bool | UnsetType = UNSET

    def apply(self, world: World, secret: Secret) -> Secret:
        """Change the secret; raise ``ValueError`` for an unknown owner."""
        if self.owners is not UNSET or self.tenant_owned is not UNSET:
            usernames = self.owners or ()
            world.set_owners(secret, _owners(world, usernames, tenant_owned=self.tenant_owned is True))
        if self.value is not UNSET or self.without:
            _set_value(secret, {**secret.value, **(self.value or {})}, without=self.without)
        for name in ("name", "fault", "current_error", "looks_masked"):
            if (given := getattr(self, name)) is not UNSET:
                setattr(secret, name, given)
        secret.updated_at = world.timestamp()
        return secret


def rotate(world: World, secret: Secret) -> Secret:
    """Give a secret a new credential, as when its user changes the password or connects the app again.

    Raises:
        ValueError: the type is unknown.
    """
    new = world.new_value(secret.type)
    changed = {name: new[name] for name in _ROTATED[secret.type] if name in new and name in secret.value}
    _set_value(secret, {**secret.value, **changed})
    secret.updated_at = world.timestamp()
    return secret


_RENEWED = ("OA2_AUTHORIZATION_CODE", "SESSION_AUTH")
_PAST = "2020-01-01T00:00:00.000Z"


def break_secret(world: World, secret: Secret) -> Secret:
    """Have the provider refuse every renewal of a secret, as when its user revokes access; it is due now.

    Raises:
        ValueError: its type is never renewed.
    """
    if secret.type not in _RENEWED:
        raise ValueError(
            f"a secret of type {secret.type} is never renewed, so no provider can refuse that; "
            f"only {' and '.join(_RENEWED)} can be broken"
        )
    world.keep(secret)
    secret.fault = ProviderFault.HTTP_ERROR
    if secret.value.get("expires"):  # without one, every GET renews anyway
        _set_value(secret, {**secret.value, "expires": _PAST})
    secret.updated_at = world.timestamp()
    return secret


def heal_secret(world: World, secret: Secret) -> Secret:
    """Undo ``break_secret``: the user connects the app again, so the secret has new tokens and no lock.

    Raises:
        ValueError: the type is unknown.
    """
    world.keep(secret)
    secret.fault, secret.locked_at = None, None
    return rotate(world, secret)


def _set_value(secret: Secret, value: Value, *, without: tuple[str, ...] = ()) -> None:
    secret.value = {name: field for name, field in value.items() if name not in without}
    secret.sealed.clear()


def _owners(world: World, usernames: tuple[str, ...], *, tenant_owned: bool) -> tuple[Owner, ...]:
    if tenant_owned == bool(usernames):
        raise ValueError("a secret is owned by users or by the tenant: name one of both")
    if tenant_owned:
        return (Owner(world.tenant_id, "TENANT"),)
    users = [world.user(username) for username in dict.fromkeys(usernames)]
    if None in users:
        raise ValueError(f"the world has no user {usernames[users.index(None)]!r}")
    return tuple(Owner(user.id) for user in users if user is not None)


def _checked_id(text: str | None) -> str | None:
    if text is not None and (object_id_of(text) is None or len(text) != 24):
        raise ValueError(f"{text!r} is not an id of 24 hexadecimal digits")
    return None if text is None else text.lower()
