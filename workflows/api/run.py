"""Runs one of the graphs beside this file on a ComfyUI server: upload a picture, queue, follow, fetch the GLB.

pip install websocket-client
python run.py image_to_glb.json chair.png chair.glb [--server 127.0.0.1:8188] [--set NODE.INPUT=VALUE]
"""

import argparse
import json
import sys
import uuid
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import websocket


class GraphError(Exception):
    """The server refused the graph, or a node failed; the text says which and why."""


class Client:
    """One client of a ComfyUI server, `server` being host:port."""

    def __init__(self, server: str) -> None:
        self.server, self.id = server, uuid.uuid4().hex

    def upload(self, picture: Path) -> str:
        """Put a picture into the server's input folder; returns its name there, for a Load Image node."""
        boundary = uuid.uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{picture.name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = head.encode() + picture.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        stored = self._json("/upload/image", body, f"multipart/form-data; boundary={boundary}")
        return "/".join(filter(None, (stored["subfolder"], stored["name"])))

    def run(self, graph: dict, on_event=lambda kind, data: None) -> dict:
        """Queue a graph and wait for it; returns what its output nodes show, by node id.

        on_event gets every message of the run: "progress" has value and max, "executing" has node.

        Raises:
            GraphError: the graph is invalid, a node failed, or the run was interrupted.
        """
        channel = websocket.create_connection(f"ws://{self.server}/ws?clientId={self.id}")
        try:
            body = json.dumps({"prompt": graph, "client_id": self.id}).encode()
            run_id, outputs = self._json("/prompt", body)["prompt_id"], {}
            while True:
                message = channel.recv()
                if isinstance(message, bytes):  # a preview picture
                    continue
                message = json.loads(message)
                kind, data = message["type"], message["data"]
                if data.get("prompt_id") != run_id:
                    continue
                on_event(kind, data)
                if kind == "execution_error":
                    raise GraphError(f"{data['node_type']} ({data['node_id']}): {data['exception_message'].strip()}")
                if kind == "execution_interrupted":
                    raise GraphError("The run was interrupted.")
                if kind == "executed" and data["output"]:
                    outputs[data.get("display_node") or data["node"]] = data["output"]
                if kind == "execution_success":
                    return outputs
        finally:
            channel.close()

    def fetch(self, file: dict) -> bytes:
        """The bytes of a file that an output node shows ({"filename", "subfolder", "type"})."""
        with urlopen(f"http://{self.server}/view?{urlencode(file)}") as answer:
            return answer.read()

    def interrupt(self) -> None:
        """Stop the run in progress."""
        self._send("/interrupt", b"{}")

    def health(self) -> dict:
        """Version, device, memory, checkpoints and backends of the pack on the server."""
        return self._json("/trellis2/health")

    def _json(self, path: str, body: bytes | None = None, kind: str = "application/json") -> dict:
        return json.loads(self._send(path, body, kind))

    def _send(self, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        request = Request(f"http://{self.server}{path}", body, {"Content-Type": kind})
        try:
            with urlopen(request) as answer:
                return answer.read()
        except HTTPError as error:
            raise GraphError(_refusal(error.read())) from error


def _refusal(answer: bytes) -> str:
    """The server's reasons for not queueing a graph, a line each."""
    try:
        told = json.loads(answer)
        lines = [f"{told['error']['message']}: {told['error'].get('details', '')}".rstrip(": ")]
        for node, found in (told.get("node_errors") or {}).items():
            lines += [
                f"{found['class_type']} ({node}): {each['message']}: {each['details']}" for each in found["errors"]
            ]
        return "\n".join(lines)
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace")


def glb_files(outputs: dict) -> list[dict]:
    """The GLB files among what the output nodes show."""
    return [file for shown in outputs.values() for file in shown.get("3d", [])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graph", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--server", default="127.0.0.1:8188")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help="for example 2.seed=7; VALUE is JSON"
    )
    options = parser.parse_args()

    client = Client(options.server)
    graph = json.loads(options.graph.read_text(encoding="utf-8"))
    for node in graph.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = client.upload(options.picture)
    for change in options.set:
        place, value = change.split("=", 1)
        node, name = place.split(".", 1)
        graph[node]["inputs"][name] = json.loads(value)

    def show(kind: str, data: dict) -> None:
        if kind == "progress":
            name = graph[data["node"].split(".")[0]]["class_type"]  # 2.0.0.5 is a node inside node 2
            print(f"\r{name}: {data['value'] / data['max']:4.0%}   ", end="", file=sys.stderr)

    try:
        files = glb_files(client.run(graph, show))
    except GraphError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    options.output.write_bytes(client.fetch(files[-1]))
    print(f"\n{options.output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
