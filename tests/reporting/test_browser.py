"""The page in a real browser, headless: it fits 1280 and 400 pixels, light and dark, and asks for nothing."""

import contextlib
import json
import socket
import subprocess
import time
import urllib.request

import anyio
import pytest

from flowmate_async import FlowMate, open_store
from flowmate_async.reporting import recording, write_report
from flowmate_async.sandbox import Faults, Sandbox, SandboxOptions, faults

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LOOK = """
const box = element => element.getBoundingClientRect();
const wide = [...document.querySelectorAll('body *')].filter(
  element => !element.closest('.scroll, svg') && box(element).right > innerWidth + 0.5);
const cards = [...document.querySelectorAll('.cards > div')].map(box);
const apart = (one, two) => one.left >= two.right - 1 || two.left >= one.right - 1
  || one.top >= two.bottom - 1 || two.top >= one.bottom - 1;
const overlapping = cards.some((one, i) => cards.slice(i + 1).some(two => !apart(one, two)));
const numbers = [...document.querySelectorAll('.cards dd data')];
return {
  width: innerWidth, scrolled: document.documentElement.scrollWidth,
  wide: wide.map(one => one.outerHTML.slice(0, 80)),
  cards: cards.length, overlapping, paper: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.body).color, columns: new Set(cards.map(one => Math.round(one.left))).size,
  clipped: numbers.filter(one => box(one).right > box(one.parentElement).right + 0.5).length,
  plots: [...document.querySelectorAll('.plot svg')].map(one => box(one).height),
  sideways: [...document.querySelectorAll('.scroll:not(.numbers *)')].filter(
    one => one.scrollWidth > one.clientWidth + 1).map(one => one.innerHTML.slice(0, 80)),
  ends: [...document.querySelectorAll('#slowest td:last-child')].filter(one => box(one).width > 0).length,
  fetched: performance.getEntriesByType('resource').length,
};
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with everything in it: failures, throttling, all charts."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    anyio.run(sync_with_faults, path)
    return path.as_uri()


async def sync_with_faults(path):
    failing = faults.Error(share=0.05, status=500, routes=("GET /secrets/{id}",))
    rules = (failing, faults.Throttle(at_most=2, skip=300, retry_after="none"))
    options = SandboxOptions(users=60, seed=7, faults=Faults(rules=rules, seed=7))
    async with (
        Sandbox(options) as twin,
        open_store("memory:") as store,
        FlowMate(admin_token=twin.admin_token, base_url=twin.url, rate=2000, burst=50) as fm,
    ):
        with recording(fm.stats) as recorder:
            report = await fm.sync(store)
        await write_report(path, store, report=report, error=None, observed=recorder.observation())
    assert report.failed


class Browser:
    """A session of chromedriver, spoken to over its own HTTP."""

    def __init__(self, port, *, dark, width, profile):
        self.base = f"http://127.0.0.1:{port}"
        scheme = "--blink-settings=preferredColorScheme=" + ("0" if dark else "1")
        arguments = [*FLAGS, scheme, f"--window-size={width},900", f"--user-data-dir={profile}"]
        wanted = {"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.base += f"/session/{made['sessionId']}"
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}
        self.ask("POST", "/goog/cdp/execute", command)

    def ask(self, method, path, body=None):
        request = urllib.request.Request(
            self.base + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def look_at(self, url):
        self.ask("POST", "/url", {"url": url})
        seen = self.ask("POST", "/execute/sync", {"script": LOOK, "args": []})
        seen["log"] = [entry["message"] for entry in self.ask("POST", "/se/log", {"type": "browser"})]
        return seen


@pytest.fixture(scope="module")
def driver(program):
    path = program("chromedriver", package="chromium-driver")
    program("chromium", package="chromium")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([path, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert time.monotonic() < deadline, "chromedriver does not start"
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.mark.parametrize(("width", "columns"), [(1280, 4), (400, 2)])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_its_window(driver, page, tmp_path, width, columns, dark):
    browser = Browser(driver, dark=dark, width=width, profile=tmp_path / "profile")
    try:
        seen = browser.look_at(page)
    finally:
        browser.ask("DELETE", "")
    assert seen["width"] == width
    assert seen["scrolled"] <= width, seen["wide"]
    assert seen["wide"] == []
    assert (seen["columns"], seen["overlapping"], seen["clipped"]) == (columns, False, 0)
    assert seen["sideways"] == []
    assert seen["ends"] == 20, "it does not say of the slowest users how they ended"
    assert seen["cards"] >= 8
    assert len(seen["plots"]) == 1 + 4 + 4, "when credentials broke, what happened over time, latencies"
    assert min(seen["plots"]) > 100
    # The style sheet passed its own policy, and follows the reader's scheme.
    assert seen["paper"] == ("rgb(16, 21, 27)" if dark else "rgb(246, 247, 249)")
    assert seen["ink"] == ("rgb(230, 235, 240)" if dark else "rgb(22, 32, 43)")
    assert seen["fetched"] == 0
    assert seen["log"] == []
