"""The chat page in a real Chromium, over a server with scripted answers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from edgeinfer.serve.http.safety import Access
from edgeinfer.serve.page import page_body, page_headers
from tests.serve.conftest import Server, running
from tests.serve.stub_server import Script, chunk, said, stub_server

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
WORSE = ("error", "warning")


def test_the_page_contacts_no_other_host_and_runs_only_its_script() -> None:
    text = page_body().decode()
    assert re.findall(r"(?:https?:)?//[a-z0-9]", text, re.IGNORECASE) == []
    assert re.findall(r"\son[a-z]+=\"|\sstyle=\"|innerHTML|insertAdjacentHTML|document\.write|eval\(", text) == []
    policy = page_headers()["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def script() -> Script:
    return Script(said("Hello", ", ", "there"))


@pytest.fixture
def page(browser: Browser, script: Script) -> Iterator[Page]:
    """The open page. Errors and warnings on its console fail the test, except when the server refuses a request."""
    with stub_server(script) as address:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(15_000)
        faults: list[str] = []
        page.on("console", lambda message: faults.append(message.text) if message.type in WORSE else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        hosts: set[str] = set()
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        page.goto(address)
        expect(page.locator("#model option")).to_have_count(2)
        yield page
        context.close()
        assert [text for text in faults if "Failed to load resource" not in text] == []
        assert hosts == {address.split("/")[2]}


def ask(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def answered(page: Page) -> None:
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()


def test_an_answer_is_shown_with_its_figures(page: Page, script: Script) -> None:
    ask(page, "Hi")
    answered(page)
    expect(page.locator("article.assistant .body")).to_have_text("Hello, there")
    figures = page.locator("article.assistant p.figures")
    expect(figures).to_have_text(
        "41.5 tokens/s · first after 0.12 s · 3 tokens for a prompt of 12 · "
        "6 of 9 drafts accepted (lookup, forced) · reused 7 · kept 90 · evicted 32 · exact"
    )
    expect(page.get_by_role("status")).to_have_text("Answer: Hello, there")
    ask(page, "And?")
    answered(page)
    turns = [(turn["role"], turn["content"]) for turn in script.asked[1]["messages"]]
    assert turns == [("user", "Hi"), ("assistant", "Hello, there"), ("user", "And?")]


def test_what_is_shown_is_escaped(page: Page, script: Script) -> None:
    attack = "<img src=x onerror=alert(1)><script>alert(2)</script><a href='javascript:alert(3)'>x</a>"
    script.events = [chunk({"reasoning_content": attack}), *said(attack, f"\n```{attack}\n{attack}\n```\n")]
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    ask(page, attack)
    answered(page)
    assert page.locator("article img, article script, article a").count() == 0
    assert page.locator("article.user .body").text_content() == attack
    assert attack in (page.locator("article.assistant .body").text_content() or "")
    assert page.locator("article.assistant pre code").text_content() == attack
    assert page.locator("article.assistant .reasoning").text_content() == attack
    assert page.locator("#model option").nth(1).text_content() == "<i>other</i>"


def test_an_answer_streams_and_stops(page: Page, script: Script) -> None:
    script.events, script.pause_s = (), 0.01
    ask(page, "Never end")
    expect(page.locator("article.assistant .body")).to_contain_text("word 5")
    expect(page.locator("article.assistant p.figures")).to_have_text(
        re.compile(r"^\d+00 tokens · about \d+\.\d tokens/s$")
    )
    page.keyboard.press("Escape")
    answered(page)
    assert script.left.wait(5)
    text = page.locator("article.assistant .body").text_content() or ""
    page.wait_for_timeout(200)
    assert page.locator("article.assistant .body").text_content() == text
    script.events = said("ok")
    ask(page, "Go on")
    answered(page)
    assert script.asked[1]["messages"][1] == {"role": "assistant", "content": text}


def test_a_narrow_screen_shows_the_newest_turn_without_a_scroll_to_the_side(page: Page, script: Script) -> None:
    page.set_viewport_size({"width": 400, "height": 600})
    code = "```\n" + "a line that is longer than the screen " * 5 + "\n```"
    for text in ("A story.\n" * 80, f"{'x' * 200} {code}"):
        script.events = said(text)
        ask(page, text)
        answered(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        expect(page.locator("article.assistant p.figures").last).to_be_in_viewport()
    page.get_by_role("button", name="Settings").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert page.locator("article pre").last.evaluate("(one) => one.scrollWidth > one.clientWidth")


def test_code_has_no_blank_lines_beside_it(page: Page, script: Script) -> None:
    script.events = said("So:\n\n```python\n  1 + 1\n```\n\n  Two.\n\nAnd ```x```.\n")
    ask(page, "Sum?")
    answered(page)
    assert page.locator("article.assistant .body").evaluate(
        "(body) => [...body.childNodes].map((one) => one.textContent)"
    ) == [
        "So:",
        "  1 + 1",
        "  Two.\n\nAnd",
        "x",
        ".\n",
    ]


def test_a_message_can_be_edited_and_sent_again(page: Page, script: Script) -> None:
    for text in ("one", "two"):
        ask(page, text)
        answered(page)
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("Edited message")).to_have_value("two")
    page.keyboard.press("Escape")
    expect(page.locator("article.user .body").last).to_have_text("two")
    page.get_by_role("button", name="Edit").first.click()
    page.get_by_label("Edited message").fill("three")
    page.keyboard.press("Enter")
    answered(page)
    expect(page.locator("article")).to_have_count(2)
    assert [turn["content"] for turn in script.asked[-1]["messages"]] == ["three"]
    page.get_by_role("button", name="Again").click()
    answered(page)
    assert [turn["content"] for turn in script.asked[-1]["messages"]] == ["three"]


def test_settings_are_sent_and_kept(page: Page, script: Script) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Top p").fill("0.9")
    page.get_by_label("Most tokens").fill("64")
    page.get_by_label("Let the model reason").uncheck()
    ask(page, "Hi")
    answered(page)
    asked = script.asked[0]
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (asked["temperature"], asked["top_p"], asked["max_tokens"]) == (0, 0.9, 64)
    assert asked["reasoning_effort"] == "none" and "seed" not in asked and asked["model"] == "demo"
    page.reload()
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Temperature")).to_have_value("0")
    expect(page.get_by_label("System prompt")).to_have_value("Be brief.")


def test_a_refusal_is_shown_and_the_question_is_kept(page: Page, script: Script) -> None:
    script.status, script.headers = 429, {"Retry-After": "3"}
    ask(page, "Hi")
    answered(page)
    expect(page.get_by_role("alert")).to_have_text("no <b>place</b> is free (try again in 3 s)")
    expect(page.get_by_label("Message", exact=True)).to_have_value("Hi")
    expect(page.locator("article")).to_have_count(0)
    script.status = 200
    page.keyboard.press("Enter")
    answered(page)
    expect(page.get_by_role("alert")).to_be_hidden()


@pytest.mark.parametrize("ending", ['{"error": {"message": "the engine gave up"}}', ""])
def test_an_answer_that_breaks_off_keeps_its_text(page: Page, script: Script, ending: str) -> None:
    script.events = [chunk({"content": "Half"}), *([ending] if ending else [])]
    ask(page, "Hi")
    answered(page)
    expect(page.locator("article.assistant .body")).to_have_text("Half")
    wanted = "the engine gave up" if ending else "the connection was cut before the answer ended"
    expect(page.get_by_role("alert")).to_have_text(wanted)


def test_the_page_has_dark_and_light_colors(page: Page) -> None:
    def background() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    page.emulate_media(color_scheme="light")
    light = background()
    page.emulate_media(color_scheme="dark")
    dark = background()
    assert light != dark
    page.get_by_label("Colors").select_option("light")
    assert background() == light
    page.reload()
    assert background() == light


def test_every_control_has_a_name(page: Page) -> None:
    page.get_by_role("button", name="Settings").click()
    ask(page, "Hi")
    answered(page)
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, input, select, textarea")]
          .filter((one) => !(one.labels?.length || one.textContent.trim() || one.ariaLabel)).map((one) => one.id)"""
    )
    assert unnamed == []
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.matches('button, input, select, textarea, pre, summary')")


def test_the_page_asks_for_a_token(browser: Browser) -> None:
    script = Script(said("ok"), token="secret")
    with stub_server(script) as address:
        page = browser.new_page()
        page.goto(address)
        expect(page.get_by_role("alert")).to_have_text("a token is needed")
        expect(page.get_by_label("Access token")).to_be_focused()
        page.keyboard.type("secret")
        page.keyboard.press("Tab")
        expect(page.locator("#model option")).to_have_count(2)
        expect(page.get_by_role("alert")).to_be_hidden()
        assert "secret" not in str(page.evaluate("JSON.stringify(localStorage)"))
        page.close()


def test_the_page_works_over_the_real_server(browser: Browser, server: Server) -> None:
    """The same text as for any other client, under the content policy that the server sends."""
    expected = server.chat("Tell me a story.", temperature=0, max_tokens=24).json["choices"][0]["message"]["content"]
    page = browser.new_page()
    page.goto(server.url)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Most tokens").fill("24")
    ask(page, "Tell me a story.")
    expect(page.locator("article.assistant p.figures")).to_contain_text("24 tokens for a prompt of")
    assert page.locator("article.assistant .body").text_content() == expected
    assert "kept" in (page.locator("article.assistant p.figures").text_content() or "")
    page.close()


def test_the_page_needs_no_token() -> None:
    for server in running(Access("127.0.0.1", "a-token-of-this-test-alone")):
        reply = server.ask("/")
        assert (reply.status, reply.body) == (200, page_body())
        assert reply.headers["content-security-policy"] == page_headers()["Content-Security-Policy"]
        assert server.ask("/v1/models").status == 401
