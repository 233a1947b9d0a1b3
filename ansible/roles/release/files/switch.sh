#!/bin/sh
# switch.sh ROOT NAME VERSION: let ROOT/current/NAME point to a release, and ROOT/previous/NAME to what it pointed to.
# Says `switched` when it did something; exit code 3 when the release isn't installed.
set -eu
name=$2 target=../releases/$3
[ -e "$1/releases/$3/release.json" ] || exit 3
cd "$1"
current=$(readlink "current/$name" || true)
[ "$current" != "$target" ] || exit 0

point() { # LINK TARGET: in one step, so that there is always one
    ln -s -f -n "$2" "$1.new"
    mv -T "$1.new" "$1"
}

# In this order: cut off between the two, the next run sees that there is something left to do.
[ -z "$current" ] || point "previous/$name" "$current"
point "current/$name" "$target"
echo switched
