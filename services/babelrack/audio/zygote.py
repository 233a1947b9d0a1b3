"""The process that forks a confined child for each decode: `python -m babelrack.audio.zygote`, a unix socket as stdin.

It imports libav once, stays single-threaded so that forking is safe, and never touches an upload itself. The socket
(SOCK_SEQPACKET) takes `{"decode": id, …}` together with three descriptors (upload, PCM pipe, status pipe) and
`{"kill": id}`. A decode's status pipe carries JSON lines: `info`, then `done` or `error` from the child, and last,
once the child is reaped, `exit` from here. When the server goes away, however it does, this process
and its children go too.
"""

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import resource
import selectors
import signal
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import av

from babelrack.audio.containers import Declared
from babelrack.audio.decoder import Decoder
from babelrack.audio.errors import AudioError
from babelrack.audio.limits import DecodeLimits

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_GET_NO_NEW_PRIVS: Final = 39
_UPLOAD, _PCM, _STDERR, _STATUS = 0, 1, 2, 3
_MESSAGE_BYTES: Final = 4096
_prctl = ctypes.CDLL(None, use_errno=True).prctl


@dataclass(frozen=True, slots=True)
class _Child:
    pid: int
    exited: int
    status: int


class Zygote:
    """Forks, kills and reaps. A child in the table is unreaped, so its pid is never another's."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)

    def serve(self) -> None:
        """Work until the server closes its end, then leave nothing behind."""
        try:
            while True:
                for key, _ in self._selector.select():
                    if key.data is not None:
                        self._reap(key.data)
                    elif not self._receive():
                        return
        finally:
            for child in self._children.values():
                signal.pidfd_send_signal(child.exited, signal.SIGKILL)

    def _receive(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, 3)
        if not message:
            return False
        request: dict[str, Any] = json.loads(message)
        if "kill" in request:
            if child := self._children.get(request["kill"]):
                signal.pidfd_send_signal(child.exited, signal.SIGKILL)
            return True
        upload, pcm, status = descriptors
        try:
            self._fork(request, upload, pcm, status)
        except OSError as fault:
            _tell(status, {"lost": f"a decoder could not be started: {fault.strerror}"})
            os.close(status)
        finally:
            os.close(upload)
            os.close(pcm)
        return True

    def _fork(self, request: dict[str, Any], upload: int, pcm: int, status: int) -> None:
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            _decode_and_exit(request, upload, pcm, status, zygote)
        try:
            exited = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        identity = request["decode"]
        self._children[identity] = _Child(pid, exited, status)
        self._selector.register(exited, selectors.EVENT_READ, identity)

    def _reap(self, identity: int) -> None:
        child = self._children.pop(identity)
        self._selector.unregister(child.exited)
        _, wait_status = os.waitpid(child.pid, 0)
        os.close(child.exited)
        _tell(child.status, {"exit": os.waitstatus_to_exitcode(wait_status)})
        os.close(child.status)


def _decode_and_exit(request: dict[str, Any], upload: int, pcm: int, status: int, zygote: int) -> NoReturn:
    """Run in the child: nothing of the zygote's may run after this, so it leaves by `_exit` on every path."""
    code = 70
    try:
        limits = DecodeLimits(**request["limits"])
        os.dup2(_PCM, _STDERR)  # /dev/null still: a broken codec's last words are no line of the server's log
        os.dup2(upload, _UPLOAD)
        os.dup2(pcm, _PCM)
        os.dup2(status, _STATUS)
        _confine(limits, zygote)
        _decode(Declared(**request["declared"]), limits)
        code = 0
    finally:
        os._exit(code)


def _confine(limits: DecodeLimits, zygote: int) -> None:
    """Give up all that decoding doesn't need: other descriptors, opening any, new processes, files, privileges."""
    if _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) or _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != zygote:  # it died before the kernel was asked to tell
        os._exit(71)
    occupied = int(os.read(os.open("/proc/self/statm", os.O_RDONLY), 200).split()[0]) * resource.getpagesize()
    os.closerange(_STATUS + 1, 65_536)
    memory = occupied + limits.max_memory_bytes
    for what, bound in (
        (resource.RLIMIT_AS, (memory, memory)),
        (resource.RLIMIT_CPU, (limits.max_cpu_seconds, limits.max_cpu_seconds + 5)),
        (resource.RLIMIT_FSIZE, (0, 0)),
        (resource.RLIMIT_CORE, (0, 0)),
        (resource.RLIMIT_NPROC, (0, 0)),
        (resource.RLIMIT_NOFILE, (_STATUS + 1, _STATUS + 1)),
    ):
        resource.setrlimit(what, bound)


def _decode(declared: Declared, limits: DecodeLimits) -> None:
    try:
        decoder = Decoder(_UPLOAD, declared, limits)
        info = decoder.info
        _tell(_STATUS, {"info": {name: getattr(info, name) for name in info.__slots__}})
        for piece in decoder:
            view = memoryview(piece)
            while view:
                view = view[os.write(_PCM, view) :]
        _tell(_STATUS, {"done": True})
    except AudioError as refusal:
        _tell(_STATUS, {"error": {"code": refusal.code, "message": refusal.message}})
    except BrokenPipeError:
        return  # nobody listens any more


def _tell(status: int, message: dict[str, Any]) -> None:
    try:
        os.write(status, json.dumps(message).encode() + b"\n")
    except OSError:
        return  # the server has stopped listening to this decode


def _rehearse() -> None:
    """Load and run all that a child will: it can open no file, not even to import a module at its first use."""
    _prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name != "av.__main__":
            importlib.import_module(module.name)
    samples = bytes(2 * 4410)
    form = struct.pack("<HHIIHH", 1, 1, 44_100, 88_200, 2, 16)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(samples)) + samples
    wav = b"RIFF" + struct.pack("<I", len(chunks)) + chunks
    upload = os.memfd_create("rehearsal")
    for content in (wav, b"fLaC" + wav):
        os.ftruncate(upload, 0)
        os.pwrite(upload, content, 0)
        with suppress(AudioError):
            for _ in Decoder(upload, Declared(), DecodeLimits()):
                pass
    os.close(upload)


def main() -> None:
    """Serve the socket on stdin. Signals meant for the server's process group leave this process to its drain."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=sys.stdin.fileno())
    _rehearse()
    gc.collect()
    gc.freeze()  # children then don't copy pages just to collect garbage that isn't there
    Zygote(control).serve()


if __name__ == "__main__":
    main()
