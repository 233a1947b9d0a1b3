#!/bin/sh
# install.sh WHEELS RELEASES VERSION PYTHON INSTALLER BASE [WHEEL...]: verify the wheels, and install them into
# RELEASES/VERSION; those that are named are taken from the release BASE, which is empty where there is none.
# One at a time on a host; whoever waited finds it done. Says `installed` when it did something. release.json, which makes
# the release count, is written last.
set -eu
wheels=$1 releases=$2 version=$3 python=$4 installer=$5 base=$6
shift 6
release=$releases/$version
umask 022

fail() {
    echo "$*" >&2
    exit 1
}

exec 9>"$releases/.lock"
flock 9
[ ! -e "$release/release.json" ] || exit 0

# The version names the list of checksums, and the list names every wheel.
cd "$wheels"
[ "$(sha256sum SHA256SUMS | cut -c 1-12)" = "${version##*-}" ] || fail "SHA256SUMS is not that of $version; build it again"
printf '%s\n' "$@" >reused
awk 'NR == FNR { reused[$1]; next } !($2 in reused)' reused SHA256SUMS >shipped
sha256sum --check --strict --quiet shipped >&2 || fail "wheels of $version arrived damaged (see above); run this again"

# What a broken-off installation left. A venv holds its own path, so it is made where it stays.
rm -rf "$release"
# Without pip: Debian's venv would want the package python3-venv for it, and nothing is ever installed into a release again.
"$python" -m venv --without-pip "$release" || fail "$python can't make a virtual environment"
[ -z "$base" ] || "$python" reuse.py link "$releases/$base" "$release" "$@" || fail "$base has changed; run this again"
awk 'NR == FNR { shipped["--hash=sha256:" $1]; next } $2 in shipped' shipped requirements.txt >needed
"$release/bin/python" "$installer/pip" --isolated --disable-pip-version-check --quiet install \
    --no-index --find-links "$wheels" --no-deps --require-hashes --requirement needed \
    --no-cache-dir --no-compile --root-user-action ignore
# What the servers import: it proves that machine code finds its libraries on this host, and leaves the byte code of what
# they need, because services can't write here. Compiling all of torch and its own dependencies would take three times as long.
"$release/bin/python" -c 'import av, torch
import babelrack.api_server.app, babelrack.license_proxy.app, babelrack.model_server.app' >&2 ||
    fail "what the servers of $version need doesn't work on this host (see above)"
"$release/bin/python" -m compileall -q "$release"/lib/python*/site-packages/babelrack >&2 ||
    fail "the package in $version is broken (see above)"
"$release/bin/babelrack" --version >/dev/null || fail "babelrack of $version doesn't start on this host (see above)"
chown -R root:root "$release"
chmod -R u=rwX,go=rX "$release"
sync -f "$release"
install -m 0644 SHA256SUMS "$release"
install -m 0644 release.json "$release/.release.json.new"
mv "$release/.release.json.new" "$release/release.json"
echo installed
