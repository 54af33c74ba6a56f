#!/usr/bin/env bash
# A Slurm job of jaxvid.main, to submit from a checkout in an active environment.
#
#   sbatch --nodes=N --ntasks-per-node=N --gres=gpu:N launch/slurm.sh FLAGS OF jaxvid.main
#   launch/slurm.sh --dry-run FLAGS OF jaxvid.main
#
# Every option of sbatch may be given. --ntasks-per-node is the number of GPUs of a node (one
# process a GPU) or 1 (one process a node). --dry-run, inside or outside of a job, prints the
# command and runs nothing. PYTHON names the interpreter (default: python).
#
# The job goes on by itself where it stopped: after a preemption Slurm queues it again, and shortly
# before its time is up it ends its processes by SIGTERM and queues itself again. A run that fails
# by itself is not repeated.
#
#SBATCH --job-name=jaxvid
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@180
set -euo pipefail

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

dry_run=''
case ${1:-} in
    --dry-run) dry_run=1 && shift ;;
    --help) awk '/^#SBATCH/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0" && exit ;;
esac
(($#)) || fail "say what to run: sbatch launch/slurm.sh --config=... --workdir=..."
[[ -n $dry_run || -n ${SLURM_JOB_ID:-} ]] || fail "this is no Slurm job: submit it with sbatch"

tasks=${SLURM_NTASKS_PER_NODE:-1} gpus=${SLURM_GPUS_ON_NODE:-0}
[[ -z ${SLURM_GPUS_PER_TASK:-} ]] ||
    fail "--gpus-per-task hides GPUs that processes of one node share: give --gres=gpu:N instead"
words=(srun --kill-on-bad-exit=1 --label)
# srun does not take this over from sbatch.
[[ -z ${SLURM_CPUS_PER_TASK:-} ]] || words+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")
if ((gpus > 1 && tasks == 1)); then
    # By itself JAX takes one GPU a process under Slurm.
    words+=(env "JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))")
elif ((gpus > 0 && tasks != gpus)); then
    fail "--ntasks-per-node=$tasks must be 1 or the $gpus GPUs of a node"
fi
words+=("${PYTHON:-python}" -m jaxvid.main "$@")

if [[ -n $dry_run ]]; then
    printf '%q ' "${words[@]}"
    printf '\n'
    exit
fi

# The warning of --signal has a signal of its own, so that scancel, which sends SIGTERM, ends the
# job for good.
again='' signalled='' step=''
# shellcheck disable=SC2329 # the traps below call it
pass_on() {
    signalled=1
    [[ -z $step ]] || kill -TERM "$step" 2>/dev/null || true
}
trap 'again=1; pass_on' USR1
trap pass_on TERM

"${words[@]}" &
step=$!
# srun passes SIGTERM on to its tasks and ends with them; a signal also ends `wait`, too early.
code=127 # what `wait` says of what it has already told
while :; do
    signalled=''
    wait "$step" && status=0 || status=$?
    ((status == 127)) || code=$status
    [[ -n $signalled ]] || break
done
if ((code)) && [[ -n $again ]]; then
    printf 'time is nearly up: queueing job %s again\n' "$SLURM_JOB_ID"
    scontrol requeue "$SLURM_JOB_ID" ||
        fail "scontrol cannot queue the job again: submit the same command, it goes on by itself"
fi
exit "$code"
