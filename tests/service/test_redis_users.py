"""What the role `redis` lets each user do, on a real Redis with the role's own list of users."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from babelrack.api_server.jobs.board import Board
from babelrack.api_server.live.relay import Relay
from babelrack.api_server.redis_client import redis_client
from babelrack.keys import ClientKey, Limiter, LimitExceeded

PROJECT = Path(__file__).parents[2]
ROLE = PROJECT / "ansible" / "roles" / "redis"
ANSIBLE = Path(sys.executable).with_name("ansible")
PASSWORDS = {"redis_api_password": "a" * 43, "redis_admin_password": "b" * 43}  # of a server that lives for one test
pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None or not ANSIBLE.exists(), reason="redis-server or Ansible is not installed"
)


def users_file(folder: Path, version: str) -> Path:
    """The role's users, as Ansible writes them for a version of Redis."""
    variables = PASSWORDS | {"redis_package": {"stdout": version}}
    arguments = {"src": str(ROLE / "templates" / "users.acl.j2"), "dest": str(folder / "users.acl")}
    command = [str(ANSIBLE), "all", "--inventory", "localhost,", "--connection", "local", "--module-name", "template"]
    command += ["--args", json.dumps(arguments), "--extra-vars", f"@{ROLE}/defaults/main.yml"]
    command += ["--extra-vars", f"@{ROLE}/vars/main.yml"]
    command += ["--extra-vars", json.dumps(variables | {"ansible_python_interpreter": sys.executable})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout
    return folder / "users.acl"


@dataclass
class Server:
    socket: Path

    def client(self, user: str | None, password: str | None = None) -> redis.Redis:
        """A client that comes as a user, and doesn't try again when it is refused."""
        retry = Retry(NoBackoff(), 0)
        password = password or PASSWORDS.get(f"redis_{user}_password")
        return redis.Redis(unix_socket_path=str(self.socket), username=user, password=password, retry=retry)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("r")  # short, because a socket's path has 107 bytes at most
    said = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    users = users_file(folder, said.split("v=")[1].split()[0])
    settings = f'port 0\nunixsocket {folder}/redis.sock\nsave ""\naclfile {users}\ndir {folder}\n'
    process = subprocess.Popen(["redis-server", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write(settings)
    process.stdin.close()
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "ready to accept connections" in line:
            break
    else:
        pytest.fail("".join(lines))
    yield Server(folder / "redis.sock")
    process.kill()
    process.wait()


async def test_an_api_server_s_limits_are_shared_with_the_rights_of_the_user_api(server: Server) -> None:
    url, password = f"unix://api@{server.socket}", PASSWORDS["redis_api_password"]
    replicas = [Limiter(url, "indic", password=password, deadline=5.0, lease=0.6) for _ in range(2)]
    key = ClientKey("acme", requests_per_minute=3, concurrency=1)
    for limiter in replicas:
        await limiter.start()
    async with replicas[0].admit(key):
        with pytest.raises(LimitExceeded, match="at once"):
            async with replicas[1].admit(key):
                pass
        await replicas[0]._refresh("XX")
        await replicas[0]._refresh("CH")
    for _ in range(2):
        async with replicas[1].admit(key):
            pass
    with pytest.raises(LimitExceeded, match="a minute"):
        async with replicas[0].admit(key):
            pass
    assert [limiter.reason for limiter in replicas] == [None, None]
    for limiter in replicas:
        await limiter.stop()


async def test_a_job_s_state_is_told_to_other_replicas_with_the_rights_of_the_user_api(server: Server) -> None:
    url, password = f"unix://api@{server.socket}", PASSWORDS["redis_api_password"]
    told = asyncio.Event()

    async def show(key: str, request_id: str) -> str:
        told.set()
        return f"{request_id} of {key}"

    clients = [redis_client(url, "indic", password=password) for _ in range(2)]
    mine, others = (Board(client, "indic") for client in clients)
    async with mine.running(show), others.running(show), asyncio.timeout(60):
        mine.tell("acme", "call-1")
        await told.wait()
        while (found := await others.find("acme", "call-1")) is None:
            await asyncio.sleep(0.02)
        assert found == "call-1 of acme"
        assert await others.find("other", "call-1") is None
    assert await Board(None, "indic").find("acme", "call-1") is None
    for client in clients:
        await client.aclose()


async def test_a_live_session_is_watched_and_taken_over_with_the_rights_of_the_user_api(server: Server) -> None:
    url, password = f"unix://api@{server.socket}", PASSWORDS["redis_api_password"]
    clients = [redis_client(url, "indic", password=password) for _ in range(2)]
    mine, others = (Relay(client, "indic") for client in clients)
    fixed = {"path": "/v1/listen", "asked": []}
    async with mine.running(), others.running(), asyncio.timeout(60):
        trace = mine.trace("s1", "acme", fixed, lambda: {"count": 2})
        trace.note(1, '{"n": 1}', partial=False, text="one")
        while not await clients[0].get("babelrack:{indic}:live:s1:owner"):
            await asyncio.sleep(0.02)
        async with others.watching("s1") as events:
            trace.note(2, '{"n": 2}', partial=True)
            assert await anext(events) == '{"n": 2}'
        assert await others.take("s1", "somebody-else") is None
        kept = await others.take("s1", "acme")
        assert kept is not None
        assert (kept.fixed, kept.now, kept.text) == (fixed, {"count": 2}, "one")
        assert kept.events == [(1, '{"n": 1}'), (2, '{"n": 2}')]
        trace.note(3, '{"n": 3}', partial=False)
        while not trace.taken:
            await asyncio.sleep(0.02)
        again = others.trace("s1", "acme", fixed, lambda: {"count": 2})
        again.go_on(kept, kept.events)
        again.note(3, '{"n": 3}', partial=False)
        again.end(forget=True)
        while await clients[0].get("babelrack:{indic}:live:s1:owner"):
            await asyncio.sleep(0.02)
    assert (mine.reason, others.reason) == (None, None)
    for client in clients:
        await client.aclose()


@pytest.mark.parametrize(
    "command",
    [
        "KEYS *",
        "FLUSHALL",
        "CONFIG GET requirepass",
        "ACL LIST",
        "CLIENT LIST",
        "CLIENT KILL TYPE normal",
        "SCRIPT FLUSH",
        "MONITOR",
        "SHUTDOWN NOSAVE",
        "GET elsewhere",
        "SET elsewhere 1",
        "PUBLISH elsewhere word",
        "SUBSCRIBE elsewhere",
        "EVAL return 0",
    ],
)
def test_an_api_server_may_do_nothing_else(server: Server, command: str) -> None:
    with server.client("api") as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command.split())


@pytest.mark.parametrize("command", ["PING", "GET babelrack:x", "INFO", "KEYS *"])
def test_nobody_may_do_anything_without_a_name_and_a_password(server: Server, command: str) -> None:
    for password in (None, PASSWORDS["redis_api_password"]):
        with server.client(None, password) as client, pytest.raises(redis.exceptions.AuthenticationError):
            client.execute_command(*command.split())


def test_the_operator_may_do_everything(server: Server) -> None:
    with server.client("admin") as client:
        assert client.config_get("maxmemory")
        assert {line.split()[1] for line in client.acl_list()} == {"admin", "api", "default"}
        assert client.publish("elsewhere", "word") == 0


def test_passwords_are_not_in_the_list_of_users(server: Server) -> None:
    text = (server.socket.parent / "users.acl").read_text()
    assert not [password for password in PASSWORDS.values() if password in text]


def test_a_redis_of_before_channels_had_rights_is_told_of_none(tmp_path: Path) -> None:
    text = users_file(tmp_path, "5:6.0.16-1ubuntu1").read_text()
    assert "channels" not in text
    assert "&" not in text
    assert "setinfo" not in text
    assert "client|setinfo" in users_file(tmp_path, "5:8.0.2-3").read_text()
