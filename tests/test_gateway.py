"""The gateway of deploy/ as a real nginx: who is let through, how often, with how much, to which paths."""

import base64
import hashlib
import json
import shutil
import ssl
import subprocess
import threading
import time

import gateway
import pytest
from comfy_server import ROOT, Server, api, needs_comfyui

websocket = pytest.importorskip("websocket")
pytestmark = pytest.mark.skipif(bool(gateway.ABSENT), reason=f"{gateway.ABSENT} is not installed")
QUICK = {"rate": "1000r/s", "burst": "1000", "work_rate": "1000r/s", "work_burst": "1000"}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Limits that no test reaches by accident."""
    with gateway.running(tmp_path_factory.mktemp("service"), body="1m", **QUICK) as running:
        running.key = gateway.keys.add(running.keys_file, "shop")
        yield running


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory):
    with gateway.running(tmp_path_factory.mktemp("comfyui"), site="comfyui", body="1m", **QUICK) as running:
        running.key = gateway.keys.add(running.keys_file, "studio")
        yield running


SERVICE = [("POST", "/generate"), ("POST", "/extract_glb"), ("GET", "/jobs/1b-2"), ("DELETE", "/jobs/1b-2")]
SERVICE += [
    ("GET", path) for path in ("/jobs/1b-2/model.glb", "/jobs/1/state", "/", "/docs", "/node_modules/three/build/a.js")
]
COMFYUI = [("POST", "/prompt"), ("POST", "/api/prompt"), ("POST", "/upload/image"), ("POST", "/api/jobs/0b-1/cancel")]
COMFYUI += [
    ("GET", path) for path in ("/view?filename=a%20b.glb", "/api/queue", "/object_info/T2ImageToGLB", "/history/0b-1")
]


@pytest.mark.parametrize(
    ("site", "method", "path"),
    [("service", *row) for row in SERVICE] + [("comfyui", *row) for row in COMFYUI],
)
def test_a_key_opens_what_is_served_and_nothing_else_does(site, method, path, request):
    running = request.getfixturevalue(site)
    body = b"x" * 1000 if method == "POST" else None
    before = len(running.asked)
    assert running.ask(path, method, body=body)[0] == 401
    assert running.ask(path, method, "wrong", body)[0] == 401
    digest = hashlib.sha256(running.key.encode()).hexdigest()
    assert running.ask(path, method, digest, body)[0] == 401, "the hash is no key"
    assert len(running.asked) == before
    status, _, told = running.ask(path, method, running.key, body)
    assert (status, told["method"], told["path"], told["length"]) == (200, method, path, len(body or b""))


def test_health_is_told_without_a_key_and_the_gateways_own_too(service):
    assert [service.ask(path)[0] for path in ("/health", "/ready")] == [200, 200]
    assert [service.ask(path)[0] for path in ("/%68ealth", "//health", "/health/../ready", "/metrics")] == [404] * 4
    assert service.ask("/gateway")[0] == 204


@pytest.mark.parametrize("site", ["service", "comfyui"])
def test_paths_that_are_meant_to_be_read_in_two_ways_are_not_there(site, request):
    running = request.getfixturevalue(site)
    path = {"service": "generate", "comfyui": "prompt"}[site]
    tricks = [f"//{path}", f"/{path}//", f"/./{path}", f"/jobs/../{path}", f"/../{path}", f"/jobs/..;/{path}"]
    tricks += [f"/%{ord(path[0]):x}{path[1:]}", f"/%2e%2e/{path}", f"/jobs%2f..%2f{path}", f"/{path}%00", f"/{path}%20"]
    tricks += [f"/{path.upper()}", f"/{path}/", f"/{path};a", f"/{path}.", f"\\{path}", f"/{path}\\", "/history/..%5cx"]
    tricks += [
        "/metrics",
        "/%6detrics",
        "/health/../metrics",
        "/_problem",
        "/_malformed",
        "/userdata",
        "/free",
        "/internal",
    ]
    tricks += [
        "/node_modules/..",
        "/node_modules/%2e%2e/metrics",
        "/node_modules/.hidden",
        "/node_modules/a:b",
        "/etc/passwd",
    ]
    before = len(running.asked)
    for trick in tricks:
        for key in (running.key, ""):
            text = f"POST {trick} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Length: 0\r\n\r\n"
            assert running.raw(text) == 404, trick
    assert len(running.asked) == before


def test_requests_that_two_servers_would_end_at_different_places_are_refused(service):
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nX-API-Key: {service.key}\r\n"
    before = len(service.asked)
    assert service.raw(f"{head}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n") == 400
    assert service.raw(f"{head}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd") == 400
    assert service.raw("no HTTP at all\r\n\r\n") == 400
    assert len(service.asked) == before


def test_what_is_too_large_is_refused_before_it_is_passed_on(service):
    before = len(service.asked)
    status, _, told = service.ask("/generate", "POST", service.key, b"x" * (1 << 20 | 1))
    assert (status, told["status"]) == (413, 413) and "1m a request" in told["detail"]
    chunk = b"80000\r\n" + b"x" * 0x80000 + b"\r\n"  # half a MiB, of a length that is not said before
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nX-API-Key: {service.key}\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert service.raw(head + (chunk * 3 + b"0\r\n\r\n").decode()) == 413
    assert len(service.asked) == before
    assert service.ask("/generate", "POST", service.key, b"x" * (1 << 20))[2]["length"] == 1 << 20


def test_every_way_to_send_a_key(service):
    def basic(user: str, key: str) -> str:
        return "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()

    for good in (f"Bearer {service.key}", basic("", service.key), basic("any one", service.key)):
        assert service.ask("/", Authorization=good)[0] == 200, good
    bad = [
        "Bearer",
        "Bearer ",
        f"Bearer {service.key} x",
        "Bearer x",
        "Basic !!!",
        basic("a", "b"),
        "Digest x",
        service.key,
    ]
    for wrong in [*bad, basic(service.key, ""), "Bearer " + "x" * 3000]:
        assert service.ask("/", Authorization=wrong)[0] == 401, wrong
    text = f"GET / HTTP/1.1\r\nHost: x\r\nX-API-Key: x\r\nX-API-Key: {service.key}\r\n\r\n"
    assert service.raw(text) in (400, 401), "which of two keys counts is not left to chance"


def test_behind_the_gateway_the_key_is_unknown_and_the_client_is_known(service):
    forged = {"X_Gateway_Client": "root", "X_Forwarded_For": "10.0.0.1", "X_Real_Key": "kept"}
    headers = service.ask("/", key=service.key, Authorization="Bearer x", **forged)[2]["headers"]
    assert headers["X-Gateway-Client"] == "shop" and headers["X-Forwarded-For"] == "127.0.0.1"
    assert headers["X-Real-Key"] == "kept" and service.key not in json.dumps(headers)
    assert "Authorization" not in headers and "X-API-Key" not in headers
    assert "X-Gateway-Client" not in service.ask("/health", **forged)[2]["headers"]


def test_the_log_names_clients_and_has_neither_keys_nor_queries(service):
    service.ask("/jobs/told?private=yes", key=service.key)
    deadline = time.monotonic() + 10
    while "/jobs/told" not in service.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    line = next(json.loads(row) for row in service.log.read_text().splitlines() if "/jobs/told" in row)
    assert (line["client"], line["request"], line["status"]) == ("shop", "GET /jobs/told", 200)
    assert service.key not in service.log.read_text() and "private" not in service.log.read_text()


def test_pages_of_other_hosts_cannot_use_the_password_that_a_browser_remembers(service, comfyui):
    own = f"http://127.0.0.1:{service.port}"
    assert service.ask("/generate", "POST", service.key, b"", Origin=own)[0] == 200
    for foreign in ("https://evil.example", "null", own + "0", f"http://evil.example/{own}"):
        status, _, told = service.ask("/generate", "POST", service.key, b"", Origin=foreign)
        assert (status, told["title"]) == (403, "This is not let through."), foreign
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        _websocket(comfyui, comfyui.key, "http://evil.example")


def test_refusals_say_what_to_do(service):
    status, headers, told = service.ask("/generate", "POST")
    assert headers["Content-Type"] == "application/problem+json" and headers["WWW-Authenticate"].startswith("Basic ")
    assert told["status"] == status == 401 and "X-API-Key" in told["detail"]
    assert told["type"] == "urn:trellis2:problem:gateway-key"
    assert service.ask("/docs", "POST", service.key)[0] == 403
    assert "Server" not in headers or "/" not in headers["Server"], "the version is nobody's business"


def test_a_key_is_changed_without_a_restart(service):
    """Two keys of one name while its programs change over; then the old one is taken away."""
    new = gateway.keys.add(service.keys_file, "shop")
    assert [service.ask("/", key=key)[0] for key in (service.key, new)] == [200, 200]
    other = gateway.keys.add(service.keys_file, "other")
    assert gateway.keys.remove(service.keys_file, "shop", hashlib.sha256(new.encode()).hexdigest()[:8]) == 1
    assert [service.ask("/", key=key)[0] for key in (service.key, new, other)] == [200, 401, 200]
    text = service.keys_file.read_text()
    service.keys_file.write_text("")
    assert service.ask("/", key=service.key)[0] == 401
    service.keys_file.unlink()
    assert service.ask("/", key=service.key)[0] == 401
    assert "no key is valid, since the file of keys cannot be read" in service.log.read_text()
    service.keys_file.write_text(f"not a hash and a name\n\n{text}")
    assert service.ask("/", key=service.key)[0] == 200
    service.keys_file.write_text(text)
    assert service.ask("/", key=service.key)[0] == 200


def test_keys_are_kept_as_hashes(tmp_path, capsys):
    file = tmp_path / "new" / "keys"
    gateway.keys.main([str(file), "add", "shop"])
    key = capsys.readouterr().out.strip()
    assert len(key) >= 43 and key not in file.read_text()
    assert file.read_text() == f"{hashlib.sha256(key.encode()).hexdigest()} shop\n"
    gateway.keys.main([str(file), "list"])
    assert capsys.readouterr().out.startswith("shop ")
    for words in (["add", "a b"], ["remove", "nobody"], ["remove", "shop", "zz"]):
        with pytest.raises(SystemExit, match=r"no name of a key|No key of"):
            gateway.keys.main([str(file), *words])
    gateway.keys.main([str(file), "remove", "shop"])
    assert file.read_text() == ""
    file.write_text("key in plain\n")
    with pytest.raises(SystemExit, match="not a hash and a name"):
        gateway.keys.add(file, "shop")
    assert file.read_text() == "key in plain\n"


def test_who_asks_too_often_is_told_to_wait_and_others_are_not(tmp_path):
    limits = {"rate": "50r/s", "burst": "60", "work_rate": "1r/m", "work_burst": "2"}
    with gateway.running(tmp_path / "g", **limits) as running:
        shop, other = (gateway.keys.add(running.keys_file, name) for name in ("shop", "other"))
        second = gateway.keys.add(running.keys_file, "shop")
        asked = [running.ask("/generate", "POST", key, b"x") for key in (shop, second, shop, second, shop)]
        assert [status for status, _, _ in asked] == [200, 200, 200, 429, 429], "keys of one name count together"
        _, headers, told = asked[-1]
        assert int(headers["Retry-After"]) > 0 and "1r/m that start work" in told["detail"]
        assert len(running.asked) == 3
        assert running.ask("/generate", "POST", other, b"x")[0] == 200
        assert running.ask("/jobs/1", key=shop)[0] == 200, "asking for a job is not work"
        answers = [running.ask("/jobs/1", key="guess")[0] for _ in range(120)]
        assert set(answers) == {401, 429} and answers[0] == 401
        assert running.ask("/jobs/1", key=other)[0] == 200, "who guesses keys takes nothing from those that have one"


def _websocket(running, key, origin=None):
    address = f"ws://127.0.0.1:{running.port}/ws?clientId=1"
    keywords = {"origin": origin} if origin else {"suppress_origin": True}
    return websocket.create_connection(address, header=[f"X-API-Key: {key}"], timeout=20, **keywords)


def test_a_websocket_needs_a_key_and_passes_messages(comfyui):
    for wrong in ("", "wrong"):
        with pytest.raises(websocket.WebSocketBadStatusException, match="401"):
            _websocket(comfyui, wrong)
    connection = _websocket(comfyui, comfyui.key)
    connection.send("step 3 of 12")
    assert connection.recv() == "step 3 of 12"
    connection.close()


def test_comfyui_keeps_its_editor_and_what_ends_other_jobs(comfyui):
    for path in ("/", "/internal/logs", "/free", "/interrupt", "/api/users", "/extensions", "/models"):
        assert comfyui.ask(path, "POST", comfyui.key, b"")[0] == 404, path
    for path in ("/queue", "/history", "/api/queue", "/system_stats"):
        assert comfyui.ask(path, "POST", comfyui.key, b"")[0] == 403, path
    assert comfyui.ask("/generate", "POST", comfyui.key, b"")[0] == 404


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl to make a certificate")
def test_tls_is_a_switch(tmp_path):
    trusted = gateway.certificate(tmp_path)
    with gateway.running(tmp_path, tls="on", **QUICK) as running:
        assert running.raw("GET / HTTP/1.1\r\nHost: x\r\n\r\n") == 400, "plain HTTP on this port"
        key = gateway.keys.add(running.keys_file, "shop")
        running.tls = trusted
        status, headers, told = running.ask("/", key=key)
        assert status == 200 and told["headers"]["X-Forwarded-Proto"] == "https"
        assert headers["Strict-Transport-Security"].startswith("max-age=")
        assert running.ask("/")[0] == 401
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        running.tls = old
        with pytest.raises(ssl.SSLError):
            running.ask("/", key=key)


def test_keys_change_under_load_and_no_request_is_lost(service):
    """One writes the file anew all the time; whoever has a valid key is served by every request."""
    done, wrong = threading.Event(), []

    def ask() -> None:
        while not done.is_set():
            status = service.ask("/jobs/1", key=service.key)[0]
            if status != 200:
                wrong.append(status)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            gateway.keys.add(service.keys_file, "other")
            gateway.keys.remove(service.keys_file, "other")
    finally:
        done.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_behind_may_be_away(tmp_path):
    with gateway.running(tmp_path / "g", upstream=f"127.0.0.1:{gateway.free_port()}") as running:
        status, _, told = running.ask("/health")
        assert status == 502 and "try again" in told["detail"]


def test_nginx_finds_nothing_to_warn_of(tmp_path):
    addresses = {"GATEWAY_UPSTREAM": "127.0.0.1:1", "GATEWAY_PORT": "127.0.0.1:8080"}
    for site in ("service", "comfyui"):
        (tmp_path / site).mkdir()
        file = gateway.write(tmp_path / site, gateway.DEFAULTS | addresses | {"GATEWAY_SITE": site})
        run = subprocess.run(gateway.command(file, "-t"), capture_output=True, text=True)
        assert run.returncode == 0 and "[warn]" not in run.stderr, run.stderr


@needs_comfyui
def test_a_graph_runs_on_a_real_comfyui_behind_the_gateway(tmp_path):
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": ""}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    server = Server(tmp_path / "base")
    try:
        with gateway.running(tmp_path / "g", site="comfyui", upstream=server.client.server) as running:
            address = f"127.0.0.1:{running.port}"
            client = api().Client(address, gateway.keys.add(running.keys_file, "studio"))
            graph["1"]["inputs"]["image"] = client.upload(ROOT / "assets" / "rocket.png")
            kinds = []
            outputs = client.run(graph, lambda kind, data: kinds.append(kind))
            assert client.fetch(outputs["2"]["images"][0]).startswith(b"\x89PNG") and "executing" in kinds
            assert client.inputs("T2ImageToGLB") and client.health()["version"]
            with pytest.raises(api().GraphError, match=r"key is missing or not valid.*X-API-Key"):
                api().Client(address, "wrong").upload(ROOT / "assets" / "rocket.png")
    finally:
        server.stop()
