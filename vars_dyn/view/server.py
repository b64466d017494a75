"""Serve one store to browsers on this machine, and to nobody else."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from bokeh.settings import settings
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from tornado.web import ErrorHandler

from vars_dyn.view.page import TEMPLATE
from vars_dyn.view.session import Session

__all__ = ["serve", "server_of"]

_LOOPBACK = "127.0.0.1"


class _Guarded(BokehTornado):
    """The application of one page, which answers only requests that name this machine.

    A page elsewhere whose name is made to point here would send its own name as the host, and gets nothing.
    """

    def __init__(self, page: Application, hosts: list[str]) -> None:
        self._hosts = hosts
        super().__init__({"/": page}, extra_websocket_origins=hosts, use_index=False)

    def find_handler(self, request: HTTPServerRequest, **keywords: Any) -> Any:
        if request.host.lower() not in self._hosts:
            return self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})
        return super().find_handler(request, **keywords)


def server_of(path: Path, port: int = 0) -> tuple[BaseServer, str]:
    """A server of the store at `path` on this thread's event loop, started, and its address.

    It listens on the loopback device only, at `port`, or at a free one for 0. It takes no path from a request. Raises
    ValueError for a port that is taken.
    """
    try:
        sockets: list[socket.socket] = bind_sockets(port, _LOOPBACK)
    except OSError as error:
        raise ValueError(f"--port is {port}, which cannot be had: {error.strerror or error}") from None
    port = sockets[0].getsockname()[1]
    hosts = [f"{_LOOPBACK}:{port}", f"localhost:{port}"]
    # An environment that opens Bokeh's servers to other origins, as some notebooks' servers do, does not open this one.
    settings.allowed_ws_origin.set_value(hosts)

    def begin(document: Document) -> None:
        document.template = TEMPLATE
        Session(document, path)

    application = _Guarded(Application(FunctionHandler(begin)), hosts)
    http = HTTPServer(application, max_buffer_size=1 << 22)
    http.add_sockets(sockets)
    server = BaseServer(IOLoop.current(), application, http)
    server.start()
    return server, f"http://localhost:{port}/"


def serve(path: Path, port: int, begun: Callable[[str], None]) -> None:
    """Serve the store at `path` until the process is interrupted. `begun` takes the address."""
    server, address = server_of(path, port)
    begun(address)
    try:
        server.io_loop.start()
    finally:
        server.stop(wait=False)
        server.io_loop.add_callback(server.io_loop.stop)
