"""The process in which one system is loaded and measured: `python -m bench.worker SYSTEM THREADS`.

Orders come as JSON lines on stdin, answers leave as JSON lines on stdout; what a system prints goes to stderr.
"""

import json
import os
import sys
import time
from importlib import import_module, metadata

from bench.systems import SYSTEMS


def main() -> None:
    """Load the system, say how long that took, and do what is ordered until stdin ends."""
    name, threads = sys.argv[1], int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(result: object) -> None:
        answers.write(json.dumps(result) + "\n")
        answers.flush()

    system = SYSTEMS[name]
    started = time.perf_counter()
    transcriber = system.load(threads)
    try:
        answer(
            {
                "load_s": time.perf_counter() - started,
                "versions": {package: metadata.version(package) for package in system.packages},
            }
        )
        for line in sys.stdin:
            order = json.loads(line)
            experiment = import_module(f"bench.{order['experiment']}")
            answer(experiment.inside(transcriber, **order["arguments"]))
    finally:
        transcriber.close()


if __name__ == "__main__":
    main()
