"""docs/contract/OBSERVED.md § One secret."""

import re
from typing import Any

import pytest

pytestmark = pytest.mark.anyio

ALICE = "user-000000@tenant.example"
ENVELOPE = {"value", "_id", "name", "owners", "type", "encryptedFields", "__t", "createdAt"}


def oauth(expires: Any, **fields: Any) -> dict[str, Any]:
    return {
        "authClientId": "0" * 24,
        "accessToken": "stored-access-token",
        "refreshToken": "stored-refresh-token",
        "expires": expires,
        **fields,
    }


def session(**fields: Any) -> dict[str, Any]:
    return {
        "authClientId": "1" * 24,
        "inputFields": {"client_id": "stored-client-id"},
        "accessToken": "stored-session-token",
        **fields,
    }


class Shelf:
    """One added secret and its reader."""

    def __init__(self, sandbox: Any, call: Any, token: str, secret: Any) -> None:
        self.sandbox, self.secret = sandbox, secret
        self._call, self._token = call, token

    async def get(self) -> Any:
        reply = await self._call.get(f"/secrets/{self.secret.id}", self._token)
        assert reply.status == 200, reply
        return reply.json()["data"]

    @property
    def refreshes(self) -> int:
        return sum(self.sandbox.stats().refreshes.values())


async def shelf(sandbox: Any, call: Any, kind: str, value: Any) -> Shelf:
    secret = sandbox.world.add_secret(ALICE, type=kind, value=value)
    return Shelf(sandbox, call, await call.impersonate(ALICE), secret)


@pytest.mark.observes("One secret", "Envelope")
async def test_every_generated_secret_can_be_read_by_its_owner(running: Any) -> None:
    """The envelope is the same for every type, made-up ones included; `__t` names the type."""
    async with running() as (sandbox, call):
        token = await call.impersonate(ALICE)
        for secret in sandbox.world.secrets_of(ALICE):
            data = (await call.get(f"/secrets/{secret.id}", token)).json()["data"]
            assert data.keys() >= ENVELOPE | {"updatedAt", "__v"}
            assert data["__t"] == f"S_{secret.type}"
            shown = {n: v for n, v in data["value"].items() if n not in data["encryptedFields"]}
            assert shown.items() <= secret.value.items()


@pytest.mark.observes(
    "One secret", "`expires` is a free string", "The server refreshes on GET", "Fetching earlier"
)
@pytest.mark.parametrize(
    ("expires", "refreshed"),
    [
        ("2027-01-15T08:14:59.000Z", True),
        ("2027-01-15T08:14:59+00:00", True),
        ("2027-01-15T09:14:59+01:00", True),
        ("2027-01-15T08:14:59", True),
        ("2027-01-15T08:15:01", False),
        ("2027-01-14T08:00:00.000Z", True),
        ("2027-01-15T08:15:01.000Z", False),
        ("2027-01-15T08:15:01+00:00", False),
        ("33658-09-27T01:46:40+00:00", False),
        ("soon", False),
        (None, True),
        ("", True),
    ],
)
async def test_a_get_refreshes_when_less_than_fifteen_minutes_remain(
    running: Any, clock: Any, expires: Any, *, refreshed: bool
) -> None:
    """A date that cannot be read is never due; none at all always is."""
    async with running(now=clock) as (sandbox, call):
        one = await shelf(sandbox, call, "OA2_AUTHORIZATION_CODE", oauth(expires))
        value = (await one.get())["value"]
        assert one.refreshes == refreshed
        assert (value["accessToken"] != "stored-access-token") == refreshed
        assert (value["expires"] == "2027-01-15T09:00:00.000Z") == refreshed
        assert (value["expires"] == expires) != refreshed


async def test_a_refresh_rotates_both_tokens_and_shows_the_new_one_once(running: Any, clock: Any) -> None:
    """The refreshing GET shows the refresh token in plain text, later ones a ciphertext."""
    async with running(now=clock) as (sandbox, call):
        one = await shelf(sandbox, call, "OA2_AUTHORIZATION_CODE", oauth("2027-01-15T08:00:00Z"))
        first, second = await one.get(), await one.get()
        stored = one.secret.value
        assert first["value"] == stored
        assert stored["refreshToken"] != "stored-refresh-token"
        assert (first["encryptedFields"], second["encryptedFields"]) == ([], ["refreshToken"])
        assert second["value"]["accessToken"] == first["value"]["accessToken"]
        assert second["value"]["refreshToken"] not in (stored["refreshToken"], "")
        assert (first["__v"], second["__v"], second["lockedAt"]) == (0, 1, None)
        assert first["lockedAt"] == "2027-01-15T08:00:00.000Z"


@pytest.mark.observes("One secret", "`refreshToken` and `inputFields` arrive")
@pytest.mark.observes("Recorded answers", "`body` can contain")
async def test_ciphertexts_have_control_and_latin1_characters(running: Any) -> None:
    """Raw bytes as text, the same for every reader until the token changes."""
    async with running() as (sandbox, call):
        value = oauth("33658-09-27T01:46:40+00:00", refreshToken="r" * 400)
        one = await shelf(sandbox, call, "OA2_AUTHORIZATION_CODE", value)
        cipher = (await one.get())["value"]["refreshToken"]
        assert cipher == (await one.get())["value"]["refreshToken"]
        assert any(c < " " for c in cipher)
        assert any("\x80" <= c <= "\xff" for c in cipher)
        assert max(cipher) <= "\xff"
        assert "rrrr" not in cipher
        refreshed = await shelf(sandbox, call, "SESSION_AUTH", session(expires=None))
        in_clear = await refreshed.get()
        assert (in_clear["encryptedFields"], in_clear["value"]["inputFields"]) == (
            [],
            session()["inputFields"],
        )


async def test_a_rotated_token_has_another_ciphertext(running: Any) -> None:
    """What was sealed before the refresh is gone with it."""
    async with running() as (sandbox, call):
        one = await shelf(sandbox, call, "OA2_AUTHORIZATION_CODE", oauth("2020-01-01T00:00:00Z"))
        one.secret.sealed["refreshToken"] = "the ciphertext of before"
        await one.get()
        after = await one.get()
        assert after["encryptedFields"] == ["refreshToken"]
        assert after["value"]["refreshToken"] != "the ciphertext of before"


MASK = re.compile(r"(?:.*\n)?\*+[^\n]{4}", re.DOTALL)


@pytest.mark.observes("Second look: refreshes", "`refreshToken` is ciphertext even for readers")
async def test_a_ciphertext_can_look_like_a_mask_for_a_reader_with_permission(running: Any) -> None:
    """On demand: the last line is a star and four characters, and the access token is in plain text."""
    async with running(users=30, looks_masked_share=0.5) as (sandbox, call):
        looks = []
        for user in [user for user in sandbox.world.users() if user.active_tenant_user]:
            token = await call.impersonate(user.username)
            for secret in sandbox.world.secrets_of(user.username):
                if secret.type == "OA2_AUTHORIZATION_CODE" and "refreshToken" in secret.value:
                    data = [
                        (await call.get(f"/secrets/{secret.id}", token)).json()["data"] for _ in range(2)
                    ][1]
                    assert data["encryptedFields"] == ["refreshToken"]
                    assert data["value"]["accessToken"] == secret.value["accessToken"]
                    looks.append(MASK.fullmatch(data["value"]["refreshToken"]) is not None)
                    assert looks[-1] == secret.looks_masked
        assert 0.3 < sum(looks) / len(looks) < 0.7


@pytest.mark.observes("Second look: refreshes", "Upstream masks `accessToken` whenever")
async def test_access_and_refresh_token_are_masked_together(running: Any) -> None:
    """In the refreshing GET and in every later one."""
    async with running(masked_share=1) as (sandbox, call):
        one = await shelf(sandbox, call, "OA2_AUTHORIZATION_CODE", oauth("2020-01-01T00:00:00Z"))
        for _ in range(2):
            value = (await one.get())["value"]
            assert MASK.fullmatch(value["accessToken"])
            assert MASK.fullmatch(value["refreshToken"].rpartition("\n")[2])


@pytest.mark.observes("One secret", "OAuth without a refresh token")
async def test_without_a_refresh_token_the_expired_one_comes_back(running: Any) -> None:
    """200 and the expired token: nothing tells the reader but the date."""
    async with running() as (sandbox, call):
        value = oauth("2020-01-01T00:00:00.000Z")
        del value["refreshToken"]
        one = await shelf(sandbox, call, "OA2_AUTHORIZATION_CODE", value)
        assert (await one.get())["value"] == value
        assert one.refreshes == 0


@pytest.mark.observes("One secret", "SESSION_AUTH with `expires: null`")
@pytest.mark.parametrize("fields", [{"expires": None}, {}])
async def test_a_session_without_expiry_logs_in_at_every_get(running: Any, fields: Any) -> None:
    """`expires: null` or absent: each GET gives a new token, and the input fields in plain text."""
    async with running() as (sandbox, call):
        one = await shelf(sandbox, call, "SESSION_AUTH", session(**fields))
        answers = [await one.get() for _ in range(3)]
        assert len({answer["value"]["accessToken"] for answer in answers}) == 3
        assert [answer["__v"] for answer in answers] == [0, 1, 2]
        assert all(answer["value"]["expires"] is None for answer in answers)
        assert all(answer["value"]["inputFields"] == session()["inputFields"] for answer in answers)
        assert one.refreshes == 3


async def test_a_session_with_an_expiry_logs_in_when_it_is_due(running: Any, clock: Any) -> None:
    """Until then its input fields are a ciphertext string."""
    async with running(now=clock) as (sandbox, call):
        one = await shelf(sandbox, call, "SESSION_AUTH", session(expires="2027-01-15T09:00:00.000Z"))
        fresh = await one.get()
        assert (fresh["encryptedFields"], one.refreshes) == (["inputFields"], 0)
        assert isinstance(fresh["value"]["inputFields"], str)
        clock.advance(46 * 60)
        logged_in = await one.get()
        assert logged_in["value"]["expires"] == "2027-01-15T09:46:00.000Z"
        assert (await one.get())["value"]["accessToken"] == logged_in["value"]["accessToken"]
        assert one.refreshes == 1


async def test_the_life_of_a_refreshed_token_is_an_option(running: Any, clock: Any) -> None:
    """With less than 15 minutes every GET refreshes."""
    async with running(now=clock, access_life_seconds=600) as (sandbox, call):
        one = await shelf(sandbox, call, "OA2_AUTHORIZATION_CODE", oauth("2027-01-15T08:00:00Z"))
        assert (await one.get())["value"]["expires"] == "2027-01-15T08:10:00.000Z"
        await one.get()
        assert one.refreshes == 2


@pytest.mark.observes("Connections", "`ETag` is weak", "Replies say `Cache-Control")
async def test_an_unchanged_answer_is_not_sent_twice(running: Any) -> None:
    """The ETag is weak and `If-None-Match` gives an empty 304, until the secret changes."""
    async with running() as (sandbox, call):
        secret = sandbox.world.add_secret(ALICE, type="API_KEY", value={"key": "k" * 20})
        token, path = await call.impersonate(ALICE), f"/secrets/{secret.id}"
        etag = (await call.get(path, token)).headers["etag"]
        assert etag.startswith('W/"')
        for known in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
            again = await call.get(path, token, headers={"If-None-Match": known})
            assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
            assert {"no-store", "private"} <= set(again.headers["cache-control"].split(", "))
        fresh = {"If-None-Match": etag, "Cache-Control": "no-cache"}
        assert (await call.get(path, token, headers=fresh)).status == 200
        secret.value["key"] = "another" * 4
        changed = await call.get(path, token, headers={"If-None-Match": etag})
        assert (changed.status, changed.json()["data"]["value"]["key"]) == (200, "another" * 4)


async def test_an_id_may_be_spelled_in_capitals_or_encoded(running: Any) -> None:
    """The database reads hexadecimal digits of either case, the framework decodes the path."""
    async with running() as (sandbox, call):
        secret = sandbox.world.add_secret(
            ALICE, type="API_KEY", value={"key": "k" * 20}, secret_id="abcdefabcdefabcdefabcdef"
        )
        token = await call.impersonate(ALICE)
        for spelled in (secret.id.upper(), secret.id.replace("a", "%61")):
            assert (await call.get(f"/secrets/{spelled}", token)).status == 200


async def test_an_error_is_never_a_304(running: Any) -> None:
    """`If-None-Match` only spares successes."""
    async with running() as (_, call):
        token = await call.impersonate(ALICE)
        reply = await call.get(f"/secrets/{'0' * 24}", token, headers={"If-None-Match": "*"})
        assert reply.status == 404


ROWS = {
    # Type of the table: fields that are always there, and those that may be.
    "SIMPLE": ({"username", "passphrase"}, set()),
    "API_KEY": ({"key"}, {"headerName"}),
    "OA2_AUTHORIZATION_CODE": (
        {"authClientId", "accessToken", "expires"},
        {"scope", "externalId", "refreshToken"},
    ),
    "SESSION_AUTH": ({"authClientId", "accessToken", "inputFields"}, {"expires"}),
    "MIXED": ({"payload"}, set()),
    "OA1_TWO_LEGGED": ({"expiresAt"}, None),
    "OA1_THREE_LEGGED": ({"accessToken", "accessTokenSecret", "scope", "expires", "externalId"}, None),
}


@pytest.mark.observes(
    "One secret",
    "`SIMPLE`",
    "`API_KEY`",
    "`OA2_AUTHORIZATION_CODE`",
    "`SESSION_AUTH` |",
    "`MIXED`",
    "`OA1_TWO_LEGGED`, `OA1_THREE_LEGGED`",
    "anything else",
)
async def test_each_type_has_the_fields_of_its_row(running: Any) -> None:
    """A type without a row exists too. The other fields of OAuth 1 were not observed."""
    async with running() as (sandbox, call):
        token, seen = await call.impersonate(ALICE), set()
        for secret in sandbox.world.secrets_of(ALICE):
            data = (await call.get(f"/secrets/{secret.id}", token)).json()["data"]
            always, sometimes = ROWS.get(data["type"], (set(), None))
            fields = data["value"].keys()
            assert always <= fields, data["type"]
            assert sometimes is None or fields <= always | sometimes, data["type"]
            seen.add(data["type"])
        assert seen > ROWS.keys()
