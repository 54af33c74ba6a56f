#!/usr/bin/env bash
# One machine, several processes of jaxvid.main that train or test together.
#
#   launch/local.sh [options] -- FLAGS OF jaxvid.main
#
#   --processes=N   how many processes (default 2); on GPUs, process i takes GPU i
#   --devices=N     simulate N devices per process on the CPU, in place of GPUs
#   --port=PORT     where the processes find each other (default: one that is free)
#   --grace=N       seconds between SIGTERM, on which a run saves, and SIGKILL when all must end
#                   (default 60; no more than 10 once one has failed, as no save can end then)
#   --dry-run       print the commands and run nothing
#
# Every line of output begins with the number of its process. When one process fails, the others
# are ended, and the exit code is that of the one that failed first. PYTHON names the interpreter
# (default: python).
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

processes=2 devices='' port='' grace=60 dry_run=''
while (($#)); do
    case $1 in
        --processes=*) processes=${1#*=} ;;
        --devices=*) devices=${1#*=} ;;
        --port=*) port=${1#*=} ;;
        --grace=*) grace=${1#*=} ;;
        --dry-run) dry_run=1 ;;
        --help) usage "${BASH_SOURCE[0]}" && exit ;;
        --) shift && break ;;
        *) fail "$1 is unknown: see --help; flags of jaxvid.main come after --" ;;
    esac
    shift
done
(($#)) || fail "say what to run: launch/local.sh [options] -- --config=... --workdir=..."
whole_number --processes "$processes"
whole_number --grace "$grace"
[[ -z $devices ]] || whole_number --devices "$devices"
[[ -z $port ]] || whole_number --port "$port"

python=${PYTHON:-python}
command -v "$python" >/dev/null || fail "$python is not a program: activate the environment"
free_port='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
[[ -n $port ]] || port=$("$python" -c "$free_port") || fail "$python cannot find a free port"

# The command of process $1 as the array `words`.
command_of() {
    words=(
        env "JAXVID_COORDINATOR=127.0.0.1:$port" "JAXVID_PROCESSES=$processes" "JAXVID_PROCESS=$1"
    )
    if [[ -n $devices ]]; then
        local simulated="--xla_force_host_platform_device_count=$devices"
        words+=(JAX_PLATFORMS=cpu "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }$simulated")
    else
        words+=("JAX_LOCAL_DEVICE_IDS=$1")
    fi
    words+=("$python" -m jaxvid.main "${@:2}")
}

if [[ -n $dry_run ]]; then
    for ((i = 0; i < processes; i++)); do
        command_of "$i" "$@"
        quote_all "${words[@]}"
        printf '\n'
    done
    exit
fi

# Ends all that was started within $1 seconds, and what these started in turn: each is a process
# group of its own.
groups=()
end_all() {
    trap '' INT TERM HUP
    local signal second group seconds=$1
    for signal in TERM KILL; do
        for group in ${groups[@]+"${groups[@]}"}; do
            kill "-$signal" -- "-$group" 2>/dev/null || true
        done
        for ((second = 0; second < 10 * seconds; second++)); do
            any_left || return 0
            sleep 0.1
        done
    done
}

any_left() {
    local group
    for group in ${groups[@]+"${groups[@]}"}; do
        ! kill -0 -- "-$group" 2>/dev/null || return 0
    done
    return 1
}

# shellcheck disable=SC2329 # the traps below call it
interrupted() {
    printf 'interrupted: ending all processes\n' >&2
    end_all "$grace"
    exit "$1"
}

prefix() {
    local line
    while IFS= read -r line || [[ -n $line ]]; do
        printf '[%s] %s\n' "$1" "$line"
    done
}

# Processes report their ends through a pipe, in the order in which they happen.
folder=$(mktemp -d)
mkfifo "$folder/ends"
exec 3<>"$folder/ends"
rm -r "$folder"

trap 'interrupted 130' INT
trap 'interrupted 143' TERM
trap 'interrupted 129' HUP
set -m # gives each process a group of its own
for ((i = 0; i < processes; i++)); do
    command_of "$i" "$@"
    (
        # What ends the process must not end the shells around it: they pass on its last words.
        {
            trap : INT TERM HUP
            "${words[@]}" 2>&1 3>&- </dev/null && code=0 || code=$?
            printf '%s %s\n' "$i" "$code" >&3
        } | {
            trap : INT TERM HUP
            prefix "$i"
        }
    ) 2>/dev/null & # what is dropped is this shell's own remark on a process that was killed
    groups+=($!)
done
set +m

code=0
for ((ended = 0; ended < processes; ended++)); do
    until read -r -t 1 -u 3 process code; do :; done
    if ((code)); then
        printf 'process %s ended with code %s: ending the others\n' "$process" "$code" >&2
        break
    fi
done
((code)) && end_all $((grace < 10 ? grace : 10))
wait 2>/dev/null || true
exit "$code"
