"""HTTP on the loopback interface: one thread for each call, since every call is slow."""

from __future__ import annotations

import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from examples.cloud.service import CloudService, Response

MAX_BODY = 64 * 1024
"""Bytes of a request's body; resources are small."""


class CloudServer(ThreadingHTTPServer):
    """Serves a cloud at 127.0.0.1.

    Args:
        service: what answers the calls.
        port: 0 for any free one.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, service: CloudService, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.service = service

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            self._send(Response(413, {"code": "invalid", "message": f"a body has at most {MAX_BODY} bytes"}))
            return
        self._answer(self.rfile.read(int(length)))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the store keeps a better log."""

    def _answer(self, body: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        assert isinstance(self.server, CloudServer)
        response = self.server.service.handle(self.command, self.path, headers, body)
        response.heard(self._send(response))

    def _send(self, response: Response) -> bool:
        """Send an answer. Returns whether there was still somebody to hear it."""
        content = json.dumps(response.body).encode()
        if self._is_gone():
            self.close_connection = True
            return False
        try:
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True
            return False
        return True

    def _is_gone(self) -> bool:
        """Whether the caller closed the connection, or died, while it was being served."""
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
