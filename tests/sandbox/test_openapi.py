"""The description at `/openapi.json` is true: generated requests, right and wrong, get described answers."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import requests
import schemathesis
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from flowmate_async.sandbox import Sandbox, SandboxOptions, faults
from flowmate_async.sandbox.openapi import document
from flowmate_async.sandbox.routes import ROUTES, UNKNOWN, route_of

ALICE = "user-000000@tenant.example"
SCHEMA = schemathesis.openapi.from_dict(document())
OPERATIONS = {operation.ok().label: operation.ok() for operation in SCHEMA.get_all_operations()}
MODES = list(schemathesis.GenerationMode)

# Not among them: `unsupported_method` wants 405 where the services say 404, and those that expect bad
# input to be refused: the services take nonsense for defaults (docs/contract/OBSERVED.md § Listing).
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
NEVER_A_500 = {"POST /impersonate", "GET /secrets/{id}"}
FEW = settings(
    max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
)


class Served:
    """A sandbox in a separate thread, and a session to call it."""

    def __init__(self, sandbox: Sandbox, session: requests.Session) -> None:
        self.sandbox, self.session = sandbox, session
        user = sandbox.world.user(ALICE)
        assert user is not None
        self.user_id = user.id
        self.user_token = sandbox.world.tokens.issue(user).token

    def token_for(self, label: str) -> str:
        return self.user_token if "/secrets/" in label else self.sandbox.admin_token

    def check(self, case: Any, label: str, *, more: tuple[Any, ...] = (), token: str | None = None) -> Any:
        headers = {"Authorization": f"Bearer {token or self.token_for(label)}"}
        return case.call_and_validate(
            base_url=self.sandbox.url, headers=headers, session=self.session, checks=[*CHECKS, *more]
        )


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A sandbox that users may be created in."""
    options = SandboxOptions(users=40, create_users_on_impersonate=True, idle_close_seconds=60)
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(Sandbox(options)) as sandbox,
        requests.Session() as session,
    ):
        yield Served(sandbox, session)


def test_every_route_is_described_and_nothing_else() -> None:
    """The description and the routes name the same."""
    assert set(OPERATIONS) == set(ROUTES) - {UNKNOWN}


def test_the_description_is_served_uncounted_and_unasked(served: Served) -> None:
    """Without a token; the statistics know nothing of it."""
    before = served.sandbox.stats().total_requests()
    reply = served.session.get(f"{served.sandbox.url}/openapi.json")
    assert reply.json() == msgspec.json.decode(msgspec.json.encode(document()))
    assert served.sandbox.stats().total_requests() == before
    assert route_of("GET", "/openapi.json").template == UNKNOWN


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_generated_requests_get_described_answers(served: Served, label: str, mode: Any) -> None:
    """Good and bad ids, names, pages and bodies: every status, type and body is in the description."""

    @FEW
    @given(case=OPERATIONS[label].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        served.check(case, label, more=(not_a_server_error,) if label in NEVER_A_500 else ())

    check()


def test_every_secret_and_user_there_is_looks_as_described(served: Served) -> None:
    """The good answers, which a generated id hardly ever meets: all types, refreshed, stored and failed."""
    served.sandbox.world.secrets_of(ALICE)[0].current_error = {"error": "bad_refresh_token"}
    assert served.check(OPERATIONS["GET /secrets/"].Case(), "GET /secrets/").status_code == 200
    for label, ids in (
        ("GET /secrets/{id}", [secret.id for secret in served.sandbox.world.secrets_of(ALICE)]),
        ("GET /users/{id}", [user.id for user in served.sandbox.world.users()]),
    ):
        for object_id in ids:
            case = OPERATIONS[label].Case(path_parameters={"id": object_id})
            assert served.check(case, label).status_code == 200


@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_a_wrong_token_gets_a_described_refusal(served: Served, label: str) -> None:
    """401 without and with an unknown one, 403 for somebody else's kind."""
    parameters = {"path_parameters": {"id": "0" * 24}} if "{id}" in label else {}
    body = {"body": {"username": ALICE}, "media_type": "application/json"} if "POST" in label else {}
    case = OPERATIONS[label].Case(**parameters, **body)
    assert served.check(case, label, token="stranger").status_code == 401
    if "/secrets/" not in label:
        assert served.check(case, label, token=served.user_token).status_code == 403
    served.check(case, label, more=(ignored_auth,))


def test_an_answer_that_is_not_described_fails_the_check(served: Served) -> None:
    """The checks can fail: a fault makes them."""
    case = OPERATIONS["GET /secrets/"].Case()
    served.sandbox.configure(faults=faults.Faults(rules=(faults.Html(),)))
    try:
        with pytest.raises(schemathesis.core.failures.FailureGroup, match="text/html"):
            served.check(case, "GET /secrets/")
    finally:
        served.sandbox.configure(faults=faults.Faults())
