"""A real nginx with the files of deploy/gateway, and a small server behind it that says what reached it."""

import base64
import hashlib
import http.client
import http.server
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

MODULE = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")
ABSENT = None if shutil.which("nginx") and MODULE.exists() else "nginx with its js module (libnginx-mod-http-js)"
SOURCE = Path(__file__).resolve().parent.parent / "deploy"
DEFAULTS = {  # as in compose.yaml, where test_deploy compares them
    "GATEWAY_SITE": "service",
    "GATEWAY_TLS": "off",
    "GATEWAY_BODY": "64m",
    "GATEWAY_RATE": "20r/s",
    "GATEWAY_BURST": "40",
    "GATEWAY_WORK_RATE": "10r/m",
    "GATEWAY_WORK_BURST": "5",
}

_spec = spec_from_file_location("gateway_keys", SOURCE / "gateway_keys.py")
keys = module_from_spec(_spec)
_spec.loader.exec_module(keys)


class Behind(http.server.BaseHTTPRequestHandler):
    """Answers what it was asked, as JSON; /ws is a websocket that sends one message back."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(self.path)
        if self.path.partition("?")[0].endswith("/ws"):
            self._websocket()
            return
        told = {"method": self.command, "path": self.path, "length": len(body), "headers": dict(self.headers)}
        data = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = do_PUT = _answer

    def _websocket(self) -> None:
        text = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", self.headers["Upgrade"])
        self.send_header("Connection", self.headers["Connection"])
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(text.encode()).digest()).decode())
        self.end_headers()
        head = self.rfile.read(6)  # a text frame of less than 126 bytes, masked
        word = bytes(byte ^ head[2 + i % 4] for i, byte in enumerate(self.rfile.read(head[1] & 127)))
        self.wfile.write(bytes([0x81, len(word)]) + word)
        self.close_connection = True

    def log_message(self, *_) -> None:
        pass


class Gateway:
    """A running gateway: `ask` it, look at what reached the server behind (`asked`), change its file of keys."""

    def __init__(self, folder: Path, port: int, asked: list[str]) -> None:
        self.port, self.asked, self.tls = port, asked, None
        self.keys_file, self.log = folder / "keys" / "keys", folder / "log"

    def ask(self, path: str, method: str = "GET", key: str = "", body: bytes | None = None, **headers: str):
        """(status, headers, JSON of the body or None)."""
        if self.tls:
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=20, context=self.tls)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, headers | ({"X-API-Key": key} if key else {}))
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, answer.headers, json.loads(text) if text else None

    def raw(self, text: str) -> int:
        """The status that answers bytes which no client library would send."""
        with socket.create_connection(("127.0.0.1", self.port), 20) as connection:
            connection.sendall(text.encode("latin-1"))
            return int(connection.recv(4096).split()[1])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def write(folder: Path, settings: dict[str, str]) -> Path:
    """What the container finds below /etc/nginx, here below `folder`, with /tmp inside too; returns nginx.conf."""
    shutil.copytree(SOURCE / "gateway", folder / "gateway")
    (folder / "conf.d").mkdir()
    for template in (folder / "gateway" / "templates").iterdir():
        text = template.read_text(encoding="utf-8")
        for name, value in settings.items():
            text = text.replace(f"${{{name}}}", value)
        (folder / "conf.d" / template.name.removesuffix(".template")).write_text(text, encoding="utf-8")
    (folder / "tmp").mkdir()
    places = {"/etc/nginx/": f"{folder}/", "/tmp/": f"{folder}/tmp/"}
    for path in folder.rglob("*.conf"):
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub("/etc/nginx/|/tmp/", lambda found: places[found[0]], text), encoding="utf-8")
    return folder / "gateway" / "nginx.conf"


@contextmanager
def running(folder: Path, **settings: str):
    """A gateway with the files below `folder` (tls/ and keys/ may be there before)."""
    folder.mkdir(exist_ok=True)
    behind = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Behind)
    behind.daemon_threads, behind.asked = True, []
    threading.Thread(target=behind.serve_forever, daemon=True).start()
    port = free_port()
    named = {"GATEWAY_UPSTREAM": f"127.0.0.1:{behind.server_port}", "GATEWAY_PORT": f"127.0.0.1:{port}"}
    file = write(folder, DEFAULTS | named | {f"GATEWAY_{name.upper()}": value for name, value in settings.items()})
    gateway = Gateway(folder, port, behind.asked)
    with open(gateway.log, "w") as log:
        process = subprocess.Popen(command(file), stdout=log, stderr=log)
    try:
        _wait(process, gateway)
        yield gateway
    finally:
        process.terminate()
        process.wait(20)
        behind.shutdown()
        behind.server_close()


def command(file: Path, *more: str) -> list[str]:
    """Of a container: in the foreground, and its workers as the user that starts them."""
    user = "user root;" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
    return ["nginx", "-c", str(file), "-p", str(file.parent), "-g", f"daemon off; {user}", *more]


def _wait(process: subprocess.Popen, gateway: Gateway) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", gateway.port), 1).close()
            return
        except OSError:
            assert process.poll() is None, gateway.log.read_text()
            time.sleep(0.02)
    raise AssertionError(f"nginx does not listen: {gateway.log.read_text()}")


def certificate(folder: Path) -> ssl.SSLContext:
    """A certificate for localhost below folder/tls; returns what trusts it."""
    (folder / "tls").mkdir(parents=True)
    names = ["-keyout", str(folder / "tls" / "tls.key"), "-out", str(folder / "tls" / "tls.crt")]
    key = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    extra = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*key, *names, *extra], check=True, capture_output=True)
    return ssl.create_default_context(cafile=folder / "tls" / "tls.crt")
