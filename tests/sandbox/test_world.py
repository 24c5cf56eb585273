"""The generated world: deterministic, lazy, varied, and its truth."""

import statistics
from typing import Any

import msgspec
import pytest

from flowmate_async.sandbox import RAW_READ, SandboxOptions, World
from flowmate_async.sandbox.secret_cache import _UNTOUCHED_KEPT

ALICE = "user-000000@tenant.example"
TYPES = {
    "SIMPLE",
    "API_KEY",
    "OA2_AUTHORIZATION_CODE",
    "SESSION_AUTH",
    "MIXED",
    "OA1_TWO_LEGGED",
    "OA1_THREE_LEGGED",
    "FUTURE_TYPE",
}
NOT_CREDENTIALS = {"authClientId", "scope", "expires", "externalId", "headerName", "expiresAt"}


def world(**options: Any) -> World:
    return World(SandboxOptions(now=lambda: 1_800_000_000.0, **options))


def name(index: int) -> str:
    return f"user-{index:06d}@tenant.example"


def leaves(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [leaf for n, v in value.items() if n not in NOT_CREDENTIALS for leaf in leaves(v)]
    return [value] if isinstance(value, str) else []


def test_a_seed_gives_the_same_world_in_whatever_order_it_is_touched() -> None:
    """Users, ids, secrets and their natural order follow from (seed, user index) alone."""
    one, other = world(users=50, seed=7), world(users=50, seed=7)
    forwards = {name(i): one.secrets_of(name(i)) for i in range(50)}
    backwards = {name(i): other.secrets_of(name(i)) for i in reversed(range(50))}
    assert forwards == backwards
    assert list(one.users()) == list(other.users())
    assert [t.id for t in one.tenant_secrets()] == [t.id for t in other.tenant_secrets()]


def test_a_user_does_not_depend_on_how_many_there_are() -> None:
    """A bigger world begins with the smaller one."""
    assert world(users=3).secrets_of(name(2)) == world(users=3000).secrets_of(name(2))


def test_another_seed_gives_another_world() -> None:
    """No id and no value is shared."""
    texts = [
        {leaf for truth in world(users=5, seed=seed).truth() for leaf in leaves(truth.value)}
        | {truth.secret_id for truth in world(users=5, seed=seed).truth()}
        for seed in (1, 2)
    ]
    assert not (texts[0] & texts[1]) - {"last line", "a"}


def test_secrets_are_found_by_id_before_their_user_was_touched() -> None:
    """An id alone leads to its owner; ids that were never generated lead nowhere."""
    known = world(users=20).secrets_of(name(11))
    untouched = world(users=20)
    assert [untouched.secret(secret.id) for secret in known] == list(known)
    smaller = world(users=11)
    assert smaller.secret(known[0].id) is None
    assert smaller.secret("f" * 24) is None
    assert smaller.secret(f"{known[0].id[:18]}ffffff") is None


def test_a_huge_world_is_generated_only_where_it_is_touched() -> None:
    """A million users exist at once without using memory."""
    huge = world(users=1_000_000)
    assert huge.user_count > 1_000_000
    assert huge.secrets_of(name(999_999))
    assert len(huge._secrets._secrets) < 100
    assert huge.user(name(1_000_000)) is None


def test_untouched_secrets_are_dropped_and_come_back_the_same() -> None:
    """Reading everything does not keep everything; what was changed stays changed."""
    big = world(users=_UNTOUCHED_KEPT + 200)
    changed = big.secret(big.secrets_of(name(1))[0].id)
    assert changed is not None
    changed.name = "changed"
    untouched = msgspec.structs.replace(big.secrets_of(name(2))[0])
    rows = sum(1 for _ in big.truth())
    assert len(big._secrets._secrets) < rows
    assert changed in big.secrets_of(name(1))
    assert untouched in big.secrets_of(name(2))


@pytest.mark.anyio
async def test_a_refreshed_secret_is_never_forgotten(running: Any) -> None:
    """A refresh is a change: the rotated token outlives the reading of everybody else."""
    async with running(users=_UNTOUCHED_KEPT + 200) as (sandbox, call):
        due = next(s for s in sandbox.world.secrets_of(ALICE) if "inputFields" in s.value)
        due_id = due.id
        due.value.pop("expires", None)
        token = await call.impersonate(ALICE)
        read = (await call.get(f"/secrets/{due_id}", token)).json()["data"]["value"]
        for _ in sandbox.world.truth():
            pass
        kept = sandbox.world.secret(due_id)
        assert kept.value["accessToken"] == read["accessToken"]


def test_most_users_have_few_secrets_and_some_more_than_a_page() -> None:
    """Skewed, 1 to 40, with a mean of six to eight."""
    one = world(users=3000, seed=5)
    counts = [len(one.secrets_of(name(i))) for i in range(3000)]
    assert (min(counts), max(counts)) == (1, 40)
    assert 6 <= statistics.mean(counts) <= 8
    assert sum(count <= 10 for count in counts) > 2400
    assert sum(count > 30 for count in counts) > 60


def test_even_one_user_has_every_type_and_every_odd_value() -> None:
    """All types, empty and absent headers, all kinds of expiry."""
    values = [(t.type, t.value) for t in world(users=1).truth()]
    assert {kind for kind, _ in values} == TYPES
    keys = [value for kind, value in values if kind == "API_KEY"]
    assert {value.get("headerName") for value in keys} == {None, "", "x-api-key"}
    dates = {str(v.get("expires", "absent")) for k, v in values if k == "SESSION_AUTH"}
    assert {"None", "absent"} < dates
    oauth = {v["expires"] for k, v in values if k == "OA2_AUTHORIZATION_CODE"}
    assert {"33658-09-27T01:46:40+00:00", "soon"} < oauth
    assert any(date.endswith("+00:00") and date < "3" for date in oauth)
    secrets = world(users=1).secrets_of(ALICE)
    bare = [s for s in secrets if s.type.startswith("OA2") and "refreshToken" not in s.value]
    assert len(bare) >= 2
    texts = [leaf for _, value in values for leaf in leaves(value)]
    assert any("\n" in text for text in texts)
    assert any('"' in text for text in texts)
    assert any(ord(c) > 0xFFFF for text in texts for c in text)


def test_credentials_are_long_and_unique() -> None:
    """A leak test may search for any of them."""
    one = world(users=300, seed=9)
    found = [
        leaf
        for secret in (s for i in range(300) for s in one.secrets_of(name(i)))
        for leaf in leaves({n: v for n, v in secret.value.items() if n != "passkey"})
        if secret.type != "FUTURE_TYPE"
    ]
    assert all(len(text) >= 16 for text in found)
    assert len(set(found)) == len(found)


def test_truth_is_every_active_tenant_users_and_nobody_elses() -> None:
    """One row a secret; disabled users, outsiders, other fields and tenant secrets are left out."""
    one = world(users=5)
    one.add_user("outsider", in_tenant=False)
    one.add_user("administrator", roles=("r",))
    one.add_user("added")
    for username in ("outsider", "administrator", "added", "disabled-000000@tenant.example"):
        one.add_secret(username, type="SIMPLE", value={"username": username, "passphrase": "p"})
    disabled = one.user(name(3))
    assert disabled is not None
    disabled.status = "DISABLED"
    rows = list(one.truth())
    assert {row.username for row in rows} == {name(0), name(1), name(2), name(4), "added"}
    assert len({row.secret_id for row in rows}) == len(rows)
    assert not any({"refreshToken", "inputFields"} & row.value.keys() for row in rows)
    tenants = {secret.id for secret in one.tenant_secrets()}
    assert not tenants & {row.secret_id for row in rows}


def test_an_empty_world_has_the_administrator_only() -> None:
    """For tests that build their own."""
    one = world(users=5, empty_world=True)
    assert [user.roles != () for user in one.users()] == [True]
    assert list(one.truth()) == []
    assert one.tenant_secrets() == ()


def test_nobody_is_added_twice_and_nothing_to_nobody() -> None:
    """Mistakes in a test raise at once."""
    one = world(users=1)
    for mistake in (
        lambda: one.add_user(ALICE),
        lambda: one.secrets_of("nobody"),
        lambda: one.add_secret("nobody", type="SIMPLE", value={}),
        lambda: one.remove_secret("0" * 24),
    ):
        with pytest.raises(ValueError, match="the world has"):
            mistake()


def test_generated_users_read_raw() -> None:
    """Everybody of the tenant has the permission; a test takes it from whom it likes."""
    users = [user for user in world(users=9).users() if user.active_tenant_user]
    assert len(users) == 9
    assert all(user.permissions == (RAW_READ,) for user in users)
