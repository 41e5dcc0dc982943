"""A real webhook receiver on loopback that keeps what it is sent, and can refuse."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """What came in, and how many requests are still to be refused."""

    def __init__(self):
        self.messages = []
        self.num_refusals = 0
        self.num_requests = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"json://127.0.0.1:{self._server.server_port}/hook-s3cret-token"

    def _handler(self):
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.num_requests += 1
                refuses = receiver.num_refusals > 0
                if refuses:
                    receiver.num_refusals -= 1
                else:
                    receiver.messages.append(json.loads(body))
                self.send_response(503 if refuses else 200)
                self.end_headers()

            def log_message(self, *_): ...

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
