"""The benchmarks use realistic answers: canned answers against the sandbox's."""

import aiohttp
import msgspec
import pytest

from flowmate_async import FlowMate, OAuth2Secret
from flowmate_async.bench.canned import ACCESS_TOKEN, ADMIN_TOKEN, ANSWERS, SECRET_ID, SECRET_IDS, USER_TOKEN
from flowmate_async.bench.static_server import running_server
from flowmate_async.sandbox import Sandbox, SandboxOptions

pytestmark = pytest.mark.anyio
OAUTH = "OA2_AUTHORIZATION_CODE"
VALUE = {  # as docs/contract documents it
    "authClientId": "6b04797823ada047ee5701ec",
    "accessToken": "t" * len(ACCESS_TOKEN),
    "refreshToken": "a refresh token",
    "scope": "read write",
    "expires": "2099-11-23T18:35:52.322Z",
    "externalId": "ext-1-3",
}


def shape(content):
    """Names and types all the way down, of lists their first item's."""
    if isinstance(content, dict):
        return {name: shape(part) for name, part in content.items()}
    if isinstance(content, list):
        return [shape(content[0])]
    return type(content).__name__


@pytest.fixture
async def twin():
    async with Sandbox(SandboxOptions(empty_world=True)) as sandbox:
        sandbox.world.add_user("ali")
        for _ in SECRET_IDS:
            sandbox.world.add_secret("ali", type=OAUTH, value=VALUE)
        yield sandbox


async def answers_of(twin) -> dict[str, tuple[dict, dict]]:
    """The sandbox's headers and content, by the canned answers' paths."""
    async with aiohttp.ClientSession(twin.url) as session:

        async def ask(method: str, path: str, token: str, **options):
            headers = {"Authorization": f"Bearer {token}"}
            async with session.request(method, path, headers=headers, **options) as answer:
                return dict(answer.headers), await answer.json()

        token = await ask("POST", "/impersonate", twin.admin_token, json={"username": "ali"})
        listing = await ask("GET", "/secrets/", token[1]["token"])
        secret = await ask("GET", f"/secrets/{listing[1]['data'][0]['_id']}", token[1]["token"])
        return {"/impersonate": token, "/secrets/": listing, f"/secrets/{SECRET_ID}": secret}


async def test_each_has_the_shape_of_the_twins_and_about_its_size(twin):
    for path, (headers, content) in (await answers_of(twin)).items():
        canned = ANSWERS[path]
        assert shape(msgspec.json.decode(canned.body)) == shape(content), path
        assert len(canned.body) == pytest.approx(int(headers["Content-Length"]), rel=0.1), path
        for name in ("Content-Type", "Cache-Control"):
            assert dict(canned.headers).get(name) == headers.get(name), (path, name)


async def test_the_library_reads_them_all():
    async with (
        running_server() as target,
        FlowMate(admin_token=ADMIN_TOKEN, base_url=target.url, rate=None) as fm,
    ):
        assert (await fm.impersonate("ali")).token == USER_TOKEN
        assert [summary.id for summary in await fm.list_secrets("ali")] == list(SECRET_IDS)
        for secret_id in SECRET_IDS:
            secret = await fm.get_secret("ali", secret_id)
            assert isinstance(secret, OAuth2Secret)
            assert (secret.id, secret.value.access_token) == (secret_id, ACCESS_TOKEN)
