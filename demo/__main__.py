"""`make demo`: a fleet on lab hosts, or where those can't be made, two packs as processes of this machine."""

import os
import subprocess
import sys


def main() -> int:
    """The exit code of the demo that could be shown."""
    done = subprocess.run([sys.executable, "-m", "demo.fleet"], check=False)
    if done.returncode != os.EX_UNAVAILABLE:
        return done.returncode
    sys.stdout.write("So this is the demo without hosts: the same servers, as processes of this machine.\n")
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-m", "demo.local"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
