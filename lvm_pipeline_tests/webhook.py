"""A real webhook receiver on loopback that keeps what it is sent, and can refuse."""

import json

from lvm_pipeline_tests.loopback_server import LoopbackServer


class Receiver(LoopbackServer):
    """What came in, and how many requests are still to be refused."""

    def __init__(self):
        super().__init__()
        self.messages = []
        self.num_refusals = 0
        self.num_requests = 0
        self.url = f"json://{self.address}/hook-s3cret-token"

    def answer(self, handler, body):
        self.num_requests += 1
        refuses = self.num_refusals > 0
        if refuses:
            self.num_refusals -= 1
        else:
            self.messages.append(json.loads(body))
        handler.send_response(503 if refuses else 200)
        handler.end_headers()
