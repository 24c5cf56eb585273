"""(b) What the parts cost by themselves: a cache hit, a flight, the decoding of an answer.

Each is measured in turn with what it is compared with, in one process, and the medians of the rounds count.

- *hit*, *one flight*: see credentials.py.
- *flight alone*: `get_secret` over a transport in memory that answers at once, against awaiting that answer.
- *decode*: one answer (canned, 671 bytes) to the access token in it. *library* is all that this library does
  with a body: envelope, type by tag, dates, mask detection, refresh fields dropped. The others read into a
  struct or model of the fields that matter, or into dictionaries.
"""

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import credentials
import uvloop
from peers.reading import access_token

from flowmate_async import FlowMate
from flowmate_async.bench.canned import ACCESS_TOKEN, ANSWERS, SECRET_ID
from flowmate_async.contract.answers import read_secret
from flowmate_async.contract.protocol import get_secret
from flowmate_async.testing.memory_transport import MemoryTransport, json_response
from flowmate_async.transport.base import Response

Decode = Callable[[], str]


def decoders() -> tuple[dict[str, Decode], dict[str, str]]:
    """Ways from the body to the access token, and those that are not installed here."""
    body, headers = ANSWERS[f"/secrets/{SECRET_ID}"]
    response = Response(200, {name.lower(): value for name, value in headers}, body)
    request = get_secret(SECRET_ID)
    ways: dict[str, Decode] = {
        "library": lambda: read_secret(response, request).value.access_token,
        "msgspec, struct": lambda: access_token(body),
        "json": lambda: json.loads(body)["data"]["value"]["accessToken"],
    }
    missing = {}
    for name, make in {"orjson": _orjson, "pydantic": _pydantic}.items():
        if importlib.util.find_spec(name):
            ways |= make(body)
        else:
            missing[name] = "not installed"
    return ways, missing


def _orjson(body: bytes) -> dict[str, Decode]:
    import orjson  # noqa: PLC0415 - may be missing

    return {"orjson": lambda: orjson.loads(body)["data"]["value"]["accessToken"]}


def _pydantic(body: bytes) -> dict[str, Decode]:
    from pydantic import BaseModel, Field  # noqa: PLC0415 - may be missing

    class Value(BaseModel):
        access_token: str = Field(alias="accessToken")

    class Secret(BaseModel):
        type: str
        value: Value

    class Envelope(BaseModel):
        data: Secret

    return {"pydantic, model": lambda: Envelope.model_validate_json(body).data.value.access_token}


def decode(rounds: int, calls: int) -> dict[str, Any]:
    """Microseconds an answer, each way."""
    ways, missing = decoders()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            assert way() == ACCESS_TOKEN
            began = time.perf_counter()
            for _ in range(calls):
                way()
            taken[name].append((time.perf_counter() - began) / calls * 1e6)
    return {
        "us": {name: round(statistics.median(times), 2) for name, times in taken.items()},
        "missing": missing,
    }


async def flight_alone(rounds: int, calls: int) -> dict[str, float]:
    """Microseconds that flight and engine cost a caller whom nobody joins, above the transport."""
    answers = {
        "POST": json_response(b'{"token":"token"}'),
        "GET": json_response(ANSWERS[f"/secrets/{SECRET_ID}"].body),
    }

    async def upstream(method: str, *_: object) -> Response:
        return answers[method]

    async with FlowMate(admin_token="admin", transport=MemoryTransport(upstream), rate=None) as fm:
        await fm.impersonate("ali")
        bare, flown = [], []
        for _ in range(rounds):
            bare.append(await _each(lambda: upstream("GET"), calls))
            flown.append(await _each(lambda: fm.get_secret("ali", SECRET_ID), calls))
    return {
        "bare_us": round(statistics.median(bare), 2),
        "flight_us": round(statistics.median(flown) - statistics.median(bare), 2),
    }


async def _each(call: Callable[[], Awaitable[object]], calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        await call()
    return (time.perf_counter() - began) / calls * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--calls", type=int, default=20_000, help="a round")
    parser.add_argument("--waiters", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = {
        "hit": uvloop.run(credentials.hits(options.rounds, options.calls)),
        "one_flight": uvloop.run(credentials.waiters(options.rounds, options.waiters)),
        "flight_alone": uvloop.run(flight_alone(options.rounds, options.calls)),
        "decode": decode(options.rounds, options.calls),
    }
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
