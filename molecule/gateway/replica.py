"""An API server's place: says which port it has; `/slow` takes eight seconds and answers in two parts."""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Replica(BaseHTTPRequestHandler):
    """Keeps connections, as an API server does."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        port = self.server.server_address[1]
        body = json.dumps({"port": port}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:1])
        if self.path.startswith("/slow"):
            time.sleep(8)
        self.wfile.write(body[1:])


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Replica).serve_forever()
