"""The page of a name of traces in a real browser: what senders say is text there, nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, async_playwright

from tests.contracts.fabric_server import harbour
from tests.http.http_host import API, HttpHost, answering
from tests.http.trace_sender import Sender

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
EVIL = (
    b"<script>document.title='owned'</script><img src=x onerror=alert(1)> &amp;\n"
    b"\x1b]0;owned\x07\x1b[2J\x1b[3;4H\x1b[31;1mred\x1b[0m \x1b[38;2;1;2;3mrgb\x1b[0m \x1bP never\n"
    b"10%\r100%\n"
    b"\x07\x00nul \xe2\x80\xaebidi\n"
)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[HttpHost]:
    async with harbour(tmp_path) as place, answering(place.root, place.server.url) as host:
        yield host


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One for all tests; each has a context of its own, which shares nothing with others."""
    if not shutil.which(CHROMIUM):
        pytest.skip("no browser: apt install chromium")
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        await found.close()


@contextlib.asynccontextmanager
async def browsing(
    browser: Browser, host: HttpHost, path: str, *, token: str = API
) -> AsyncIterator[Page]:
    """A page on which nothing may go wrong."""
    wrong: list[str] = []
    async with await browser.new_context(viewport={"width": 390, "height": 844}) as context:
        page = await context.new_page()
        page.set_default_timeout(45_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        secret = f"#access_token={token}" if token else ""
        await page.goto(f"http://127.0.0.1:{host.port}{path}{secret}")
        yield page
    assert not wrong, wrong


async def test_the_page_shows_senders_live_and_runs_nothing_of_what_they_say(
    browser: Browser, host: HttpHost
) -> None:
    async with browsing(browser, host, "/trace/deploy") as page:
        await page.wait_for_selector("#waiting:not([hidden])")
        assert "tt -n deploy" in await page.inner_text("#waiting-command")
        evil, other = (Sender(host.port, id=id) for id in ("<i>web</i>", "db-1"))
        await evil.begin()
        await evil.say(EVIL)
        await evil.say(b"to stderr\n", "stderr")
        await other.begin()
        await page.wait_for_selector(".pane >> nth=1")
        await evil.end(signal=15)
        await page.wait_for_selector(".line.end.failed")
        pane = page.locator(".pane").first
        assert await pane.locator("h3").inner_text() == "<i>web</i>"
        assert await pane.locator(".line.stdout").all_inner_texts() == [
            "<script>document.title='owned'</script><img src=x onerror=alert(1)> &amp;",
            "red rgb",
            "100%",
            "·nul \u202ebidi",
        ]
        assert await pane.locator(".line.stderr").all_inner_texts() == ["to stderr"]
        red = pane.locator("span.f1.bold")
        assert await red.inner_text() == "red"
        rgb = await pane.locator("span", has_text="rgb").evaluate("e => getComputedStyle(e).color")
        assert rgb == "rgb(1, 2, 3)"
        end = await pane.locator(".line.end").inner_text()
        assert "signal 15 (SIGTERM), code 143" in end
        assert await page.locator("script, .log img, .log i").count() == 1  # our own
        assert "owned" not in await page.title()
        # what is detached is put away, and comes back whole
        await page.locator(".sender", has_text="web").click()
        assert await page.locator(".pane").count() == 1
        await page.locator(".sender", has_text="web").click()
        assert await page.locator(".line.stderr").count() == 1
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, "the page is wider than a phone"


LONG = (
    b"9" * 400_000 + b"\n\x1b[48;2;10;20;200mdeep\x1b[48;5;255mpale\x1b[44mown\x1b[37mboth\x1b[0m\n"
)


async def test_a_page_that_follows_is_at_the_end_and_no_text_has_the_colour_of_its_ground(
    browser: Browser, host: HttpHost
) -> None:
    sender = Sender(host.port)
    await sender.begin()
    await sender.say(LONG)
    await sender.end(code=0)
    async with browsing(browser, host, "/trace/deploy") as page:
        await page.wait_for_selector(".line.end")
        away = "e => e.scrollHeight - e.scrollTop - e.clientHeight < 2"
        log = await page.query_selector(".log")
        await page.wait_for_function(away, arg=log)
        colour = "e => getComputedStyle(e).color"
        shown = [
            await page.locator("span", has_text=word).evaluate(colour)
            for word in ("deep", "pale", "own")
        ]
        panel = await page.locator(".pane").first.evaluate(
            "e => getComputedStyle(e).backgroundColor"
        )
        assert shown == ["rgb(255, 255, 255)", "rgb(0, 0, 0)", panel]
        assert await page.locator("span.f7.b4").inner_text() == "both"


@contextlib.asynccontextmanager
async def living(sender: Sender) -> AsyncIterator[None]:
    """A sender that is heard of, however long a browser takes to begin."""

    over = asyncio.Event()

    async def live() -> None:
        while not over.is_set():
            await sender.segments(b"")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await over.wait()

    beats = asyncio.create_task(live())
    try:
        yield
    finally:
        over.set()
        await beats


async def test_what_goes_on_stands_before_what_is_over(browser: Browser, host: HttpHost) -> None:
    names = ("first", "second", "going", "new")
    first, second, going, new = (Sender(host.port, id=id) for id in names)
    for one in (first, second, going):
        await one.begin()
    await first.end(code=0)
    await second.end(code=1)
    async with living(going), browsing(browser, host, "/trace/deploy") as page:
        shown = "() => [...document.querySelectorAll('.pane h3')].map((e) => e.textContent).join()"
        await page.wait_for_function(f"() => ({shown})() === 'going,second,first'")
        chips = await page.locator(".sender b").all_inner_texts()
        assert chips == ["going", "second", "first"]
        await new.begin()
        await page.wait_for_function(f"() => ({shown})() === 'going,new,second,first'")
        await new.end(code=0)
        await page.wait_for_selector(".sender[data-state=succeeded] >> text=new")
        assert await page.evaluate(f"({shown})()") == "going,new,second,first"


async def test_a_name_is_picked_and_a_token_is_asked_for(browser: Browser, host: HttpHost) -> None:
    sender = Sender(host.port, name="nightly")
    await sender.begin()
    async with browsing(browser, host, "/trace") as page:
        assert "nightly" in await page.locator("#recent a").inner_text()
        await page.fill("#pick-name", "deploy")
        await page.click("#pick-form button")
        await page.wait_for_selector("#waiting:not([hidden])")
        assert page.url.endswith(f"/trace/deploy#access_token={API}")
    async with browsing(browser, host, "/trace/nightly", token="") as page:
        await page.fill("#token-text", API)
        await page.click("#token-form button")
        await page.wait_for_selector(".pane")
        assert API not in page.url


async def test_a_link_whose_token_is_not_valid_says_so(browser: Browser, host: HttpHost) -> None:
    noted = pytest.raises(AssertionError, match="401")  # the browser's own note of the answer
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(noted)
        page = await stack.enter_async_context(
            browsing(browser, host, "/trace/nightly", token="qd_old")
        )
        await page.locator("#token-why", has_text="has expired, or was revoked").wait_for()


async def test_nothing_of_the_page_comes_from_elsewhere_and_who_may_frame_it_is_said(
    tmp_path: Path,
) -> None:
    async with harbour(tmp_path) as place:
        async with answering(place.root, place.server.url) as host:
            page = await host.ask("/trace/deploy", token="")
            policy = page.headers["content-security-policy"]
            assert "default-src 'none'; script-src 'self';" in policy
            assert "frame-ancestors 'none'" in policy and "unsafe" not in policy
            assert page.headers["x-frame-options"] == "DENY"
            assert b"<style" not in page.body and b"style=" not in page.body
            again = await host.ask("/trace", token="", more={"If-None-Match": page.headers["etag"]})
            assert again.status == 304
            assert (await host.ask("/pages/trace.html", token="")).status == 404
            assert (await host.ask("/pages/..%2fapp.py", token="")).status == 404
        site = "https://dash.example.org"
        settings = {"frame_ancestors": site, "cors_origins": site}
        async with answering(place.root, place.server.url, **settings) as host:
            page = await host.ask("/trace/deploy", token="")
            assert f"frame-ancestors {site}" in page.headers["content-security-policy"]
            assert "x-frame-options" not in page.headers
            for origin, allowed in ((site, site), ("https://x.org", None)):
                path = "/v1/trace/deploy/stream?follow=false"
                answer = await host.ask(path, more={"Origin": origin})
                assert answer.headers.get("access-control-allow-origin") == allowed
