"""A real HTTP server on loopback for tests of what speaks to a server; what it answers, a subclass says."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LoopbackServer:
    """Answers every GET and POST with `answer(handler, body)`, which writes the response."""

    def __init__(self):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"

    def answer(self, handler, body):
        raise NotImplementedError

    def _handler(self):
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def do_GET(self):
                self.do_POST()

            def log_message(self, format, *args): ...

        return Handler

    @contextmanager
    def listening(self):
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()
