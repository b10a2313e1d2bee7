"""A local stand-in for the W&B server: GraphQL, file stream and uploads, on loopback.

It keeps what a client sends and refuses what a server would refuse: a request without the key, an
operation that is not among those the installed library holds, variables of the wrong type, fields
it does not model, a file stream with a gap. `complaints` lists every refusal.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import wandb

from tests.graphql import Parser, Refused, check_variables, project
from tests.wandb_answers import Answers, Run

KEY = "0123456789abcdef0123456789abcdef01234567"
STREAMS = {
    "wandb-history.jsonl", "wandb-events.jsonl", "wandb-summary.json", "output.log"
}  # fmt: skip
PROBE = "OrganizationCoreWeaveOrganizationID"
EMBEDDED = re.compile(rb"(?:query|mutation) (\w+) (?:\([^)]*\) )?\{\n[\t\n\x20-\x7e]*?\n\}")


@cache
def core_operations() -> dict[str, set[tuple[str, str]]]:
    """Name and variables of every operation that the installed wandb-core can send."""
    binary = Path(wandb.__file__).parent / "bin" / "wandb-core"
    found = {}
    for match in EMBEDDED.finditer(binary.read_bytes()):
        operation = Parser(match[0].decode()).operation()
        found[operation.name] = {
            (name, written) for name, (written, _) in operation.variables.items()
        }
    return found


class Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that hangs up has got what it wanted."""


class Server(Answers):
    """The stand-in; use as a context manager.

    Attributes:
        runs: by run id.
        views: saved reports, by name.
        operations: names of the GraphQL operations received, in order.
        complaints: every refusal, which a test expects to be empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []
        self.complaints: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self.lock = threading.RLock()

    def __enter__(self) -> Server:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Says nothing."""

            def do_POST(self) -> None:
                self.answer("POST")

            def do_PUT(self) -> None:
                self.answer("PUT")

            def do_GET(self) -> None:
                self.answer("GET")

            def answer(self, method: str) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(size)
                try:
                    with server.lock:
                        status, content = server.handle(method, self.path, self.headers, body)
                except Exception as problem:
                    # an answer in any case: a client without one asks again for minutes
                    server.complaints.append(f"{type(problem).__name__}: {problem}")
                    status, content = 400, {"errors": [{"message": str(problem)}]}
                text = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def environment(self, key: str | None = KEY) -> dict[str, str]:
        """Variables under which the library talks to this server and to nobody else."""
        variables = {
            "WANDB_BASE_URL": self.url,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_ENTITY": "",
            "NETRC": "/dev/null",
            # what measures the machine may ask an address outside it for metadata
            "WANDB_X_DISABLE_STATS": "true",
            "WANDB_X_DISABLE_META": "true",
        }
        return variables | ({"WANDB_API_KEY": key} if key else {})

    def handle(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, Any]:
        if path.startswith("/storage/"):
            if method != "PUT":
                raise Refused(f"{method} {path}")
            self.store(path.removeprefix("/storage/"), body)
            return 200, {}
        wanted = "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode()
        if headers.get("Authorization") != wanted:
            return 401, {"errors": [{"message": "invalid credentials"}]}
        if method == "POST" and path == "/graphql":
            return 200, {"data": self.graphql(json.loads(body))}
        stream = re.fullmatch(r"/files/([\w-]+)/([\w-]+)/(\w+)/file_stream", path)
        if method == "POST" and stream:
            self.receive(self.known(stream[3]), json.loads(body))
            return 200, {}
        raise Refused(f"{method} {path} is not modelled")

    def receive(self, run: Run, content: dict[str, Any]) -> None:
        """One message of a run's file stream."""
        unknown = set(content) - {
            "files", "complete", "exitcode", "dropped", "uploaded", "preempting"
        }  # fmt: skip
        if unknown:
            raise Refused(f"file stream: unknown fields {sorted(unknown)}")
        for name, chunk in (content.get("files") or {}).items():
            if name not in STREAMS:
                raise Refused(f"file stream: unknown file {name}")
            lines = run.lines.setdefault(name, {})
            if chunk["offset"] > len(lines) and name != "wandb-summary.json":
                raise Refused(f"{name}: offset {chunk['offset']} leaves a gap after {len(lines)}")
            for number, line in enumerate(chunk["content"], start=chunk["offset"]):
                if name != "output.log":
                    json.loads(line)
                lines[number] = line
        run.preempting |= bool(content.get("preempting"))
        if content.get("complete"):
            run.complete, run.exit_code = True, content.get("exitcode")

    def store(self, path: str, body: bytes) -> None:
        self.uploads[path] = body
        kind, _, rest = path.partition("/")
        if kind == "runs":
            name, _, file = rest.partition("/")
            self.known(name).files[file] = body

    def graphql(self, request: dict[str, Any]) -> Any:
        operation, fragments = Parser(request["query"]).document()
        self.operations.append(operation.name)
        if operation.name == PROBE:
            raise Refused(f"{operation.name} comes before a look for metadata outside this machine")
        declared = {(name, written) for name, (written, _) in operation.variables.items()}
        embedded = core_operations().get(operation.name)
        if embedded is not None and not declared <= embedded:
            raise Refused(f"{operation.name} declares {declared - embedded}")
        variables = check_variables(operation, request.get("variables") or {})
        return project(
            operation.selections, self.root(operation), variables, fragments, operation.name
        )
