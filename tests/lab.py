"""A real JupyterLab in a real chromium, for the tests of the widgets and the benchmark of their latency."""
import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


def write_notebook(path, cells):
    """A notebook of code cells, before them one that does nothing."""
    code = [
        {
            "cell_type": "code",
            "id": f"cell{k}",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": source,
        }
        for k, source in enumerate(["0", *cells])
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    Path(path).write_text(json.dumps({"cells": code, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


def _free_port():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


def _environment(folder):
    """Settings of its own, so that neither a user's nor an earlier test's count."""
    for name, values in _SETTINGS.items():
        path = folder/"settings"/"@jupyterlab"/f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    own = {
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
    }
    return {**os.environ, **{name: str(folder/place) for name, place in own.items()}}


@contextmanager
def jupyterlab(folder, notebooks, environment=None):
    """The address of a JupyterLab that serves the folder `notebooks` and keeps its own files in `folder`; it ends
    with the block.
    """
    port = _free_port()
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--expose-app-in-browser",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=",
        "--ServerApp.disable_check_xsrf=True",
        f"--ServerApp.root_dir={notebooks}",
    ]
    log = open(folder/"jupyterlab.log", "w")
    server = subprocess.Popen(command, stdout=log, stderr=log, env={**_environment(folder), **(environment or {})})
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=5)
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, (folder / "jupyterlab.log").read_text()[
                    -2000:
                ]
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait(120)
        log.close()


@contextmanager
def chromium_page(errors, width=1500, height=1000):
    """A page of chromium; what goes wrong in it (errors of the console, exceptions, requests that leave the machine)
    is added to `errors`.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(120_000)
        page.on(
            "console",
            lambda message: (
                errors.append(f"{message.text} ({message.location.get('url')})") if message.type == "error" else None
            ),
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:"))
                else errors.append(f"request to {request.url}")
            ),
        )
        yield page
        browser.close()


_NUMBERED = (
    "[...document.querySelectorAll('.jp-InputPrompt')].filter(prompt => /\\[\\d+\\]/.test(prompt.textContent)).length"
)


def run_all(page, address, notebook, busy=0):
    """Opens a notebook of `write_notebook` and runs it; returns when each of its cells has its number, except for the
    last `busy` cells.
    """
    page.goto(f"{address}/lab/tree/{notebook}?reset")
    page.wait_for_selector("text=/Python 3.* \\| Idle/", timeout=300_000)
    cells = page.locator(".jp-Notebook .jp-Cell").count() - busy
    for _ in range(20):
        page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")   # waits for no end
        try:
            page.wait_for_function(f"{_NUMBERED} > 0", timeout=4000)      # the first cell is empty of work
            break
        except Exception:      # what is asked for before the kernel listens is lost
            continue
    wrong = (
        "[...document.querySelectorAll('.jp-OutputArea-output')].map(output => output.innerText).find(text =>"
        " text.includes('Traceback (most'))"
    )
    page.wait_for_function(f"{_NUMBERED} >= {cells} || {wrong}", timeout=300_000)
    assert not page.evaluate(wrong), page.evaluate(wrong)


class Widget:
    """One panel of `medaug.explore` on a page: its controls by their labels, its picture, its lines."""

    def __init__(self, page, place):
        self.page, self.panel = page, page.locator(".medaug-explore").nth(place)
        self.panel.scroll_into_view_if_needed()
        self.image = self.panel.locator("img.widget-image")

    def labelled(self, kind, label):
        """The control of a kind (its class) with that label."""
        return self.panel.locator(f".{kind}", has=self.page.locator(f"label:text-is('{label}')"))

    def handle(self, label):
        """The handle of a slider."""
        return self.labelled("widget-hslider", label).locator(".noUi-handle")

    def source(self):
        return self.image.get_attribute("src")

    def picture(self):
        """The picture that the browser shows: uint8 (H, W, 3)."""
        coded = self.image.evaluate("""async image => { const blob = await (await fetch(image.src)).blob(), bytes =
        new Uint8Array(await blob.arrayBuffer());
                                       let text = ''; for (const byte of bytes) text += String.fromCharCode(byte);
                                       return btoa(text); }""")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(coded))).convert("RGB"))

    def changes(self, act, timeout=120_000):
        """Does `act()`, waits for another picture, and returns (before, after)."""
        before, source = self.picture(), self.source()
        act()
        self.page.wait_for_function(
            "([image, source]) => image.src != source && image.complete",
            arg=[self.image.element_handle(), source],
            timeout=timeout,
        )
        return before, self.picture()

    def press(self, label, key):
        """Presses a key on a slider's handle."""
        self.handle(label).focus()
        self.page.keyboard.press(key)

    def choose(self, label, text):
        """Chooses from a dropdown."""
        self.labelled("widget-dropdown", label).locator("select").select_option(label=text)

    def options(self, label):
        """What a dropdown offers."""
        return [
            text.replace("\xa0", " ")
            for text in self.labelled("widget-dropdown", label).locator("option").all_inner_texts()
        ]

    def number(self, label, value):
        """Types a number into its box."""
        box = self.labelled("widget-text", label).locator("input")
        box.fill(str(value))
        box.press("Enter")

    def canvas(self):
        return self.panel.locator("canvas.medaug-canvas")

    def colours(self):
        """The canvas's colours: uint8 (H, W, 3)."""
        width, pixels = self.canvas().evaluate("""canvas => { const data = canvas.getContext("2d").getImageData(
            0, 0, canvas.width, canvas.height).data; let text = "";
            for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
            return [canvas.width, btoa(text)]; }""")
        return np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(-1, width, 4)[..., :3]

    def tool(self, name):
        self.panel.get_by_role("button", name=name, exact=True).click()

    def stroke(self, places, size=64):
        """Draws with the mouse through places (row, column) in pixels of the label map."""
        self.canvas().scroll_into_view_if_needed()
        box = self.canvas().bounding_box()
        points = [(box["x"] + column/size*box["width"], box["y"] + row/size*box["height"]) for row, column in places]
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*point, steps=6)
        self.page.mouse.up()

    def settle(self, quiet=0.4):
        """Waits until the picture has not changed for `quiet` seconds."""
        source, since = self.source(), time.monotonic()
        while time.monotonic() - since < quiet:
            time.sleep(0.05)
            if self.source() != source:
                source, since = self.source(), time.monotonic()

    def text(self):
        """What the panel says."""
        return self.panel.inner_text()

    def save(self, name):
        """Writes `name` into the box, saves, and returns the line that tells of it."""
        said = """([panel, name, before]) => [...panel.querySelectorAll('[role=status], [role=alert]')].map(line =>
        line.innerText).find(text => text.includes(name) && text != before) || null
        """
        panel, name = self.panel.element_handle(), str(name)
        before = self.page.evaluate(said, [panel, Path(name).name, None])
        box = self.labelled("widget-text", "save as").locator("input")
        box.fill(name)
        box.press("Tab")
        self.panel.get_by_role("button", name="Save").click()
        return self.page.wait_for_function(said, arg=[panel, Path(name).name, before]).json_value()


class ViewerPanel(Widget):
    """A panel with the viewer: its planes are squares of `side` pixels below a bar, side by side."""
    BAR, GAP = 20, 4

    def __init__(self, page, place, side=320):
        super().__init__(page, place)
        self.side = side
        self.ready()

    def canvas(self):
        return self.panel.locator("canvas.medaug-viewer")

    def ready(self):
        """Waits until all volumes have arrived and are drawn."""
        self.panel.locator("canvas.medaug-viewer[data-ready=yes]").wait_for()

    def place(self):
        """The voxel under the crosshair."""
        return tuple(map(int, self.canvas().get_attribute("data-place").split()))

    def readout(self):
        return self.panel.locator(".medaug-readout").inner_text()

    def spot(self, number, x, y):
        """The place on the screen of the canvas's pixel (x, y) inside the plane `number`."""
        self.canvas().scroll_into_view_if_needed()
        box = self.canvas().bounding_box()
        scale = box["width"]/self.canvas().evaluate("canvas => canvas.width")
        return box["x"] + scale*(number*(self.side + self.GAP) + x), box["y"] + scale*(self.BAR + y)

    def drawn(self, act):
        """Does `act()`, waits until the canvas is drawn again, and returns the colours before and after."""
        before, count = self.colours(), int(self.canvas().get_attribute("data-drawn"))
        act()
        self.page.wait_for_function("([canvas, count]) => Number(canvas.dataset.drawn) > count && canvas.dataset.ready",
                                    arg=[self.canvas().element_handle(), count])
        self.page.wait_for_timeout(100)
        return before, self.colours()


def key_latencies(page, place, keys, pause=0.25):
    """Milliseconds from each key on the focused control to the next picture on the screen below the locator `place`."""
    place.evaluate("""place => { window.times = []; window.since = null;
        document.addEventListener('keydown', () => { window.since = performance.now(); }, true);
        place.addEventListener('load', () => requestAnimationFrame(() => { if (window.since !== null) {
        window.times.push(performance.now() - window.since); window.since = null; } }), true); }""")
    return _times_of(page, keys, pause)


def _times_of(page, keys, pause):
    """Press the keys one after the other, each after the picture of the one before; the page's `window.times`."""
    for key in keys:
        told = page.evaluate("window.times.length")
        page.keyboard.press(key)
        page.wait_for_function(f"window.times.length > {told}", timeout=120_000)
        time.sleep(pause)
    return page.evaluate("window.times")


def canvas_latencies(page, canvas, keys, pause=0.25):
    """Milliseconds from each key on the focused viewer to its next picture on the screen."""
    canvas.evaluate("""canvas => { window.times = []; window.since = null;
        document.addEventListener('keydown', () => { window.since = performance.now(); }, true);
        new MutationObserver(() => requestAnimationFrame(() => { if (window.since !== null) {
            window.times.push(performance.now() - window.since); window.since = null; } })).observe(
            canvas, {attributes: true, attributeFilter: ['data-drawn']}); }""")
    return _times_of(page, keys, pause)
