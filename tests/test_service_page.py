"""The service's page in a real browser: a picture is sent, progress shown, the model drawn; refusals are told."""

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from service import needs_serving
from service_bench import RESULT, STEP, Bench, Played

WEB = Path(__file__).resolve().parents[1] / "serving" / "web"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = ("--headless=new", "--no-sandbox", "--no-first-run", "--disable-sync", "--disable-background-networking")
FLAGS += ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # WebGL without a GPU
pytestmark = [
    needs_serving,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no Chromium with a chromedriver on the PATH"),
]


class Red(Played):
    """Makes a red ball, in two steps."""

    def _finished(self, job):
        import trimesh

        ball = trimesh.creation.icosphere(3, 0.45)
        material = trimesh.visual.material.PBRMaterial(baseColorFactor=[220, 30, 30, 255], metallicFactor=0.0)
        ball.visual = trimesh.visual.TextureVisuals(material=material)
        finished = super()._finished(job)
        path = self.store.folder.parent / "ball.glb"
        path.write_bytes(ball.export(file_type="glb"))
        self.store.put(job["id"], path, "model.glb")
        Image.new("RGB", (400, 100), (30, 30, 220)).save(self.store.folder.parent / "preview", "PNG")
        self.store.put(job["id"], self.store.folder.parent / "preview", "preview.png")
        return finished


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """npm's packages of the page, as its package.json names them."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("packages")
    shutil.copy(WEB / "package.json", folder)
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm could not install the page's packages: {done.stderr[-200:]}")
    return folder / "node_modules"


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, "--window-size=1280,860"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    found.set_script_timeout(60)
    yield found
    found.quit()


class Page:
    """The page of a played service."""

    def __init__(self, browser, bench, url):
        self.browser, self.bench, self.url = browser, bench, url

    def find(self, name):
        return self.browser.find_element("css selector", name)

    def open(self, path=""):
        self.browser.get(self.url + path)
        self.until(lambda: self.find("[name=seed]"))

    def until(self, look, seconds=60):
        from selenium.common.exceptions import WebDriverException

        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                if found := look():
                    return found
            except WebDriverException:
                pass
            time.sleep(0.1)
        raise AssertionError(f"{self.find('main').text}\n{self.browser.get_log('browser')}")

    def shown(self):
        return self.browser.execute_script("return document.body.dataset.shown")

    def view(self):
        """What is drawn: [H, W, 3] uint8."""
        import io

        return np.asarray(Image.open(io.BytesIO(self.find("#view").screenshot_as_png)).convert("RGB"))

    def keep(self, name):
        if folder := os.environ.get("SCREENSHOTS"):
            self.browser.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.fixture
def page(request, browser, tmp_path):
    import uvicorn

    from serving.app import create

    packages = request.getfixturevalue("packages") if "three" in request.fixturenames else None
    bench = Bench(tmp_path, node_modules=packages or tmp_path / "nothing")
    bench.engine = Red(bench.engine.store)
    server = uvicorn.Server(uvicorn.Config(create(bench.settings, bench.engine), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Page(browser, bench, f"http://127.0.0.1:{port}/")
    browser.get("about:blank")
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def three():
    """Asks `page` for npm's packages."""


def send(page, root, **fields):
    page.find("#picture").send_keys(str(root / "assets" / "rocket.png"))
    for name, value in fields.items():
        page.browser.execute_script("arguments[0].value = arguments[1]", page.find(f"[name={name}]"), value)
    page.find("#go").click()


def reddish(pixels):
    return ((pixels[..., 0] > 90) & (pixels[..., 0] > 1.5 * pixels[..., 1])).mean()


def test_a_picture_is_sent_followed_and_shown(three, page, root):
    hold = threading.Event()
    page.bench.engine.play = lambda job, number: [STEP, hold, {"done": RESULT}]
    page.open()
    assert page.find("[name=solver]").get_attribute("value") == "" and not page.find("[name=solver]").is_displayed()
    send(page, root, seed="7")
    page.until(lambda: "structure, step 1 of 4" in page.find("#status").text)
    page.keep("service_running")
    hold.set()
    page.until(page.shown)
    assert "12 faces" in page.find("#status").text
    page.keep("service_done")
    page.until(lambda: 0.1 < reddish(page.view()) < 0.6, 20)  # the ball, not the whole view
    names = [link.text.split()[0] for link in page.browser.find_elements("css selector", "#links a")]
    assert names == ["model.glb", "preview.png", "state.safetensors"]
    assert not [entry for entry in page.browser.get_log("browser") if entry["level"] == "SEVERE"]
    where = page.browser.execute_script(
        "return performance.getEntriesByType('resource').map(each => new URL(each.name).origin)"
    )
    assert set(where) == {page.url.rstrip("/")}  # nothing comes from elsewhere
    job = page.browser.current_url.partition("#")[2]
    page.browser.refresh()
    page.until(lambda: page.shown() == job)  # a reload finds it again


def test_what_is_refused_is_told_with_the_cure(page, root):
    page.open()
    send(page, root, faces="2")
    page.until(lambda: "at least 4 faces, got 2" in page.find("#problem").text)
    page.keep("service_refused")
    assert not page.bench.engine.tries and page.find("#go").is_enabled()


def test_a_running_job_is_cancelled(page, root):
    page.bench.engine.play = lambda job, number: [STEP, threading.Event()]
    page.open()
    send(page, root)
    page.until(lambda: "structure" in page.find("#status").text)
    page.find("#cancel").click()
    page.until(lambda: "The job is cancelled" in page.find("#status").text)


def test_without_npm_packages_the_picture_is_shown(page, root):
    page.open()
    send(page, root)
    page.until(page.shown)
    assert "npm install" in page.find("#links").text
    pixels = page.view().reshape(-1, 3)
    assert (pixels == (30, 30, 220)).all(1).mean() > 0.2


def test_the_page_of_the_api_shows_itself(three, page):
    page.browser.get(page.url + "docs")
    page.until(lambda: "/generate" in page.find("#swagger-ui").text)
    page.keep("service_docs")
