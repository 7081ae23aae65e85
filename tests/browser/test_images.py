"""Images in a chat: attached, shown, sent to models that see, kept, and taken along."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from reverie.testing import ScriptedEngine
from tests.browser.conftest import WIDER, OpenPage, ask, serious
from tests.browser.test_copy_as import run
from tests.harness import Gateway, StartGateway

WIDE = {"width": 1400, "height": 1000}


@pytest.fixture
async def seeing(engine: ScriptedEngine, start_gateway: StartGateway) -> Gateway:
    """A server whose model sees images."""
    return await start_gateway(engine, backend={"vision": True})


def png(width: int, height: int, *, noise: bool = False) -> bytes:
    """A picture of this size: plain, or one that can't be compressed."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return b"%b%b%b%b" % (
            struct.pack(">I", len(data)),
            kind,
            data,
            struct.pack(">I", zlib.crc32(kind + data)),
        )

    dots = random.Random(1)
    row = b"\x20\x60\xc0" * width
    rows = b"".join(b"\0" + (dots.randbytes(3 * width) if noise else row) for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return (
        signature + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def file(name: str = "plain.png", kind: str = "image/png", content: bytes = b"") -> Any:
    return {"name": name, "mimeType": kind, "buffer": content or png(40, 30)}


def size(url: str) -> tuple[int, int]:
    """The size of a PNG in a ``data:`` URL."""
    head, data = url.split(",")
    assert head == "data:image/png;base64"
    width, height = struct.unpack(">II", base64.b64decode(data)[16:24])
    return width, height


async def attach(page: Page, *files: Any) -> None:
    before = await page.get_by_role("list", name="Attached images").get_by_role("listitem").count()
    await page.get_by_label("Choose images").set_input_files(list(files))
    await expect(
        page.get_by_role("list", name="Attached images").get_by_role("listitem")
    ).to_have_count(before + len(files))


async def give(page: Page, event: str, *, kind: str, text: str = "") -> bool:
    """Paste or drop a picture on the message's field; True if the page took it."""
    return await page.get_by_label("Your message").evaluate(
        """async (field, [event, kind, text, bytes]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(bytes)], "given.png", { type: kind }));
            if (text) transfer.items.add(text, "text/plain");
            const options = { bubbles: true, cancelable: true };
            const given = event === "paste"
                ? new ClipboardEvent(event, { ...options, clipboardData: transfer })
                : new DragEvent(event, { ...options, dataTransfer: transfer });
            return !field.dispatchEvent(given);
        }""",
        [event, kind, text, list(png(40, 30))],
    )


async def answered(page: Page, count: int = 1) -> None:
    await expect(page.locator(".figures")).to_have_count(count)


async def test_an_attached_image_is_sent_shown_and_described(
    seeing: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    page = await open_page(seeing.url)
    await attach(page, file(), file("other.png", content=png(8, 6)))
    await page.get_by_label("Image 1 shows").fill("A blue sheet")
    await page.get_by_role("button", name="Remove image 2").click()
    await expect(page.get_by_label("Your message")).to_be_focused()
    await ask(page, "What is it?")
    await answered(page)
    [message] = engine.requests[-1].body["messages"]
    image, text = message["content"]
    assert size(image["image_url"]["url"]) == (40, 30)
    assert text == {"type": "text", "text": "What is it?"}
    await expect(page.locator(".user").get_by_role("img", name="A blue sheet")).to_be_visible()
    await expect(page.get_by_role("list", name="Attached images")).to_have_count(0)


async def test_an_image_needs_no_words(
    seeing: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    page = await open_page(seeing.url, viewport=WIDE)
    await attach(page, file())
    await page.get_by_role("button", name="Send").click()
    await answered(page)
    [message] = engine.requests[-1].body["messages"]
    assert [part["type"] for part in message["content"]] == ["image_url"]
    await expect(page.get_by_role("button", name="An image", exact=True)).to_be_visible()


async def test_a_large_image_is_scaled_down_to_what_models_see(
    seeing: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    page = await open_page(seeing.url)
    await attach(page, file(content=png(4000, 1000)))
    await ask(page, "Hi")
    await answered(page)
    image = engine.requests[-1].body["messages"][0]["content"][0]
    assert size(image["image_url"]["url"]) == (1568, 392)


async def test_images_are_pasted_and_dropped(seeing: Gateway, open_page: OpenPage) -> None:
    page = await open_page(seeing.url)
    attached = page.get_by_role("list", name="Attached images").get_by_role("listitem")
    assert await give(page, "paste", kind="image/png")
    await expect(attached).to_have_count(1)
    assert await give(page, "drop", kind="image/png")
    await expect(attached).to_have_count(2)
    # Text that is pasted stays text, whatever stands beside it.
    assert not await give(page, "paste", kind="image/png", text="Words")
    await expect(attached).to_have_count(2)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (file("a.svg", "image/svg+xml", b"<svg/>"), "a.svg isn't an image that can be sent"),
        (file("a.txt", "text/plain", b"words"), "attach a JPEG, PNG, WebP or GIF"),
        (file("a.png", "image/png", b"\x89PNG no"), "a.png can't be read as an image"),
    ],
)
async def test_what_cannot_be_sent_is_refused_in_a_sentence(
    seeing: Gateway, open_page: OpenPage, given: Any, told: str
) -> None:
    page = await open_page(seeing.url)
    await page.get_by_label("Choose images").set_input_files([given])
    await expect(page.locator(".composer").get_by_role("alert")).to_contain_text(told)
    await expect(page.get_by_role("list", name="Attached images")).to_have_count(0)


async def test_a_model_that_does_not_see_gets_no_image(
    engine: ScriptedEngine, start_gateway: StartGateway, open_page: OpenPage
) -> None:
    models = [
        {"name": "eye", "backends": [{"url": engine.url, "vision": True}]},
        {"name": "blind", "backends": [{"url": engine.url}]},
    ]
    gateway = await start_gateway(models=models)
    page = await open_page(gateway.url)
    alert = page.locator(".composer .error")  # a hidden one while there is nothing to say
    await page.get_by_label("Model").select_option("blind")
    await expect(page.get_by_role("button", name="Attach images")).to_have_count(0)
    assert await give(page, "drop", kind="image/png")
    await expect(alert).to_have_text("blind doesn't see images. Choose one that does.")

    await page.get_by_label("Model").select_option("eye")
    await expect(alert).to_have_text("")
    await attach(page, file())
    await ask(page, "Hi")
    await answered(page)
    await page.get_by_label("Model").select_option("blind")
    await ask(page, "And now?")
    await expect(alert).to_contain_text(
        "This conversation has images, and blind doesn't see images"
    )
    await expect(page.get_by_label("Your message")).to_have_value("And now?")
    assert engine.generations == 1


async def test_editing_and_regenerating_keep_the_images(
    seeing: Gateway, engine: ScriptedEngine, open_page: OpenPage
) -> None:
    page = await open_page(seeing.url)
    await attach(page, file())
    await ask(page, "One")
    await answered(page)
    sent = engine.requests[-1].body["messages"][0]["content"]
    await page.get_by_role("button", name="Regenerate").click()
    await engine.wait_for(lambda e: e.generations == 2, 30)
    await answered(page)
    assert engine.requests[-1].body["messages"][0]["content"] == sent
    await page.get_by_role("button", name="Edit").click()
    await page.get_by_label("Edit your message").fill("Two")
    await page.get_by_role("button", name="Send").click()
    await engine.wait_for(lambda e: e.generations == 3, 30)
    edited = engine.requests[-1].body["messages"][0]["content"]
    assert edited == [sent[0], {"type": "text", "text": "Two"}]


async def test_images_are_kept_with_their_conversation_and_leave_and_go_with_it(
    seeing: Gateway, engine: ScriptedEngine, open_page: OpenPage, tmp_path: Path
) -> None:
    page = await open_page(seeing.url, viewport=WIDE)
    await attach(page, file())
    await page.get_by_label("Image 1 shows").fill("A blue sheet")
    await ask(page, "Look")
    await answered(page)
    sent = engine.requests[-1].body["messages"][0]
    await page.reload()
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Export").click()
    exported = tmp_path / "conversations.json"
    await (await download.value).save_as(exported)
    await page.get_by_role("button", name="Look", exact=True).click()
    await expect(page.get_by_role("img", name="A blue sheet")).to_be_visible()
    await ask(page, "Again")
    await answered(page, 2)
    assert engine.requests[-1].body["messages"][0] == sent

    other = await open_page(seeing.url, viewport=WIDE)
    await other.get_by_label("Import a file").set_input_files(exported)
    await other.get_by_role("button", name="Look", exact=True).click()
    await expect(other.get_by_role("img", name="A blue sheet")).to_be_visible()
    await other.get_by_role("button", name="Delete: Look").click()
    await other.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(other.get_by_role("article")).to_have_count(0)
    await expect(other.get_by_role("button", name="Look", exact=True)).to_have_count(0)
    assert await other.evaluate(KEPT_RECORDS) == 0


KEPT_RECORDS = """() => new Promise((resolve) => {
    indexedDB.open("reverie").onsuccess = ({ target }) => {
        const images = target.result.transaction("images").objectStore("images");
        images.count().onsuccess = (counted) => {
            target.result.close();
            resolve(counted.target.result);
        };
    };
})"""


async def test_an_image_that_is_gone_is_told_of_and_the_words_stay(
    seeing: Gateway, open_page: OpenPage
) -> None:
    page = await open_page(seeing.url, viewport=WIDE)
    foreign = {"id": "x", "alt": "A tree", "url": "http://192.0.2.1/tree.png"}
    message = {"role": "user", "content": "Look", "images": [foreign]}
    talk = {"id": "a", "changed": 1, "system": "", "messages": [message]}
    await page.evaluate(
        "(talk) => (localStorage['reverie.conversation.a'] = talk)", json.dumps(talk)
    )
    await page.reload()
    await page.get_by_role("button", name="Look", exact=True).click()
    await expect(page.locator(".user .text")).to_have_text("Look")
    await expect(page.get_by_text("An image that isn't kept any more: A tree")).to_be_visible()


async def test_copied_requests_show_images_short_and_carry_them_whole(
    seeing: Gateway, engine: ScriptedEngine, open_page: OpenPage, tmp_path: Path
) -> None:
    allowed = ["clipboard-read", "clipboard-write"]
    page = await open_page(seeing.url, viewport=WIDE, permissions=allowed)
    await attach(page, file(content=png(300, 300, noise=True)))
    await ask(page, "Hi")
    await answered(page)
    url = engine.requests[-1].body["messages"][0]["content"][0]["image_url"]["url"]
    await page.get_by_text("Copy as…").click()
    await expect(page.get_by_text("Images are cut short here.")).to_be_visible()
    shown = await page.locator("#copy-text").inner_text()
    assert url[:40] in shown
    assert url not in shown
    await page.locator(".copy-as").get_by_role("button", name="Copy").click()
    command = ""
    async with asyncio.timeout(30):
        while url not in command:
            command = await page.evaluate("navigator.clipboard.readText()")
    script = tmp_path / "copied.sh"  # an argument can't be as long as this image
    script.write_text(command)
    assert "Hello" in await run("sh", str(script))
    assert engine.requests[-1].body["messages"][0]["content"][0]["image_url"]["url"] == url
    await page.get_by_label("This conversation's request as").select_option("Livepeer SDK")
    await expect(page.locator("#copy-text")).to_contain_text("The SDK has no images")


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1400, "light")])
async def test_images_are_for_everyone(
    seeing: Gateway, open_page: OpenPage, axe: str, width: int, scheme: str
) -> None:
    page = await open_page(
        seeing.url, viewport={"width": width, "height": 800}, color_scheme=scheme
    )
    await attach(page, file(content=png(1500, 900)))
    await ask(page, "Hi")
    await answered(page)
    await attach(page, file())
    await page.get_by_label("Choose images").set_input_files([file("a.txt", "text/plain", b"a")])
    await expect(page.locator(".composer").get_by_role("alert")).not_to_be_empty()
    assert await serious(page, axe) == []
    assert await page.evaluate(WIDER) <= 0
    await expect(page.get_by_role("button", name="Send")).to_be_in_viewport()
