#!/bin/sh
# The lab's own view of the file system: its mounts end with it, whatever becomes of the program that made them.
# Arguments: the sets of cgroup v1 controllers of this machine; none where its hierarchy is version 2, which podman takes as it is.
# A hybrid hierarchy, which it doesn't take, is shown to it as a pure version 1.
set -eu
if [ $# -gt 0 ]; then
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    for controllers; do
        options=$controllers folder=${controllers#name=}
        [ "$folder" = "$controllers" ] || options=none,$controllers
        mkdir "/sys/fs/cgroup/$folder"
        mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/$folder"
    done
fi
echo ready
exec >/dev/null 2>&1
exec sleep infinity
