#!/bin/sh
# remember.sh FOLDER PACK: keep what makes PACK's replica run as it does in FOLDER/before.tar, for revert.sh.
set -eu
folder=$1 pack=$2
umask 077
cd /
set --
for path in \
    etc/systemd/system/asr@.service "etc/systemd/system/asr@$pack.service.d" \
    etc/systemd/system/api-server@.service "etc/systemd/system/api-server@$pack.service.d" \
    "etc/babelrack/packs/$pack" etc/babelrack/credentials \
    "opt/babelrack/current/$pack" "opt/babelrack/previous/$pack"; do
    if [ -e "$path" ] || [ -L "$path" ]; then set -- "$@" "$path"; fi
done
tar --create --file="$folder/before.tar.new" "$@"
mv "$folder/before.tar.new" "$folder/before.tar"
