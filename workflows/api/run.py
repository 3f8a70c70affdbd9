"""Runs one of the graphs beside this file on a ComfyUI server: upload a picture, queue, follow, fetch the GLB.

pip install websocket-client
python run.py image_to_glb.json chair.png chair.glb [--server 127.0.0.1:8188] [--key-file FILE] [--set NODE.INPUT=VALUE]
python run.py image_to_glb.json PICTURES OBJECTS: a run for each picture of a folder. One that fails is told and
skipped; what is in the folder OBJECTS already is not made again.
"""

import argparse
import json
import os
import sys
import uuid
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

try:
    import websocket
except ImportError:
    sys.exit("run.py needs the package websocket-client: pip install websocket-client")

_TIMEOUT = 60  # seconds that an answer may take; a run may take any time
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")  # in a folder
_TEXT = 3  # ComfyUI's number for a message with a text for a node


class GraphError(Exception):
    """The server refused the graph, or a node failed; the text says which and why."""


class UsageError(Exception):
    """What was asked for cannot work; found before anything is queued."""


class Client:
    """One client of a ComfyUI server: `server` is host:port or a URL, `key` what a gateway before it asks for."""

    def __init__(self, server: str, key: str = "") -> None:
        self.url = server if "://" in server else f"http://{server}"
        self.server, self.id = self.url.partition("://")[2], uuid.uuid4().hex
        self.headers = {"X-API-Key": key} if key else {}

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

        on_event gets every message of the run: "progress" has value and max, "executing" has node, "text" has what a
        node is doing.

        Raises:
            GraphError: the graph or a branch of it is invalid, a node failed, or the run was interrupted.
            OSError: the server cannot be reached, or the connection broke.
        """
        channel = websocket.create_connection(
            f"ws{self.url.removeprefix('http')}/ws?clientId={self.id}", timeout=_TIMEOUT, header=self.headers
        )
        try:
            channel.settimeout(None)
            body = json.dumps({"prompt": graph, "client_id": self.id}).encode()
            answer, outputs = self._json("/prompt", body), {}
            run_id = answer["prompt_id"]
            if answer.get("node_errors"):  # the server would run the other branches and call that a success
                self._send("/queue", json.dumps({"delete": [run_id]}).encode())
                self._send("/interrupt", json.dumps({"prompt_id": run_id}).encode())
                raise GraphError("\n".join(_complaints(answer["node_errors"])))
            while True:
                message = channel.recv()
                if isinstance(message, bytes):
                    if int.from_bytes(message[:4], "big") == _TEXT:  # others are preview pictures
                        end = 8 + int.from_bytes(message[4:8], "big")
                        on_event("text", {"node": message[8:end].decode(), "text": message[end:].decode()})
                    continue
                if not message:
                    raise ConnectionError("the server closed the connection")
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
        return self._send(f"/view?{urlencode(file)}")

    def interrupt(self) -> None:
        """Stop the run in progress."""
        self._send("/interrupt", b"{}")

    def health(self) -> dict:
        """Version, device, memory, checkpoints and backends of the pack on the server."""
        return self._json("/trellis2/health")

    def inputs(self, node_class: str) -> dict | None:
        """The inputs of a class of nodes, name -> its type or options; None if the server has no such nodes."""
        found = self._json(f"/object_info/{quote(node_class)}").get(node_class)
        kinds = ("required", "optional")
        return found and {name: spec[0] for kind in kinds for name, spec in found["input"].get(kind, {}).items()}

    def _json(self, path: str, body: bytes | None = None, kind: str = "application/json") -> dict:
        return json.loads(self._send(path, body, kind))

    def _send(self, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        request = Request(f"{self.url}{path}", body, {"Content-Type": kind, **self.headers})
        try:
            with urlopen(request, timeout=_TIMEOUT) as answer:
                return answer.read()
        except HTTPError as error:
            raise GraphError(_refusal(error.read())) from error


def _refusal(answer: bytes) -> str:
    """The server's reasons for not queueing a graph, a line each."""
    try:
        told = json.loads(answer)
        if "detail" in told:  # of a gateway
            return f"{told['title']} {told['detail']}"
        lines = [f"{told['error']['message']}: {told['error'].get('details', '')}".rstrip(": ")]
        return "\n".join(lines + _complaints(told.get("node_errors") or {}))
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace")[:500]


def _complaints(errors: dict) -> list[str]:
    """What the server has against each node, once: what a node finds wrong comes with every input that it looked at."""
    found = {}
    for node, told in errors.items():
        for each in told["errors"]:
            own = each["details"].partition(" - ")[2] if each.get("type") == "custom_validation_failed" else ""
            line = f"{told['class_type']} ({node}): {own or each['message'] + ': ' + each['details']}"
            found.setdefault(line, None)
    return list(found)


def glb_files(outputs: dict) -> list[dict]:
    """The GLB files among what the output nodes show."""
    return [file for shown in outputs.values() for file in shown.get("3d", [])]


def read_graph(path: Path) -> dict:
    """A graph in the API format. Raises UsageError for anything else."""
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The graph {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{path} is no graph: it is not JSON ({error}).") from error
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        twin = path.parent / "api" / path.name
        hint = f"Use {twin}" if twin.is_file() else "Export it from the editor with File > Export (API)"
        raise UsageError(f"{path} is a graph in the editor's format, which a server does not run. {hint}.")
    nodes = graph.values() if isinstance(graph, dict) else [None]
    if not graph or not all(
        isinstance(node, dict) and "class_type" in node and isinstance(node.get("inputs"), dict) for node in nodes
    ):
        raise UsageError(f"{path} is no graph in the API format: node id -> class_type and inputs.")
    return graph


def read_changes(changes: list[str], graph: dict) -> list[tuple[str, str, str]]:
    """NODE.INPUT=VALUE, each -> node, input, value. Raises UsageError for another form or a node that is not there."""
    found = []
    for change in changes:
        place, equals, value = change.partition("=")
        node, dot, name = place.partition(".")
        if not (equals and dot and node and name):
            raise UsageError(f"--set {change}: write NODE.INPUT=VALUE, for example 2.seed=7.")
        if node not in graph:
            listed = ", ".join(f"{key} ({each['class_type']})" for key, each in graph.items())
            raise UsageError(f"--set {change}: the graph has no node {node}. It has {listed}.")
        found.append((node, name, value))
    return found


def check_files(picture: Path, output: Path, graph: dict) -> None:
    """Raises UsageError if the picture cannot be read or used, or the output not be written."""
    if not picture.is_file():
        raise UsageError(f"There is no picture {picture}.")
    if not os.access(picture, os.R_OK):
        raise UsageError(f"The picture {picture} cannot be read.")
    if not any(node["class_type"] == "LoadImage" for node in graph.values()):
        raise UsageError("The graph has no LoadImage node that could take the picture.")
    if output.is_dir():
        raise UsageError(f"{output} is a folder; name a file.")
    if not output.parent.is_dir():
        raise UsageError(f"The folder {output.parent} does not exist; create it or choose another output.")
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise UsageError(f"{output} cannot be written.")


def check_nodes(client: Client, graph: dict) -> dict[str, dict]:
    """The inputs of every class of nodes in a graph. Raises UsageError if the server lacks one."""
    found = {name: client.inputs(name) for name in sorted({node["class_type"] for node in graph.values()})}
    if missing := [name for name, inputs in found.items() if inputs is None]:
        raise UsageError(f"The ComfyUI at {client.server} has no {', '.join(missing)}. Is the pack installed there?")
    return found


def typed(node: str, name: str, value: str, inputs: dict):
    """A value of --set as the input wants it. Raises UsageError if there is no such input, or the value is none."""
    if name not in inputs:
        raise UsageError(f"--set {node}.{name}: that node has no such input. It has {', '.join(inputs)}.")
    is_text = inputs[name] in ("STRING", "COMBO") or isinstance(inputs[name], list)
    try:
        parsed = json.loads(value)
    except ValueError as error:
        if is_text:
            return value  # shells take the quotes away
        raise UsageError(
            f"--set {node}.{name}={value}: the input is {inputs[name]}; write a JSON value (7, 0.5, true)."
        ) from error
    return value if is_text and not isinstance(parsed, (str, list)) else parsed


def prepare(options: argparse.Namespace) -> tuple[Client, dict]:
    """Check what can be checked, upload the picture; returns the client and the graph to queue."""
    graph = read_graph(options.graph)
    changes = read_changes(options.set, graph)
    check_files(options.picture, options.output, graph)
    client = Client(options.server.rstrip("/"), _key(options.key_file))
    inputs = check_nodes(client, graph)
    values = [(*change[:2], typed(*change, inputs[graph[change[0]]["class_type"]])) for change in changes]
    uploaded = client.upload(options.picture)
    for node in graph.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = uploaded
    for node, name, value in values:
        graph[node]["inputs"][name] = value
    return client, graph


def _key(file: Path | None) -> str:
    try:
        return file.read_text(encoding="utf-8").strip() if file else ""
    except OSError as error:
        raise UsageError(f"The key {file} cannot be read: {error.strerror}.") from error


def run(options: argparse.Namespace) -> None:
    """What the command line asks for."""
    client, graph = prepare(options)
    doing = {}

    def show(kind: str, data: dict) -> None:
        if kind == "text":
            doing[data["node"]] = f" {data['text']}"
        if kind == "progress":
            node = data["node"].split(".")[0]  # 2.0.0.5 is a node inside node 2
            name = f"{graph[node]['class_type']}{doing.get(node, '')}"
            print(f"\r{name}: {data['value'] / data['max']:4.0%}".ljust(60), end="", file=sys.stderr, flush=True)

    files = glb_files(client.run(graph, show))
    if not files:
        raise GraphError("The run ended without a GLB: no node of the graph reported one.")
    model = client.fetch(files[-1])
    try:
        options.output.write_bytes(model)
    except OSError as error:
        raise GraphError(
            f"{options.output} cannot be written: {error.strerror}. The server keeps {files[-1]}."
        ) from error
    print(f"\n{options.output}", file=sys.stderr)


def names(pictures: list[Path]) -> list[str]:
    """The object's file of each picture: chair.glb, and where two have one name chair_jpg.glb."""
    stems = [picture.stem.casefold() for picture in pictures]
    return [
        f"{picture.stem}{f'_{picture.suffix[1:]}' if stems.count(stem) > 1 else ''}.glb"
        for picture, stem in zip(pictures, stems)
    ]


def run_folder(options: argparse.Namespace) -> None:
    """A run for each picture of a folder. Raises GraphError at the end if some failed, saying how many."""
    pictures = sorted(path for path in options.picture.iterdir() if path.suffix.lower() in _PICTURES)
    if not pictures:
        raise UsageError(
            f"There is no picture in {options.picture}; expected files that end in {', '.join(_PICTURES)}."
        )
    options.output.mkdir(parents=True, exist_ok=True)
    failed = 0
    for number, (picture, name) in enumerate(zip(pictures, names(pictures)), 1):
        output = options.output / name
        if output.exists():
            continue
        print(f"\n[{number}/{len(pictures)}] {picture.name}", file=sys.stderr)
        part = options.output / f".{name}.part"  # an object has its name only when it is whole
        try:
            run(argparse.Namespace(**{**vars(options), "picture": picture, "output": part}))
            part.replace(output)
        except GraphError as error:
            failed += 1
            print(f"\n{picture.name}: {error}", file=sys.stderr)
    if failed:
        raise GraphError(f"{failed} of {len(pictures)} pictures failed; what is wrong with each stands above.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graph", type=Path)
    parser.add_argument("picture", type=Path, help="or a folder of pictures")
    parser.add_argument("output", type=Path, help="or, for a folder of pictures, a folder")
    parser.add_argument("--server", default="127.0.0.1:8188", metavar="HOST:PORT", help="or a URL of https")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="with the key for a gateway before the server")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="for example 2.seed=7; VALUE is JSON, or plain text for a text or a choice",
    )
    options = parser.parse_args()
    try:
        (run_folder if options.picture.is_dir() else run)(options)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except GraphError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except (OSError, ValueError, websocket.WebSocketException) as error:
        print(
            f"\nNo ComfyUI answers at {options.server} as it should: {getattr(error, 'reason', error)}. Start it, or "
            "name another one with --server HOST:PORT.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
