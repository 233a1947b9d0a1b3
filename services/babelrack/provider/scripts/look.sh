# What this host is, one fact a line, and its claims. Changes nothing.
printf 'babelrack 1\n'
[ ! -r /etc/os-release ] || sed 's/^/os /' /etc/os-release
printf 'kernel %s\n' "$(uname -r)"
printf 'architecture %s\n' "$(uname -m)"
printf 'cpus %s\n' "$(getconf _NPROCESSORS_ONLN)"
sed -n 's/^MemTotal: */memory /p' /proc/meminfo
# Checkpoints need the disk; before the first roll their folder isn't there yet.
for folder in /var/cache/babelrack/checkpoints /var/cache/babelrack /var/cache /var /; do
    [ ! -d "$folder" ] || break
done
df -Pk "$folder" | sed -n '2s/^/disk /p'
for device in /sys/bus/pci/devices/*; do
    [ -r "$device/class" ] && [ -r "$device/vendor" ] && [ -r "$device/device" ] || continue
    read -r class <"$device/class"
    read -r vendor <"$device/vendor"
    read -r id <"$device/device"
    case $vendor:$class in
        0x10de:* | *:0x03*) printf 'pci %s %s %s %s\n' "${device##*/}" "$class" "$vendor" "$id" ;;
    esac
done
if command -v nvidia-smi >/dev/null; then
    if rows=$(timeout 20 nvidia-smi --query-gpu=index,name,memory.total,uuid,pci.bus_id,driver_version,mig.mode.current \
        --format=csv,noheader,nounits 2>&1); then
        printf '%s\n' "$rows" | sed 's/^/nvidia-smi /'
    else
        printf '%s\n' "$rows" | head -n 1 | sed 's/^/nvidia-smi-failed /'
    fi
fi
if [ -e "$claims/.lock" ]; then
    exec 9<"$claims/.lock"
    flock -s -w 20 9 || fail "another claim is being made for more than 20 seconds"
fi
show_claims
printf 'result done\n'
