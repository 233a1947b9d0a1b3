#!/usr/bin/env bash
# Write requirements.lock from the .venv that is there: what works here is what others get.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
{
    cat <<'HEAD'
# Exact versions of everything in .venv: runtime, development, and the build backend of the editable install.
# Made by `make lock` from a working .venv. Installed with --no-deps (see setup/setup.sh), so this list is complete.
HEAD
    # A build's local version (torch's +cpu) is the machine's, not the project's.
    .venv/bin/python -m pip freeze --exclude-editable | sed -nE 's/^([A-Za-z0-9_.-]+==[^+ ]+).*/\1/p' |
        grep -vi '^babelrack==\|^async-timeout==' | LC_ALL=C sort --ignore-case
    # What an older Python needs besides, Debian 12's for one: redis asks for it.
    echo 'async-timeout==5.0.1 ; python_full_version < "3.11.3"'
} >requirements.lock.new
mv requirements.lock.new requirements.lock
