"""Any sequence of changes leaves the world consistent: owners, listings, permissions and tokens agree."""

from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from flowmate_async.sandbox import Owner, SandboxOptions, World
from flowmate_async.sandbox.changes import NewSecret, NewUser, SecretChange, UserChange, rotate

SIZE = 4
GENERATED = [f"user-{index:06d}@tenant.example" for index in range(SIZE)]
KINDS = st.sampled_from(["SIMPLE", "API_KEY", "OA2_AUTHORIZATION_CODE", "SESSION_AUTH"])


class Changes(RuleBasedStateMachine):
    """A model: who owns which secret, in which order, and who may read it in plain text."""

    users = Bundle("users")
    secrets = Bundle("secrets")

    def __init__(self) -> None:
        """Start with a small tenant that shares a secret."""
        super().__init__()
        self.world = World(SandboxOptions(users=SIZE, shared_secrets=1, owners_per_shared_secret=2))
        self.listed = {name: [one.id for one in self.world.secrets_of(name)] for name in GENERATED}
        self.raw = dict.fromkeys(GENERATED, True)
        self.tenants = {secret.id for secret in self.world.tenant_secrets()}

    @rule(target=users)
    def know_generated_users(self) -> Any:
        """Changes meet users of the generated tenant too."""
        return multiple(*(name for name in GENERATED if name in self.listed))

    @rule(target=users, name=st.text("abC/ %é", min_size=1, max_size=4))
    def add_user(self, name: str) -> Any:
        """Add a user, unless the name is taken in any case or blank."""
        if not name.strip() or name.lower() in self.listed:
            return multiple()
        NewUser(username=name).apply(self.world)
        self.listed[name.lower()], self.raw[name.lower()] = [], True
        return name

    @rule(name=consumes(users))
    def remove_user(self, name: str) -> None:
        """Remove a user; what others own stays with them."""
        if name.lower() in self.listed:
            self.world.delete_user(name)
            del self.listed[name.lower()], self.raw[name.lower()]

    @rule(name=users, raw_read=st.booleans())
    def set_permission(self, name: str, raw_read: bool) -> None:
        """Change the permission of a user."""
        user = self.world.user(name)
        if user is not None:
            UserChange(raw_read=raw_read).apply(self.world, user)
            self.raw[name.lower()] = raw_read

    @rule(target=secrets, owners=st.lists(users, max_size=3), kind=KINDS)
    def add_secret(self, owners: list[str], kind: str) -> Any:
        """Add a secret of several users, or of the tenant."""
        owners = [name for name in owners if name.lower() in self.listed]
        added = NewSecret(type=kind, owners=tuple(owners), tenant_owned=not owners).apply(self.world)
        self.give(added.id, owners)
        return added.id

    @rule(secret_id=secrets, owners=st.lists(users, max_size=3))
    def set_owners(self, secret_id: str, owners: list[str]) -> None:
        """Change the owners of a secret."""
        secret = self.world.secret(secret_id)
        if secret is None:
            return
        owners = [name for name in owners if name.lower() in self.listed]
        SecretChange(owners=tuple(owners), tenant_owned=not owners).apply(self.world, secret)
        self.take(secret_id, but={name.lower() for name in owners})
        self.give(secret_id, owners)

    @rule(secret_id=secrets)
    def rotate_secret(self, secret_id: str) -> None:
        """Give a secret a new credential."""
        secret = self.world.secret(secret_id)
        if secret is not None:
            before = dict(secret.value)
            assert rotate(self.world, secret).value != before

    @rule(secret_id=consumes(secrets))
    def remove_secret(self, secret_id: str) -> None:
        """Remove a secret."""
        if self.world.secret(secret_id) is not None:
            self.world.remove_secret(secret_id)
            self.take(secret_id)

    @rule(name=users, place=st.integers(0, 50), target=secrets)
    def know_listed_secrets(self, name: str, place: int) -> Any:
        """Changes meet generated secrets too."""
        listed = self.listed.get(name.lower(), [])
        return listed[place] if place < len(listed) else multiple()

    def give(self, secret_id: str, owners: list[str]) -> None:
        """Append a secret to the listing of each new owner, in the model."""
        for name in dict.fromkeys(name.lower() for name in owners):
            if secret_id not in self.listed[name]:
                self.listed[name].append(secret_id)
        if not owners:
            self.tenants.add(secret_id)

    def take(self, secret_id: str, *, but: frozenset[str] | set[str] = frozenset()) -> None:
        """Remove a secret from the listings of others, in the model."""
        self.tenants.discard(secret_id)
        for name, listed in self.listed.items():
            if name not in but and secret_id in listed:
                listed.remove(secret_id)

    @invariant()
    def listings_are_as_in_the_model(self) -> None:
        """In the same order; each owner is one by id, and each listed secret can be found by its id."""
        for name, listed in self.listed.items():
            user = self.world.user(name)
            assert user is not None
            assert user.reads_raw == self.raw[name]
            assert [secret.id for secret in self.world.secrets_of(name)] == listed
            for secret in self.world.secrets_of(name):
                assert Owner(user.id) in secret.owners
                assert self.world.secret(secret.id) is secret
        assert {secret.id for secret in self.world.tenant_secrets()} == self.tenants

    @invariant()
    def nobody_else_is_there(self) -> None:
        """Accounts and truth are those of the model."""
        names = {user.username for user in self.world.users() if user.active_tenant_user}
        assert names == self.listed.keys()
        truth = [(truth.username, truth.secret_id) for truth in self.world.truth()]
        assert sorted(truth) == sorted((name, one) for name, listed in self.listed.items() for one in listed)


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
