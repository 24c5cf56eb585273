"""docs/contract/OBSERVED.md § Second look, "Requests": what the services make of unusual requests."""

from typing import Any

import pytest

pytestmark = pytest.mark.anyio

ALICE = "user-000000@tenant.example"
UNKNOWN_ID = "0123456789abcdef01234567"
INVALID = "Invalid authorization header"
MISSING = "Missing authorization header."
EMPTY = b'{"message":""}'


def api_key(sandbox: Any, **more: Any) -> Any:
    return sandbox.world.add_secret(ALICE, type="API_KEY", value={"key": "k" * 20}, **more)


async def send_header(call: Any, path: str, value: str, method: str = "GET") -> Any:
    return await call.send(method, path, headers={"Authorization": value}, json={"username": ALICE})


@pytest.mark.observes("Second look: requests", "Usernames are matched")
async def test_usernames_are_matched_in_lower_case(running: Any) -> None:
    """Impersonating any spelling gives tokens of one account, which lists and counts as one."""
    async with running() as (sandbox, call):
        secrets = {secret.id for secret in sandbox.world.secrets_of(ALICE)}
        for spelling in (ALICE, ALICE.upper(), ALICE.title()):
            token = await call.impersonate(spelling)
            listing = (await call.get("/secrets/?page[size]=100", token)).json()["data"]
            assert {item["_id"] for item in listing} == secrets
        assert sandbox.stats().impersonations_by_username == {ALICE: 3}
        assert sandbox.world.revoke_tokens(ALICE.upper()) == 3


async def test_a_created_user_is_found_in_any_case(running: Any) -> None:
    """Created on first use, and not once for each spelling."""
    async with running(create_users_on_impersonate=True) as (sandbox, call):
        count = sandbox.world.user_count
        await call.impersonate("Customer-A")
        await call.impersonate("customer-a")
        assert sandbox.world.user_count == count + 1


@pytest.mark.observes("Second look: requests", "Authorization: `Token x`")
@pytest.mark.parametrize("form", ["Token {}", "bearer {}", "Bearer {} y", "x {}"])
async def test_the_scheme_does_not_matter(running: Any, form: str) -> None:
    """Neither its name nor its case, and neither does a word after the token; IAM reads it likewise."""
    async with running() as (sandbox, call):
        token = await call.impersonate(ALICE)
        assert (await send_header(call, "/secrets/", form.format(token))).status == 200
        assert (await send_header(call, "/users/", form.format(sandbox.admin_token))).status == 200


@pytest.mark.observes("Second look: requests", "A bare token, or `Bearer` alone")
@pytest.mark.parametrize(
    ("form", "message"), [("{}", INVALID), ("Bearer", INVALID), ("Bearer ", INVALID), ("", MISSING)]
)
@pytest.mark.parametrize("path", ["/secrets/", f"/secrets/{UNKNOWN_ID}"])
async def test_a_header_without_scheme_or_token_is_refused(
    running: Any, path: str, form: str, message: str
) -> None:
    """401, and the message tells an empty header from a broken one."""
    async with running() as (_, call):
        reply = await send_header(call, path, form.format(await call.impersonate(ALICE)))
        assert (reply.status, reply.json()["message"]) == (401, message)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/users/"), ("GET", "/users/me"), ("POST", "/impersonate")]
)
async def test_a_wrong_admin_token_is_a_validation_error(running: Any, method: str, path: str) -> None:
    """At every route of IAM; a header without a token is told apart."""
    async with running() as (_, call):
        for value, message in (("Bearer wrong", "VALIDATION_ERROR"), ("wrong", INVALID), ("", "")):
            reply = await send_header(call, path, value, method)
            assert (reply.status, reply.json()["message"]) == (401, message)


@pytest.mark.observes("Second look: requests", "`meta` of `GET /users/`")
@pytest.mark.parametrize("value", ["=false", "=1", "=true", "=", ""])
async def test_meta_counts_as_present_whatever_its_value(running: Any, value: str) -> None:
    """The envelope comes back even for `meta=false`."""
    async with running() as (sandbox, call):
        reply = await call.get(f"/users/?meta{value}", sandbox.admin_token)
        assert reply.json()["meta"] == {"total": sandbox.world.user_count}


@pytest.mark.observes("Second look: requests", "`GET /users/me`")
async def test_users_me_is_the_caller(running: Any) -> None:
    """The administrator with the roles spelled out, or the user whose token it is."""
    async with running() as (sandbox, call):
        administrator = (await call.get("/users/me", sandbox.admin_token)).json()
        assert administrator["username"] == sandbox.world.administrator.username
        assert [role["_id"] for role in administrator["roles"]] == list(sandbox.world.administrator.roles)
        assert administrator["roles"][0]["permissions"] == ["all"]
        user = (await call.get("/users/me", await call.impersonate(ALICE))).json()
        assert (user["username"], user["roles"]) == (ALICE, [])


@pytest.mark.observes("Second look: requests", "A bad `userId`")
async def test_a_bad_user_id_is_an_invalid_filter(running: Any) -> None:
    """500; one of 12 characters is well-formed and matches no user."""
    async with running() as (sandbox, call):
        for query in ("userId=nonsense", f"userId={UNKNOWN_ID}&userId=nonsense"):
            reply = await call.get(f"/users/?{query}", sandbox.admin_token)
            assert (reply.status, reply.json()) == (500, {"message": "The filter is invalid."})
        assert (await call.get("/users/?userId=twelve-chars", sandbox.admin_token)).json() == []
        assert (await call.get("/users/twelve-chars", sandbox.admin_token)).status == 404


async def test_an_operator_in_a_filter_is_an_unknown_error(running: Any) -> None:
    """500, and no user is listed."""
    async with running() as (sandbox, call):
        reply = await call.get("/users/?username[$ne]=x", sandbox.admin_token)
        assert (reply.status, reply.json()) == (500, {"message": "UNKNOWN_ERROR"})


@pytest.mark.observes("Second look: requests", "An id of 12 characters")
@pytest.mark.parametrize(
    ("secret_id", "status"),
    [
        ("twelve-chars", 404),
        ("123456789012", 404),
        ("eleven-char", 401),
        ("thirteen-char", 401),
        ("zw%C3%B6lf-zeich", 401),
        ("zw%C3%B6lf-zeiche", 401),
        (UNKNOWN_ID[:-1], 401),
        (UNKNOWN_ID + "8", 401),
        ("g" * 24, 401),
    ],
)
async def test_an_id_of_12_characters_is_well_formed(running: Any, secret_id: str, status: int) -> None:
    """404 like any unknown id. Malformed are one character more or less, and 12 characters of 13 bytes."""
    async with running() as (_, call):
        reply = await call.get(f"/secrets/{secret_id}", await call.impersonate(ALICE))
        assert (reply.status, reply.body) == (status, EMPTY)


async def test_an_id_of_12_characters_means_its_bytes(running: Any) -> None:
    """To the database they are the same id as their 24 hexadecimal digits."""
    async with running() as (sandbox, call):
        secret, token = api_key(sandbox, secret_id=b"twelve-chars".hex()), await call.impersonate(ALICE)
        reply = await call.get("/secrets/twelve-chars", token)
        assert (reply.status, reply.json()["data"]["_id"]) == (200, secret.id)


@pytest.mark.observes("Second look: requests", "An id in upper case")
async def test_an_id_in_upper_case_finds_the_secret(running: Any) -> None:
    """The answer has it in lower case, and the counters do too."""
    async with running() as (sandbox, call):
        secret, token = api_key(sandbox, secret_id="abcdef" * 4), await call.impersonate(ALICE)
        reply = await call.get(f"/secrets/{secret.id.upper()}", token)
        assert (reply.status, reply.json()["data"]["_id"]) == (200, secret.id)
        assert sandbox.stats().secret_gets == {secret.id: 1}


@pytest.mark.observes("Second look: requests", "`%zz` in the path")
@pytest.mark.parametrize("segment", ["%zz", "%", "abc%f", "%ff"])
async def test_a_broken_escape_is_a_bad_request(running: Any, segment: str) -> None:
    """400 with the segment as it was sent, once the token is known to be good."""
    async with running() as (sandbox, call):
        for path, token in (("secrets", await call.impersonate(ALICE)), ("users", sandbox.admin_token)):
            reply = await call.get(f"/{path}/{segment}", token)
            assert (reply.status, reply.json()["message"]) == (400, f"Failed to decode param '{segment}'")
            assert (await call.get(f"/{path}/{segment}", "wrong")).status == 401


@pytest.mark.observes("Second look: requests", "Paging: the first of several")
@pytest.mark.parametrize(
    ("query", "meta"),
    [
        ("page[size]=2&page[size]=3", (1, 2)),
        ("page%5Bsize%5D=2&page[size]=3", (1, 2)),
        ("page[number]=2&page[number]=1&page[size]=7", (2, 7)),
        ("page[number]=0&page[size]=2", (1, 2)),
        ("page[number]=2&page[size]=0", (2, 30)),
        ("page[number]=999999999999999999&page[size]=2", (10**18, 2)),
        ("page[size]=99999999999999999999", (1, 10**20)),
    ],
)
@pytest.mark.parametrize("path", ["/secrets/", "/secrets", "/secrets//"])
async def test_odd_pages(running: Any, path: str, query: str, meta: tuple[int, int]) -> None:
    """The first of several counts, zero is nothing, and huge numbers are echoed as doubles."""
    async with running() as (sandbox, call):
        reply = await call.get(f"{path}?{query}", await call.impersonate(ALICE))
        listing = reply.json()
        assert (listing["meta"]["page"], listing["meta"]["perPage"]) == meta
        start = (meta[0] - 1) * meta[1]
        natural = [secret.id for secret in sandbox.world.secrets_of(ALICE)][start : start + meta[1]]
        assert [item["_id"] for item in listing["data"]] == natural
        assert listing["meta"]["total"] == 40


@pytest.mark.parametrize(
    ("query", "skip"),
    [("page[number]=-1", -60), ("page[number]=-1&page[size]=2", -4), ("page[number]=2&page[size]=-1", -1)],
)
async def test_a_page_before_the_first_is_an_error_of_the_database(
    running: Any, query: str, skip: int
) -> None:
    """500 with the database's words, not to be kept by a cache."""
    async with running() as (_, call):
        reply = await call.get(f"/secrets/?{query}", await call.impersonate(ALICE))
        said = f"BSON field 'skip' value must be >= 0, actual value '{skip}'"
        assert (reply.status, reply.json()["message"]) == (500, said)
        assert "no-store" in reply.headers["cache-control"]


@pytest.mark.observes("Second look: requests", "HEAD of the listing")
async def test_head_is_get_without_the_body_and_options_is_204(running: Any) -> None:
    """HEAD needs a token and says how long the body would be; OPTIONS needs none, on any path."""
    async with running() as (sandbox, call):
        token = await call.impersonate(ALICE)
        for path in ("/secrets/", "/secrets/?page[size]=2"):
            got, head = await call.get(path, token), await call.send("HEAD", path, token)
            assert (head.status, head.body) == (200, b"")
            for name in ("content-length", "etag", "content-type", "cache-control"):
                assert head.headers[name] == got.headers[name]
        assert (await call.send("HEAD", "/secrets/")).status == 401
        session = sandbox.world.add_secret(
            ALICE, type="SESSION_AUTH", value={"authClientId": UNKNOWN_ID, "expires": None}
        )
        assert (await call.send("HEAD", f"/secrets/{session.id}", token)).status == 200
        assert sandbox.stats().refreshes == {session.id: 1}, "HEAD logs in as GET does"
        for path in ("/secrets/", f"/secrets/{UNKNOWN_ID}", "/users/", "/impersonate", "/nothing"):
            preflight = await call.send("OPTIONS", path)
            assert (preflight.status, preflight.body) == (204, b"")
            assert preflight.headers["vary"] == "Origin, Access-Control-Request-Headers"
            assert "PATCH" in preflight.headers["access-control-allow-methods"]


@pytest.mark.observes("Second look: requests", "DELETE and PATCH of an unknown id")
@pytest.mark.parametrize("method", ["DELETE", "PATCH"])
async def test_changes_of_a_secret_are_refused_with_json(running: Any, method: str) -> None:
    """404 for an unknown id and otherwise as a GET is refused; the sandbox never changes a secret here."""
    async with running() as (sandbox, call):
        mine, token = api_key(sandbox), await call.impersonate(ALICE)
        bobs = sandbox.world.secrets_of("user-000001@tenant.example")[0]
        asked = (UNKNOWN_ID, "twelve-chars", "bad", "%zz", bobs.id, mine.id)
        statuses = [
            (await call.send(method, f"/secrets/{one}", token, json={"data": {}})).status for one in asked
        ]
        assert statuses == [404, 404, 401, 400, 403, 501]
        reply = await call.send(method, f"/secrets/{UNKNOWN_ID}", token, json={"data": {}})
        assert reply.body == EMPTY
        assert (await call.send(method, f"/secrets/{UNKNOWN_ID}")).status == 401
        assert (await call.get(f"/secrets/{mine.id}", token)).status == 200


@pytest.mark.observes("Second look: requests", "A GET with a broken JSON body")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"data":', "Unexpected end of JSON input"),
        ("[", "Unexpected end of JSON input"),
        ("{x}", "Unexpected token x in JSON at position 1"),
    ],
)
async def test_a_broken_json_body_is_refused_before_the_token_is_looked_at(
    running: Any, body: str, message: str
) -> None:
    """400 even on a GET and without a token; other content types are not read."""
    async with running() as (_, call):
        sent = {"data": body, "headers": {"Content-Type": "application/json"}}
        for token in (None, await call.impersonate(ALICE)):
            reply = await call.send("GET", "/secrets/", token, **sent)
            assert (reply.status, reply.json()["message"]) == (400, message)
            assert "vary" not in reply.headers
        text = await call.send("GET", "/secrets/", token, data=body, headers={"Content-Type": "text/plain"})
        assert text.status == 200


@pytest.mark.observes("Second look: requests", "More than 16 KB")
@pytest.mark.parametrize("kib", [17, 200])
@pytest.mark.parametrize("place", ["header", "headers", "url"])
async def test_more_than_16_kb_of_headers_or_url_is_431(running: Any, place: str, kib: int) -> None:
    """An empty body and the end of the connection; one kilobyte less is served."""
    async with running() as (sandbox, call):
        token = await call.impersonate(ALICE)

        async def send(size: int) -> Any:
            headers = {
                "header": {"x-0": "h" * size},
                "headers": {f"x-{number}": "h" * (size // 8) for number in range(8)},
                "url": {},
            }
            query = "u" * size if place == "url" else ""
            return await call.get(f"/secrets/?q={query}", token, headers=headers[place])

        refused = await send(kib * 1024)
        assert (refused.status, refused.body) == (431, b"")
        assert refused.headers["connection"] == "close"
        assert "content-type" not in refused.headers
        assert (await send(15 * 1024)).status == 200
        assert sandbox.stats().requests["GET /secrets/"] == {431: 1, 200: 1}


@pytest.mark.observes("Second look: requests", "`Vary: Origin`")
async def test_answers_speak_of_origins_and_iam_refuses_foreign_ones(running: Any) -> None:
    """Good answers, errors and unknown routes; IAM knows its own origin only."""
    async with running() as (sandbox, call):
        token, foreign = await call.impersonate(ALICE), "https://elsewhere.example"
        for path in ("/secrets/", f"/secrets/{UNKNOWN_ID}", "/nothing"):
            plain = await call.get(path, token)
            assert plain.headers["vary"] == "Origin"
            assert plain.headers["access-control-allow-credentials"] == "true"
            assert "access-control-allow-origin" not in plain.headers
            asked = await call.get(path, token, headers={"Origin": foreign})
            assert asked.headers["access-control-allow-origin"] == foreign
            assert asked.status == plain.status
        for origin, status in ((foreign, 500), (sandbox.url, 200)):
            reply = await call.get("/users/", sandbox.admin_token, headers={"Origin": origin})
            assert reply.status == status
            assert status == 200 or reply.json() == {"message": "Not allowed by CORS"}
