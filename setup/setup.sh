#!/usr/bin/env bash
# Everything that the project needs, from a bare Debian 12 on: Debian packages, .venv, the JavaScript example's package,
# the demo's checkpoint, the speaker model.
# Run it again at any time: what is done is left alone. Settings: PYTHON, DEMO_CHECKPOINT and SPEAKER_MODEL (URLs).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
VENV=.venv
LOG=.cache/setup.log
VENV_STAMP=$VENV/.setup-stamp
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

if [[ -t 1 ]]; then BOLD=$'\e[1m' DIM=$'\e[2m' PLAIN=$'\e[0m'; else BOLD='' DIM='' PLAIN=''; fi
step() { printf '%s==>%s %s\n' "$BOLD" "$PLAIN" "$*"; }
note() { printf '    %s%s%s\n' "$DIM" "$*" "$PLAIN"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# --- Debian packages -------------------------------------------------------------------------------------------

present() {
    case $1 in
        python:*) command -v "$PYTHON" >/dev/null && "$PYTHON" -c "import ${1#python:}" 2>/dev/null ;;
        /*) [[ -e $1 ]] ;;
        *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
    esac
}

missing_packages() {
    local need package
    while read -r need package; do
        [[ -z $need || $need == '#'* ]] || present "$need" || printf '%s\n' "$package"
    done <setup/debian-packages | sort -u
}

# A package that starts its service on installation would take this machine's ports and outlive `make clean`:
# policy-rc.d keeps it from starting now, `systemctl disable` from starting at the next boot.
install_packages() {
    local policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=300 update >>"$LOG" 2>&1 ||
        note "apt-get update failed (see $LOG); going on with the package lists that are there"
    apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@" >>"$LOG" 2>&1 ||
        { tail -n 15 "$LOG" >&2; fail "apt-get could not install: $*. The whole log is $LOG."; }
    if [[ -d /run/systemd/system ]]; then
        local package
        for package in "$@"; do
            case $package in
                nginx-light) systemctl disable --quiet nginx.service || true ;;
                redis-server) systemctl disable --quiet redis-server.service || true ;;
                prometheus) systemctl disable --quiet prometheus.service || true ;;
                podman) systemctl disable --quiet podman.socket podman.service podman-restart.service podman-auto-update.timer || true ;;
                openssh-server) systemctl disable --quiet ssh.service || true ;;
            esac
        done
    fi
    [[ -z $(trap -p EXIT) ]] || { rm -f $policy; trap - EXIT; }
}

debian_packages() {
    local missing
    mapfile -t missing < <(missing_packages)
    ((${#missing[@]})) || return 0
    if ! command -v apt-get >/dev/null; then
        fail "this machine has no apt-get; install what brings ${missing[*]} yourself, then run this again."
    fi
    if ((EUID != 0)); then
        printf 'setup: not root, and Debian packages are missing; run: apt-get install %s\n' "${missing[*]}" >&2
        INCOMPLETE=1
        return 0
    fi
    step "Debian packages: ${missing[*]}"
    install_packages "${missing[@]}"
    mapfile -t missing < <(missing_packages)
    ((${#missing[@]} == 0)) || fail "still missing after installation: ${missing[*]}; see $LOG."
}

# --- Python ----------------------------------------------------------------------------------------------------

venv_fingerprint() {
    { cat requirements.lock pyproject.toml setup/setup.sh; "$VENV/bin/python" -c 'import sys; print(sys.version)'; pwd; } |
        sha256sum | cut -d ' ' -f 1
}

# pip's own output goes to the log; a terminal gets one line that counts.
pip_install() {
    local total=$1 status=0
    shift
    # Byte code comes with the first import, of what is imported: compiling all of Ansible's collections takes longer.
    "$VENV/bin/python" -m pip install --no-compile --no-color --progress-bar off "$@" 2>&1 | tee -a "$LOG" |
        { if [[ -t 1 ]]; then
            awk -v total="$total" '
                /^(Collecting|Requirement already satisfied)/ { n++; name = ($1 == "Collecting") ? $2 : $4
                    printf "\r\033[K    %d of %d  %s", n, total, name; fflush() }
                END { printf "\r\033[K" }'
          else cat >/dev/null; fi; } || status=$?
    ((status == 0)) || { tail -n 15 "$LOG" >&2; fail "pip failed; the whole log is $LOG."; }
}

python_packages() {
    if ! present python:venv || ! present python:ensurepip; then
        [[ -x $VENV/bin/python ]] || fail "$PYTHON can't make a virtual environment; run: apt-get install python3-venv"
    fi
    if [[ ! -x $VENV/bin/python ]]; then
        "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
            fail "$PYTHON is $("$PYTHON" -V 2>&1), and Python 3.11 or newer is needed; name one with PYTHON=…"
        step "Virtual environment: $VENV ($("$PYTHON" -V))"
        "$PYTHON" -m venv "$VENV"
    fi
    [[ $(cat "$VENV_STAMP" 2>/dev/null) != "$(venv_fingerprint)" ]] || return 0
    local pins torch
    pins=$(grep -cE '^[A-Za-z0-9]' requirements.lock)
    torch=$(grep -E '^torch==' requirements.lock)
    step "Python packages: $pins, pinned in requirements.lock (some minutes the first time)"
    # torch with its own dependencies, because they differ between CPU and CUDA builds; the rest exactly as locked,
    # because silero-vad asks for a torchaudio that nothing here uses and that would bring another torch.
    pip_install 12 --constraint requirements.lock "$torch"
    pip_install "$pins" --no-deps --requirement requirements.lock
    pip_install 1 --no-deps --no-build-isolation --editable .
    venv_fingerprint >"$VENV_STAMP.new"
    mv "$VENV_STAMP.new" "$VENV_STAMP"
}

# --- JavaScript ------------------------------------------------------------------------------------------------

# Only the example's own test needs it: without npm or its registry the test is skipped, and all else works.
javascript_package() {
    local home=examples/javascript
    present npm || return 0
    [[ ! $home/package-lock.json -nt $home/node_modules/.package-lock.json ]] && return 0
    step "JavaScript package: ws, pinned in $home/package-lock.json"
    npm ci --prefix $home --ignore-scripts --no-audit --no-fund --fetch-retries=1 --fetch-retry-mintimeout=1000 \
        >>"$LOG" 2>&1 ||
        note "npm failed (see $LOG); the JavaScript example's test will be skipped"
}

# --- Checkpoint ------------------------------------------------------------------------------------------------

checkpoint_fingerprint() {
    { echo "${DEMO_CHECKPOINT:-}"; cat setup/demo-checkpoint.txt setup/demo_checkpoint.py \
        services/babelrack/checkpoints/convert.py; } | sha256sum | cut -d ' ' -f 1
}

demo_checkpoint() {
    local home=.cache/checkpoints fingerprint
    fingerprint=$(checkpoint_fingerprint)
    if [[ -s $home/whisper-base/model.safetensors && $(cat $home/whisper-base.stamp 2>/dev/null) == "$fingerprint" ]]; then
        [[ -n ${DEMO_CHECKPOINT:-} || -s $home/whisper-base-ct2/model.bin ]] && return 0
    fi
    step "The demo's checkpoint: $home/whisper-base${DEMO_CHECKPOINT:+ from DEMO_CHECKPOINT}"
    "$VENV/bin/python" setup/demo_checkpoint.py "$home" || fail "the demo's checkpoint is not there yet (see above)."
    printf '%s\n' "$fingerprint" >$home/whisper-base.stamp
}

# --- Speaker model ---------------------------------------------------------------------------------------------

speaker_model() {
    local home=.cache/speakers fingerprint
    fingerprint=$({ echo "${SPEAKER_MODEL:-}"; cat setup/speaker-model.txt setup/speaker_model.py; } | sha256sum | cut -d ' ' -f 1)
    [[ -s $home/ge2e-lstm/model.safetensors && $(cat $home/ge2e-lstm.stamp 2>/dev/null) == "$fingerprint" ]] && return 0
    step "The speaker model: $home/ge2e-lstm${SPEAKER_MODEL:+ from SPEAKER_MODEL}"
    "$VENV/bin/python" setup/speaker_model.py "$home" || fail "the speaker model is not there yet (see above)."
    printf '%s\n' "$fingerprint" >$home/ge2e-lstm.stamp
}

# ---------------------------------------------------------------------------------------------------------------

mkdir -p .cache
exec 9>.cache/setup.lock
flock -n 9 || { note "another set-up is running here; waiting for it"; flock 9; }
STARTED=$SECONDS INCOMPLETE=0
[[ -s requirements.lock ]] || fail "requirements.lock is missing; it belongs to the repository."
debian_packages
python_packages
javascript_package
demo_checkpoint
speaker_model
((INCOMPLETE == 0)) || fail "the rest is set up; the Debian packages named above are still missing."
if ((SECONDS - STARTED >= 2)); then note "set up in $((SECONDS - STARTED)) s"; fi
