"""A Chromium without a window, driven over its debugging pipe, and a page in it that is a host of MCP Apps.

The host speaks what the specification of MCP Apps asks of one (2026-01-26): it answers ``ui/initialize``, passes on the tool's
input and result, proxies ``tools/call`` to a real server, and shows the app in a sandboxed frame under the strictest policy a
host may set.
"""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from mcp.shared.exceptions import MCPError

Message = dict[str, Any]
Proxy = Callable[[str, Message], Awaitable[Message]]

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WITHIN_S = 20.0

POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; media-src 'self' data:; connect-src 'none'"
)
"""What a host sets for an app that asks for no domain."""

HOST = """<!doctype html><style>body{margin:0}iframe{border:0;width:100vw;height:100vh;display:block}</style>
<iframe id="app" sandbox="allow-scripts"></iframe><script>
const frame = document.getElementById("app");
window.sizes = []; window.models = []; window.heard = [];
const post = (message) => frame.contentWindow.postMessage({jsonrpc: "2.0", ...message}, "*");
window.begin = (html, context, can, input, result) => {
  window.addEventListener("message", (event) => {
    if (event.source !== frame.contentWindow) return;
    const {id, method, params} = event.data;
    window.heard.push(method);
    if (method === "ui/initialize") {
      post({id, result: {protocolVersion: params.protocolVersion, hostInfo: {name: "t", version: "0"}, hostCapabilities: can, hostContext: context}});
    } else if (method === "ui/notifications/initialized") {
      post({method: "ui/notifications/tool-input", params: {arguments: input}});
      post({method: "ui/notifications/tool-result", params: result});
    } else if (method === "ui/notifications/size-changed") window.sizes.push(params);
    else if (method === "ui/update-model-context") { window.models.push(params); post({id, result: {}}); }
    else if (method === "tools/call") ask(JSON.stringify({id, name: params.name, arguments: params.arguments}));
    else if (id !== undefined && method) post({id, error: {code: -32601, message: "Method not found"}});
  });
  frame.srcdoc = html;
};
window.answer = (id, result) => post({id, result});
window.tell = (method, params) => post({method, params});
</script>"""


_CAN: Message = {"serverTools": {}, "updateModelContext": {"text": {}}}


def program() -> str | None:
    """Where this machine's Chromium is."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


@dataclass
class Browser:
    """One page of a Chromium."""

    writer: asyncio.StreamWriter
    session: str = ""
    frames: dict[str, int] = field(default_factory=dict[str, int])
    complaints: list[str] = field(default_factory=list[str])
    """What the page logged as an error, a policy's refusals among it."""
    proxy: Proxy | None = None
    _waiting: dict[int, "asyncio.Future[Message]"] = field(default_factory=dict[int, "asyncio.Future[Message]"])
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set["asyncio.Task[None]"])

    async def send(self, method: str, **params: Any) -> Message:
        """One command, and its result."""
        number = len(self._waiting) + 1
        self._waiting[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params}
        self.writer.write(
            json.dumps({**message, **({"sessionId": self.session} if self.session else {})}).encode() + b"\0"
        )
        with anyio.fail_after(WITHIN_S):
            answer = await self._waiting[number]
        assert "error" not in answer, (method, answer)
        return answer["result"]

    async def read(self, reader: asyncio.StreamReader) -> None:
        """Take in what the browser says, until it ends."""
        while True:
            try:
                message: Message = json.loads((await reader.readuntil(b"\0"))[:-1])
            except asyncio.IncompleteReadError:
                return
            if "id" in message:
                self._waiting[message["id"]].set_result(message)
            else:
                self._heard(message["method"], message["params"])

    def _heard(self, event: str, told: Message) -> None:
        match event:
            case "Runtime.executionContextCreated":
                context = told["context"]
                self.frames[context["auxData"]["frameId"]] = context["id"]
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(told["exceptionDetails"])[:1000])
            case "Log.entryAdded" if told["entry"]["level"] == "error":
                self.complaints.append(told["entry"]["text"])
            case "Runtime.bindingCalled" if self.proxy:
                task = asyncio.get_running_loop().create_task(self._proxied(self.proxy, json.loads(told["payload"])))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case _:
                pass

    async def _proxied(self, proxy: Proxy, asked: Message) -> None:
        with contextlib.suppress(MCPError):  # the page looks on while a test ends its server
            result = await proxy(asked["name"], asked["arguments"])
            await self.script(f"answer({json.dumps(asked['id'])}, {json.dumps(result)})")

    async def open(self, address: str, *, width: int, height: int, dark: bool = False) -> None:
        """Go to a page, in a window of this size."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.send("Emulation.setEmulatedMedia", features=scheme)
        await self.send("Page.navigate", url=address)

    async def host(
        self,
        html: str,
        proxy: Proxy,
        about: Message,
        *,
        width: int = 900,
        height: int = 900,
        theme: str = "light",
        can: Message | None = None,
    ) -> None:
        """Show an app beside the answer of ``get_status``, as a host does."""
        self.proxy = proxy
        await self.open("about:blank", width=width, height=height)
        frame = (await self.send("Page.getFrameTree"))["frameTree"]["frame"]["id"]
        await self.send("Page.setDocumentContent", frameId=frame, html=HOST)
        strict = html.replace("<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{POLICY}">', 1)
        given = [strict, {"theme": theme}, _CAN if can is None else can, about, await proxy("get_status", about)]
        await self.script(f"begin({', '.join(json.dumps(each) for each in given)})")

    async def script(self, text: str, *, inside: bool = False) -> Any:
        """The value of an expression in the page, or ``inside`` the app's frame."""
        where: Message = {}
        if inside:
            tree = (await self.send("Page.getFrameTree"))["frameTree"]
            where = {"contextId": self.frames[tree["childFrames"][0]["frame"]["id"]]}
        found = await self.send("Runtime.evaluate", expression=text, returnByValue=True, awaitPromise=True, **where)
        assert "exceptionDetails" not in found, (text, found)
        return found["result"].get("value")

    async def until(self, text: str, *, inside: bool = False) -> Any:
        """Wait until an expression is true."""
        with anyio.fail_after(WITHIN_S):
            while True:
                try:
                    if found := await self.script(text, inside=inside):
                        return found
                except (AssertionError, KeyError):  # the page is being loaded
                    pass
                await anyio.sleep(0.05)

    async def key(self, name: str) -> None:
        """Press a key."""
        codes = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "ArrowLeft": 37, "Escape": 27}
        text = {"text": "\r"} if name == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            await self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                code=name,
                windowsVirtualKeyCode=codes[name],
                **(text if kind == "keyDown" else {}),
            )

    async def picture(self, path: Path, height: int) -> None:
        """What is shown, as a PNG."""
        clip = {"x": 0, "y": 0, "width": await self.script("innerWidth"), "height": height, "scale": 1}
        shot = await self.send("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def chromium(profile: Path) -> AsyncGenerator[Browser]:
    """A browser with one empty page; ended and waited for."""
    found = program()
    assert found is not None
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()

    def at_their_places() -> None:
        first, second = os.dup(theirs_in), os.dup(theirs_out)
        os.dup2(first, 3)
        os.dup2(second, 4)

    command = [
        found, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe",
        "--disable-features=IsolateSandboxedIframes", "--disable-background-networking", f"--user-data-dir={profile}",
    ]  # fmt: skip
    process = subprocess.Popen(  # noqa: ASYNC220 - its pipe has to be at two given places
        command,
        close_fds=False,
        preexec_fn=at_their_places,  # noqa: PLW1509
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 26)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours_in, "rb"))
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(ours_out, "wb"))
    browser = Browser(asyncio.StreamWriter(transport, protocol, None, loop))
    listening = loop.create_task(browser.read(reader))
    try:
        target = (await browser.send("Target.createTarget", url="about:blank"))["targetId"]
        browser.session = (await browser.send("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await browser.send(f"{domain}.enable")
        await browser.send("Runtime.addBinding", name="ask")
        yield browser
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 20)
        listening.cancel()
        transport.close()
