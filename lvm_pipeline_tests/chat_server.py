"""A real chat server on loopback whose behaviour a test scripts, one function per server."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text, *, finish_reason="stop"):
    """A response of the chat-completions protocol."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "scripted", "choices": [choice]}


class ChatServer:
    """Answers with what `behave(body)` returns: JSON values, bytes, a status code with text, or a writer of bytes."""

    def __init__(self, behave):
        self.behave = behave
        self.requests, self.headers = [], []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def _handler(self):
        chat = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                chat.requests.append(body)
                chat.headers.append(self.headers)
                answer = chat.behave(body)
                status, answer = answer if isinstance(answer, tuple) else (200, answer)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                try:
                    if callable(answer):
                        answer(self.wfile)
                    else:
                        self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
                except ConnectionError:
                    pass

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


@contextmanager
def chat_server(behave):
    with ChatServer(behave).listening() as server:
        yield server
