#!/bin/sh
# prune.sh ROOT KEEP VERSION: remove releases that nothing points to, but the KEEP newest of them and VERSION.
# Says what it removes, a line each.
set -eu
root=$1 keep=$2 version=$3
cd "$root/releases"
exec 9>.lock
flock 9

pointed_to() {
    for link in ../current/* ../previous/*; do
        [ "$(readlink "$link" || true)" != "../releases/$1" ] || return 0
    done
    return 1
}

# The newest first, by when they were installed.
ls -t ./*/release.json 2>/dev/null | while IFS=/ read -r _ release _; do
    if [ "$release" = "$version" ] || pointed_to "$release"; then continue; fi
    if [ "$keep" -gt 0 ]; then
        keep=$((keep - 1))
        continue
    fi
    rm -rf "./$release"
    echo "$release"
done
# Whoever installs holds the lock, so a release without its record is what a broken-off installation left.
for release in ./*/; do
    if [ -d "$release" ] && [ ! -e "$release/release.json" ]; then
        rm -rf "$release"
        basename "$release"
    fi
done
# What an installation that was cut off has left.
find "$root/releases" -mindepth 1 -maxdepth 1 -name '.wheels-*' -mmin +720 -exec rm -rf {} +
