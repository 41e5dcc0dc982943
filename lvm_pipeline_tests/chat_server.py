"""A real chat server on loopback whose behaviour a test scripts, one function per server."""

import json
from contextlib import contextmanager

from lvm_pipeline_tests.loopback_server import LoopbackServer


def completion(text, *, finish_reason="stop"):
    """A response of the chat-completions protocol."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "scripted", "choices": [choice]}


class ChatServer(LoopbackServer):
    """Answers with what `behave(body)` returns: JSON values, bytes, a status code with text, or a writer of bytes."""

    def __init__(self, behave):
        super().__init__()
        self.behave = behave
        self.requests, self.headers = [], []
        self.url = f"http://{self.address}/v1"

    def answer(self, handler, body):
        values = json.loads(body)
        self.requests.append(values)
        self.headers.append(handler.headers)
        answer = self.behave(values)
        status, answer = answer if isinstance(answer, tuple) else (200, answer)
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.end_headers()
        try:
            if callable(answer):
                answer(handler.wfile)
            else:
                handler.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
        except ConnectionError:
            pass


@contextmanager
def chat_server(behave):
    with ChatServer(behave).listening() as server:
        yield server
