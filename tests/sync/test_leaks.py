"""A whole sync with every kind of failure, and not one credential or token is written or shown anywhere."""

import asyncio
import io
import logging
import traceback

import msgspec
import pytest
from rich.pretty import pretty_repr

from flowmate_async import FlowMate, FlowMateError, Response, TransportError, UserFailed, open_store
from flowmate_async.engine.retry import RetryPolicy
from flowmate_async.sandbox import ProviderFault, Sandbox, SandboxOptions
from flowmate_async.testing.memory_transport import (
    ImmediateMemoryTransport,
    MemoryTransport,
    json_response,
)

pytestmark = pytest.mark.anyio

PUBLIC = {"authClientId", "scope", "expires", "expiresAt", "externalId", "headerName"}


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            if name not in PUBLIC:
                yield from strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from strings(part)


class Everything(logging.Handler):
    """Keeps every record of every logger, formatted, with its arguments and all of its attributes."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.text = io.StringIO()

    def emit(self, record):
        print(self.format(record), vars(record), file=self.text)
        if record.exc_info and record.exc_info[1]:
            shown = traceback.TracebackException.from_exception(record.exc_info[1], capture_locals=True)
            self.text.writelines(shown.format())


@pytest.fixture
def logged():
    root, handler, level = logging.getLogger(), Everything(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler.text
    root.removeHandler(handler)
    root.setLevel(level)


async def test_no_credential_and_no_token_leaves_the_structs(  # noqa: C901, PLR0915 - one long run
    logged, exposed, monkeypatch
):
    tokens, shown = set(), []
    options = SandboxOptions(users=12, seed=7, lock_seconds=0.2, lock_wait_seconds=(0.01, 0.02))
    async with Sandbox(options) as sandbox:
        world = sandbox.world
        issue = type(world.tokens).issue

        def issued(table, user):
            made = issue(table, user)
            tokens.add(made.token)
            return made

        monkeypatch.setattr(type(world.tokens), "issue", issued)
        names = [user.username for user in world.users() if user.active_tenant_user]
        oauth = {
            "accessToken": "5ecr3t-access-planted",
            "refreshToken": "5ecr3t-refresh-planted",
            "expires": "2020-01-01T00:00:00Z",
        }
        for name, fault in zip(
            names, [ProviderFault.ERROR_BODY, ProviderFault.HTTP_ERROR, ProviderFault.GARBAGE], strict=False
        ):
            world.add_secret(name, type="OA2_AUTHORIZATION_CODE", value=dict(oauth)).fault = fault
        world.user(names[4]).permissions = ()  # comes back masked
        world.add_secret(names[4], type="API_KEY", value={"key": "5ecr3t-key-planted-0123"})
        world.add_secret(
            names[5], type="SIMPLE", value={"username": "5ecr3t-login", "passphrase": 5}
        )  # does not decode
        world.user(names[6]).status = "DISABLED"
        broken_listing = {"before": 0}

        def on_event(event):
            shown.append(repr(event))
            broken_listing["before"] += 1
            if broken_listing["before"] == 20:
                world.revoke_tokens()
            if broken_listing["before"] == 30:
                raise RuntimeError("a listener that fails")

        retry = RetryPolicy(base_seconds=0.01, lock_seconds=0.2, attempts=2)
        async with (
            FlowMate(
                admin_token=sandbox.admin_token, base_url=sandbox.url, rate=None, retry=retry,
                on_event=on_event,
                keep_refresh_fields=True,
            ) as fm,
            open_store("memory:") as store,
        ):  # fmt: skip
            report = await fm.sync(store, names)
            assert report.failed >= 6
            assert len(report.errors) >= 4
            shown += [
                repr(report),
                msgspec.json.encode(report).decode(),
                repr(fm.stats()),
                repr(fm),
                repr(store),
            ]
            shown += [repr(run) for run in [await store.last_run()]]
            async for checkpoint in store.checkpoints(await store.last_run()):
                shown.append(repr(checkpoint) + msgspec.json.encode(checkpoint).decode())
            async for item in store.items():
                shown.append(repr(item))
            async for outcome in fm.sweep([*names, "nobody", "bad\n"]):
                shown += [repr(outcome), pretty_repr(outcome), f"{outcome}"]
                if isinstance(outcome, UserFailed):
                    shown += [repr(outcome.error), str(outcome.error), exposed(outcome.error)]
            world.revoke_tokens()
            for name in names:
                try:
                    for summary in await fm.list_secrets(name):
                        shown.append(repr(summary))
                        shown.append(repr(await fm.get_secret(name, summary.id)))
                except FlowMateError as error:
                    shown.append(exposed(error))
        async with FlowMate(admin_token="5ecr3t-wrong-admin-token", base_url=sandbox.url, rate=None) as wrong:
            with pytest.raises(FlowMateError) as refused:
                await wrong.impersonate(names[0])
            shown.append(exposed(refused.value))
        planted = {
            text
            for user in world.users()
            for secret in world.secrets_of(user.username)
            for text in strings(secret.value)
        }
    hidden = {text for text in planted | tokens | {sandbox.admin_token, "5ecr3t"} if len(text) >= 6}
    assert len(hidden) > 100
    assert len(tokens) > 12
    everything = "\n".join(shown) + logged.getvalue()
    assert "a listener" in everything, "the log is being watched"
    assert not [text for text in hidden if text in everything]


TOKEN = "5ecr3t-user-token"


class TestFrames:
    @pytest.fixture
    def anyio_backend(self, virtual_time):
        """Virtual time: some of these errors come after all retries."""
        return virtual_time

    @pytest.mark.parametrize(
        "answer",
        [
            json_response(b"", 500),
            json_response(b'{"message":"Token not found in IAM"}', 401),
            json_response(b'{"data":"5ecr3t"}'),
            json_response(b"{5ecr3t"),
            Response(200, {"content-type": "text/html"}, b"<html>5ecr3t</html>"),
            TransportError("tls", "as scripted"),
            RuntimeError("a bug"),
            None,
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("call", ["list_secrets", "get_secret", "impersonate"])
    @pytest.mark.parametrize("way", [MemoryTransport, ImmediateMemoryTransport])
    async def test_the_frames_of_an_error_hold_no_token(self, answer, call, way, exposed):
        """Nor do the frames of a fault of the transport, which holds the header and the body."""

        async def upstream(method, path, headers, body):
            if method == "POST" and b"other" not in body:
                return json_response(msgspec.json.encode({"token": TOKEN}))
            if answer is None:  # never; the caller's patience ends it
                await asyncio.sleep(60)
            if isinstance(answer, Exception):
                raise answer
            return answer

        transport = way(upstream)
        async with FlowMate(
            admin_token="5ecr3t-admin", base_url="http://localhost", transport=transport, rate=None
        ) as fm:
            token = await fm.impersonate("u")
            with pytest.raises((FlowMateError, RuntimeError, TimeoutError)) as raised:
                async with asyncio.timeout(0.05 if answer is None else 10):
                    await {
                        "list_secrets": lambda: fm.list_secrets("u"),
                        "get_secret": lambda: fm.get_secret("u", "s"),
                        "impersonate": lambda: fm.impersonate("other"),
                    }[call]()
        assert token.token == TOKEN
        shown = exposed(raised.value) + repr(token)
        seen = "_transport.py" if isinstance(answer, RuntimeError) else f"in {call}"
        assert seen in shown, "the frames that hold the header were looked at"
        assert "5ecr3t" not in shown
