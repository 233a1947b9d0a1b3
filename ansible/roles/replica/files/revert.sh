#!/bin/sh
# revert.sh FOLDER PACK: put back what remember.sh kept, and restart what runs something else.
set -eu
folder=$1 pack=$2
rm -rf "/etc/systemd/system/asr@$pack.service.d" "/etc/systemd/system/api-server@$pack.service.d" \
    "/etc/babelrack/packs/$pack" "/opt/babelrack/current/$pack" "/opt/babelrack/previous/$pack"
tar --extract --preserve-permissions --directory=/ --file="$folder/before.tar"
systemctl daemon-reload
for pair in asr:model api-server:api; do
    unit=${pair%:*}@$pack.service
    wanted=$(sed -n 's/^BABELRACK_REVISION=//p' "/etc/babelrack/packs/$pack/${pair#*:}.env")
    running=
    if [ "$(systemctl is-active "$unit")" = active ]; then
        process=$(systemctl show --property MainPID --value "$unit")
        running=$(tr '\0' '\n' <"/proc/$process/environ" | sed -n 's/^BABELRACK_REVISION=//p')
    fi
    if [ "$running" != "$wanted" ]; then
        systemctl reset-failed "$unit" 2>/dev/null || true
        systemctl restart "$unit"
    fi
done
