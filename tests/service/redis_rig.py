"""A real Redis for the tests in this folder, that can be stopped, killed and come back empty."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import redis

PATIENCE = 60.0
PASSWORD = "a shared password"  # of a server that lives for one test


@dataclass
class RedisServer:
    """A redis-server on a socket of its own, that keeps nothing when it dies."""

    folder: Path
    process: subprocess.Popen | None = None

    @property
    def socket(self):
        return self.folder / "redis.sock"

    @property
    def url(self):
        return f"unix://{self.socket}"

    def start(self):
        self.socket.unlink(missing_ok=True)
        configuration = f'port 0\nunixsocket {self.socket}\nsave ""\nrequirepass "{PASSWORD}"\ndir {self.folder}\n'
        self.process = subprocess.Popen(["redis-server", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.process.stdin.write(configuration.encode())
        self.process.stdin.close()
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with redis.Redis(unix_socket_path=str(self.socket), password=PASSWORD) as client:
                    client.ping()
            except redis.RedisError:
                assert time.monotonic() < deadline, "redis-server doesn't answer"
                assert self.process.poll() is None, "redis-server ended"
                time.sleep(0.05)
            else:
                return

    def signal(self, which):
        self.process.send_signal(which)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None
