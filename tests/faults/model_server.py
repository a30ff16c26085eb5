"""A chat-completions server that starts in a moment and can be killed: `python model_server.py PORT [ANSWERS]`.

Each answer repeats the end of its request and adds a line to standard output. After ANSWERS answers, later requests
get no answer until the server is killed. It imports only the standard library.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_SECONDS = 0.02  # for an answer
_left = threading.Semaphore(int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000)  # answers


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send({"object": "list", "data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][0]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        _left.acquire()
        time.sleep(_SECONDS)
        message = {"role": "assistant", "content": f"a picture of {text[-40:]}"}
        self._send({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
        print("answered", flush=True)

    def _send(self, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
