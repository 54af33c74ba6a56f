#!/usr/bin/env bash
# Cloud TPU slices through queued resources: from nothing to a trained network.
#
#   launch/tpu_pod.sh COMMAND --name=NAME --zone=ZONE [options] [-- FLAGS OF jaxvid.main]
#
# Commands
#   create   ask for the TPU              needs --accelerator
#   wait     until it is there            exit code 1 when it failed or --timeout is over
#   install  jaxvid on every worker: the commit of this checkout, or --ref of --repo
#   run      start jaxvid.main on every worker and follow its output; needs flags after --
#   logs     follow the output of the run, also from another machine or after a lost connection
#   resume   go on after a preemption: delete, create, wait, install and run again where the TPU is
#            gone, run again where it is there; the run goes on from its workdir
#   delete   give the TPU back, whatever state it is in
#   all      create, wait, install, run; resume after each preemption, at most --restarts times;
#            delete when the run has ended well
#
# Options
#   --name=NAME             of the request and of the TPU
#   --zone=ZONE             for instance us-east5-b
#   --accelerator=TYPE      for instance v6e-16
#   --slices=N              how many of that type train together, to be said with each command
#                           (default 1)
#   --runtime=VERSION       software of the TPU (default: by the accelerator)
#   --project=PROJECT       default: that of gcloud
#   --service-account=MAIL  whom the workers act as; it must be allowed to use the bucket
#   --spot                  cheaper, and can be taken away at any time
#   --bucket=NAME           mounted by `install` on every worker as /mnt/NAME
#   --ref=REF               branch, tag or commit to install in place of this checkout's commit
#   --repo=URL              where --ref is (default: the remote `origin` of this checkout)
#   --timeout=N             seconds that `wait` waits (default 86400)
#   --poll=N                seconds between two questions (default 30)
#   --restarts=N            how often `all` resumes (default 20)
#   --dry-run               print each command as it would be run, and run nothing
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
source "$root/launch/common.sh"

command='' name='' zone='' accelerator='' runtime='' project='' account='' spot='' bucket=''
ref='' repo='' slices=1 timeout=86400 poll=30 restarts=20 dry_run=''
case ${1:-} in
    create | wait | install | run | logs | resume | delete | all) command=$1 && shift ;;
    --help) usage "${BASH_SOURCE[0]}" && exit ;;
    *)
        fail "'${1:-}' is no command: take create, wait, install, run, logs, resume, delete or all"
        ;;
esac
while (($#)); do
    case $1 in
        --name=*) name=${1#*=} ;;
        --zone=*) zone=${1#*=} ;;
        --accelerator=*) accelerator=${1#*=} ;;
        --slices=*) slices=${1#*=} ;;
        --runtime=*) runtime=${1#*=} ;;
        --project=*) project=${1#*=} ;;
        --service-account=*) account=${1#*=} ;;
        --spot) spot=1 ;;
        --bucket=*) bucket=${1#*=} ;;
        --ref=*) ref=${1#*=} ;;
        --repo=*) repo=${1#*=} ;;
        --timeout=*) timeout=${1#*=} ;;
        --poll=*) poll=${1#*=} ;;
        --restarts=*) restarts=${1#*=} ;;
        --dry-run) dry_run=1 ;;
        --help) usage "${BASH_SOURCE[0]}" && exit ;;
        --) shift && break ;;
        *) fail "$1 is unknown: see --help; flags of jaxvid.main come after --" ;;
    esac
    shift
done
[[ $name =~ ^[a-z][a-z0-9-]{0,61}$ ]] ||
    fail "--name=$name must be small letters, digits and dashes, a letter first"
[[ -n $zone ]] || fail "--zone is missing: give the zone of your quota, such as us-east5-b"
bucket_name --bucket "$bucket"
whole_number --slices "$slices"
whole_number --timeout "$timeout"
whole_number --poll "$poll"
whole_number --restarts "$restarts"
needs() { case " $* " in *" $command "*) ;; *) return 1 ;; esac; }
if needs create resume all && [[ -z $accelerator ]]; then
    fail "--accelerator is missing: give the type of your quota, such as v6e-16"
fi
if needs run resume all && (($# == 0)); then
    fail "say what to run: ... -- --config=... --workdir=..."
fi
if [[ -z $runtime && -n $accelerator ]]; then
    case $accelerator in
        v6e-*) runtime=v2-alpha-tpuv6e ;;
        v5p-*) runtime=v2-alpha-tpuv5 ;;
        v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
        v[234]-*) runtime=tpu-ubuntu2204-base ;;
        *) fail "the software of $accelerator is not known here: give --runtime" ;;
    esac
fi

say() { printf '%s\n' "$1" >&2; }

# Runs a command, or prints it.
perform() {
    if [[ -n $dry_run ]]; then
        quote_all "$@"
        printf '\n'
    else
        "$@"
    fi
}

where=("--zone=$zone" ${project:+"--project=$project"})
requests=(gcloud compute tpus queued-resources)
machines=(gcloud compute tpus tpu-vm)
waiting='STATE_UNSPECIFIED|CREATING|ACCEPTED|WAITING_FOR_RESOURCES|PROVISIONING'
# The slices as gcloud names them, and how a request asks for them. What tells several of them where
# the others are (MEGASCALE_*), the request puts into their metadata, in which JAX looks.
nodes=("$name") asked_for=("--node-id=$name")
if ((slices > 1)); then
    nodes=() asked_for=("--node-count=$slices" "--node-prefix=$name")
    for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done
fi

# Runs a function with each slice's name and number at once; fails if it fails for one.
for_each_slice() {
    local i code=0 started=()
    if [[ -n $dry_run ]] || ((slices == 1)); then
        for i in "${!nodes[@]}"; do "$1" "${nodes[i]}" "$i" "${@:2}" || return 1; done
        return
    fi
    set -m # gives each connection a group of its own, by which it is ended
    for i in "${!nodes[@]}"; do
        "$1" "${nodes[i]}" "$i" "${@:2}" </dev/null &
        started+=($!)
    done
    set +m
    for i in "${started[@]}"; do wait "$i" || code=1; done
    return "$code"
}

# Runs a line of shell on all workers at once; fails if it fails on one.
on_workers() { for_each_slice on_slice "$1"; }

# shellcheck disable=SC2329 # on_workers calls it
on_slice() {
    local line=$3
    ((slices == 1)) || line="slice=$2; $line"
    perform "${machines[@]}" ssh "$1" "${where[@]}" --worker=all --quiet "--command=$line"
}

# shellcheck disable=SC2329 # install calls it
copy_to_slice() {
    perform "${machines[@]}" scp "$3" "$1:jaxvid.tar.gz" "${where[@]}" --worker=all --quiet
}

# Sets `answer` to the last line that a describe command prints, as warnings come first, or to NONE
# where what it describes is not there. Fails, with the reason in `answer`, where gcloud does.
ask() {
    if answer=$("$@" 2>&1); then
        answer=${answer##*$'\n'}
    elif [[ $answer == *NOT_FOUND* ]]; then
        answer=NONE
    else
        return 1
    fi
}

# Sets `state` to that of the request: NONE where there is none, PREEMPTED where only machines of
# it are gone, UNKNOWN where gcloud cannot say. A dry run prints the questions and supposes $1.
look() {
    local request=("${requests[@]}" describe "$name" "${where[@]}" '--format=value(state.state)')
    local machine=("${where[@]}" '--format=value(state)') node
    if [[ -n $dry_run ]]; then
        perform "${request[@]}"
        for node in "${nodes[@]}"; do
            perform "${machines[@]}" describe "$node" "${machine[@]}"
        done
        state=$1
        return
    fi
    state=UNKNOWN
    ask "${request[@]}" || return 0
    if [[ $answer == ACTIVE ]]; then
        for node in "${nodes[@]}"; do
            ask "${machines[@]}" describe "$node" "${machine[@]}" || return 0
            case $answer in
                NONE | PREEMPTED | TERMINATED | STOPPED | STOPPING | DELETING)
                    state=PREEMPTED
                    return
                    ;;
            esac
        done
        answer=ACTIVE
    fi
    state=$answer
}

# Like `look`, but for what must not be decided in the dark.
look_closely() {
    look "$1"
    [[ $state != UNKNOWN ]] || fail "gcloud cannot say how $name is: $answer"
}

# Asks until the state is none of $1; a lost connection is endured ten times in a row.
wait_while() {
    local said='' unknown=0 start=$SECONDS
    while look ACTIVE && [[ $state =~ ^($1|UNKNOWN)$ ]]; do
        [[ $state == "$said" ]] || say "$name is $state"
        said=$state
        [[ $state == UNKNOWN ]] && unknown=$((unknown + 1)) || unknown=0
        ((unknown < 10)) || fail "gcloud cannot say how $name is: $answer"
        ((SECONDS - start < timeout)) ||
            fail "$name is still $state after $timeout s: wait again, or delete it"
        sleep "$poll"
    done
}

create() {
    perform "${requests[@]}" create "$name" "${asked_for[@]}" "${where[@]}" \
        "--accelerator-type=$accelerator" "--runtime-version=$runtime" \
        ${account:+"--service-account=$account"} ${spot:+--spot} --quiet ||
        fail "the request for $name was refused: see above, and the quota of $accelerator in $zone"
}

# Fails where the TPU was taken away before it was used.
wait_until_active() {
    wait_while "$waiting"
    [[ -n $dry_run ]] || say "$name is $state"
    case $state in
        ACTIVE) ;;
        PREEMPTED | SUSPENDING | SUSPENDED) return 1 ;;
        *) fail "$name is $state and does not become active: resume it, or delete it" ;;
    esac
}

delete() {
    wait_while 'SUSPENDING|DELETING'
    if [[ $state == NONE ]]; then
        say "there is no $name"
        return
    fi
    perform "${requests[@]}" delete "$name" "${where[@]}" --force --quiet ||
        fail "$name could not be deleted and may go on costing money: delete it again"
}

# The lines below are for the workers' shell.
# shellcheck disable=SC2016
{
    # The system's Python is too old for jaxvid; uv brings one.
    environment='cd && { python3 -m pip install -q --user uv'
    environment+=' || python3 -m pip install -q --user --break-system-packages uv; }'
    environment+=' && python3 -m uv venv -q --clear --python=3.12 jaxvid-venv'
    environment+=' && python3 -m uv pip install -q --python=jaxvid-venv/bin/python'
    environment+=' -e "./jaxvid[data,tpu]"'
    gcsfuse='{ command -v gcsfuse >/dev/null || { packages=https://packages.cloud.google.com/apt'
    gcsfuse+=' && key=/usr/share/keyrings/cloud.google.asc'
    gcsfuse+=' && curl -fsS $packages/doc/apt-key.gpg | sudo tee $key >/dev/null'
    gcsfuse+=' && echo "deb [signed-by=$key] $packages gcsfuse-$(lsb_release -cs) main"'
    gcsfuse+=' | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null'
    gcsfuse+=' && sudo apt-get -qq -o DPkg::Lock::Timeout=300 update'
    gcsfuse+=' && sudo apt-get -qq -o DPkg::Lock::Timeout=300 install -y gcsfuse; }; }'
    alive='kill -0 "$(cat ~/jaxvid.pid 2>/dev/null)" 2>/dev/null'
    number=http://metadata.google.internal/computeMetadata/v1/instance/attributes
    number+=/agent-worker-number
    fine="$alive"' || [ "$(cat ~/jaxvid.code 2>/dev/null)" = 0 ]'
    output='[ -e ~/jaxvid.pid ] || { echo "no run was started here" >&2; exit 1; }; '
    output+="worker=\$(curl -fsS -H Metadata-Flavor:Google $number || hostname); "
    output+='tail -n +1 -F --pid="$(cat ~/jaxvid.pid)" ~/jaxvid.log'
    output+=' | sed -u "s/^/[${slice:+$slice.}$worker] /"; '
    output+='exit "$(cat ~/jaxvid.code 2>/dev/null || echo 255)"'
}

# Gives every worker this code, its environment and the bucket; does no harm a second time.
install() {
    local archive="$root/build/jaxvid-$name.tar.gz" mount="/mnt/$bucket"
    if [[ -n $ref ]]; then
        [[ -n $repo ]] || repo=$(git -C "$root" remote get-url origin 2>/dev/null) ||
            fail "this checkout has no remote origin: say by --repo=URL where $ref is"
        on_workers "cd && rm -rf jaxvid && git clone -q $(quote "$repo") jaxvid && git -C jaxvid \
checkout -q $(quote "$ref")" || return 1
    else
        [[ -n $dry_run || -z $(git -C "$root" status --porcelain -uno 2>/dev/null) ]] ||
            say "note: the last commit is installed, without changes that are not committed"
        perform mkdir -p "$root/build" || return 1
        perform git -C "$root" archive --prefix=jaxvid/ "--output=$archive" HEAD || return 1
        for_each_slice copy_to_slice "$archive" || return 1
        on_workers "cd && rm -rf jaxvid && tar -xzf jaxvid.tar.gz" || return 1
    fi
    on_workers "$environment" || return 1
    # Orbax puts checkpoints in place by renaming folders, which gcsfuse must be allowed to.
    [[ -z $bucket ]] || on_workers "mountpoint -q $mount || { $gcsfuse && sudo mkdir -p $mount && \
sudo chown \"\$USER\" $mount && gcsfuse --implicit-dirs --rename-dir-limit=100000 $bucket $mount; }"
}

# Starts the run on every worker; it goes on without the connection that started it.
start() {
    local work line
    work="cd ~/jaxvid && JAXVID_DISTRIBUTED=on ~/jaxvid-venv/bin/python -m jaxvid.main"
    work+=" $(quote_all "$@"); echo \$? >~/jaxvid.code"
    line="if $alive; then echo 'a run is going on here: follow its logs' >&2; exit 1; fi; "
    line+="rm -f ~/jaxvid.code; setsid nohup bash -c $(quote "$work") >~/jaxvid.log 2>&1"
    line+=' </dev/null & echo $! >~/jaxvid.pid'
    on_workers "$line"
}

# Follows the run on every worker, through lost connections; fails where it has not ended well.
follow() {
    until on_workers "$output"; do
        look ACTIVE
        case $state in
            ACTIVE) on_workers "$fine" || return 1 ;;
            UNKNOWN) ;;
            *) return 1 ;;
        esac
        say "the connection to $name was lost: following again"
        sleep "$poll"
    done
}

# Says why something failed: that the TPU is gone, or that it is not, which is the end.
explain() {
    look_closely ACTIVE
    [[ $state != ACTIVE ]] || fail "$1, though $name is there: see above"
    say "$1: $name is $state"
    return 1
}

# Starts and follows a run on workers that are installed. Fails where the TPU is gone.
run() {
    start "$@" && follow && return
    explain "the run did not end well"
}

# Brings a TPU that is asked for to the end of a run. Fails where it is taken away.
bring_up_and_run() {
    wait_until_active || return 1
    install || explain "not all workers could be installed" || return 1
    run "$@"
}

# Fails where the one slice is not there since there are several, which must not be deleted.
check_slices() {
    [[ $state == PREEMPTED && $slices == 1 ]] || return 0
    ask "${machines[@]}" list "${where[@]}" "--filter=name~/$name-0\$" '--format=value(name)' ||
        fail "gcloud cannot say whether $name has several slices: $answer"
    [[ -z $answer || $answer == NONE ]] ||
        fail "$name has several slices: say by --slices how many"
}

# Goes on from whatever is there. Fails where the TPU is taken away again.
resume() {
    look_closely SUSPENDED
    check_slices
    if [[ $state == ACTIVE ]] && on_workers "$alive"; then
        follow && return
        explain "the run did not end well" || return 1
    elif [[ ! $state =~ ^(ACTIVE|$waiting)$ ]]; then
        [[ $state == NONE ]] || delete
        create
    fi
    bring_up_and_run "$@"
}

# The whole way, through as many preemptions as are allowed.
run_to_the_end() {
    local restart
    create
    bring_up_and_run "$@" && return
    for ((restart = 0; restart < restarts; restart++)); do
        resume "$@" && return
    done
    fail "$name was taken away once more after $restarts restarts: go on with resume"
}

# Ends the connections to several slices, which Ctrl-C does not reach.
disconnect() {
    local connection
    for connection in $(jobs -p); do kill -- "-$connection" 2>/dev/null || true; done
}

remind() {
    disconnect
    say "note: $name may cost money until: launch/tpu_pod.sh delete --name=$name ${where[*]}"
}
trap disconnect EXIT
[[ -n $dry_run || $command == delete || $command == logs ]] || trap remind EXIT

again="$name was taken away: go on with resume"
case $command in
    create) create ;;
    wait) wait_until_active || fail "$again" ;;
    install) install || fail "not all workers are installed: see above, then install again" ;;
    run) run "$@" || fail "$again" ;;
    logs) follow || fail "the run did not end well: see above" ;;
    resume) resume "$@" || fail "$again" ;;
    delete) delete ;;
    all)
        run_to_the_end "$@"
        delete
        trap disconnect EXIT
        ;;
esac
