#!/usr/bin/env bash
# A JobSet of jaxvid.main on TPU slices or GPU nodes of a Kubernetes cluster (GKE).
#
#   launch/gke.sh --name=NAME --image=IMAGE --topology=TPU:SHAPE [options] -- FLAGS OF jaxvid.main
#   launch/gke.sh --name=NAME --image=IMAGE --gpus=TYPE:N [options] -- FLAGS OF jaxvid.main
#
#   --name=NAME             of the JobSet; its pods are NAME-workers-SLICE-NODE
#   --image=IMAGE           with jaxvid in it: see launch/Dockerfile
#   --topology=TPU:SHAPE    of one slice: v4, v5p or tpu7x with a shape as 2x2x4, v5e or v6e with one
#                           as 4x4
#   --slices=N              how many such slices train together (default 1)
#   --chips-per-node=N      of the node pool, where it is not 4 (1x1 has 1; 2x4 has 4, or else 8)
#   --gpus=TYPE:N           a node's GPUs, for instance nvidia-h100-80gb:8
#   --nodes=N               how many such nodes (default 1)
#   --bucket=NAME           mounted in every pod as /mnt/NAME
#   --claim=NAME            a PersistentVolumeClaim of this name, mounted as /mnt/NAME
#   --namespace=NAME        default: that of kubectl
#   --service-account=NAME  whom the pods act as; it must be allowed to use the bucket
#   --spot                  on nodes that can be taken away at any time
#   --restarts=N            how often a failed run is started again (default 3); pods that were taken
#                           away with their nodes are not counted
#   --grace=N               seconds between SIGTERM, on which a run saves, and SIGKILL (default 300)
#   --dry-run               print the manifest and create nothing
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

name='' image='' topology='' slices='' chips='' gpus='' nodes='' bucket='' claim='' namespace=''
account='' spot='' restarts=3 grace=300 dry_run=''
while (($#)); do
    case $1 in
        --name=*) name=${1#*=} ;;
        --image=*) image=${1#*=} ;;
        --topology=*) topology=${1#*=} ;;
        --slices=*) slices=${1#*=} ;;
        --chips-per-node=*) chips=${1#*=} ;;
        --gpus=*) gpus=${1#*=} ;;
        --nodes=*) nodes=${1#*=} ;;
        --bucket=*) bucket=${1#*=} ;;
        --claim=*) claim=${1#*=} ;;
        --namespace=*) namespace=${1#*=} ;;
        --service-account=*) account=${1#*=} ;;
        --spot) spot=1 ;;
        --restarts=*) restarts=${1#*=} ;;
        --grace=*) grace=${1#*=} ;;
        --dry-run) dry_run=1 ;;
        --help) usage "${BASH_SOURCE[0]}" && exit ;;
        --) shift && break ;;
        *) fail "$1 is unknown: see --help; flags of jaxvid.main come after --" ;;
    esac
    shift
done

# Fails unless a value is a name in Kubernetes' sense, short enough to be part of a pod's.
kubernetes_name() {
    [[ $2 =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
        fail "$1=$2 must be at most 40 small letters, digits and dashes, a letter first"
}

kubernetes_name --name "$name"
[[ $image =~ ^[A-Za-z0-9][A-Za-z0-9._:/@-]*$ ]] ||
    fail "--image=$image must be the address of an image that the cluster can pull"
[[ -n $topology$gpus && (-z $topology || -z $gpus) ]] ||
    fail "give either --topology, such as v6e:4x4, or --gpus, such as nvidia-h100-80gb:8"
bucket_name --bucket "$bucket"
[[ -z $claim ]] || kubernetes_name --claim "$claim"
[[ -n $bucket$claim && (-z $bucket || -z $claim) ]] ||
    fail "give either --bucket or --claim: the workdir must be on a disk that all pods share"
[[ -z $namespace ]] || kubernetes_name --namespace "$namespace"
[[ -z $account ]] || kubernetes_name --service-account "$account"
whole_number --restarts "$restarts"
whole_number --grace "$grace"
(($#)) || fail "say what to run: launch/gke.sh [options] -- --config=... --workdir=..."

# Sets the label that the node pool's TPU has in `accelerator`, its `shape`, and `chips` and `nodes`
# of a slice.
read_topology() {
    local flat='1x1|2x2|2x4|4x4|4x8|8x8|8x16|16x16' small='2x2x1|2x2x2|2x2x4|2x4x4' usual a b c
    shape=${topology#*:}
    IFS=x read -r a b c <<<"$shape"
    case $topology in
        v4:*) accelerator=tpu-v4-podslice ;;
        v5e:*) accelerator=tpu-v5-lite-podslice ;;
        v5p:*) accelerator=tpu-v5p-slice ;;
        v6e:*) accelerator=tpu-v6e-slice ;;
        tpu7x:*) accelerator=tpu7x ;;
        *) fail "--topology=$topology must begin with v4:, v5e:, v5p:, v6e: or tpu7x:" ;;
    esac
    case $topology in
        v5e:* | v6e:*)
            [[ $shape =~ ^($flat)$ ]] ||
                fail "--topology=$topology: the shapes of ${topology%%:*} are ${flat//|/, }"
            ;;
        *)
            [[ $shape =~ ^($small)$ ]] ||
                { [[ $shape =~ ^[1-9][0-9]?x[1-9][0-9]?x[1-9][0-9]?$ ]] &&
                    ((a <= b && b <= c && a % 4 == 0 && b % 4 == 0 && c % 4 == 0)); } ||
                fail "--topology=$topology: the shapes of ${topology%%:*} are ${small//|/, }, and \
multiples of 4 in rising order, such as 4x4x8"
            ;;
    esac
    [[ $shape == 1x1 ]] && usual=1 || usual=4
    [[ -n $chips ]] || chips=$usual
    [[ $chips == "$usual" || $chips == 8 && $shape == 2x4 ]] ||
        fail "--chips-per-node=$chips: a node has $usual chips, and only of 2x4 there are such with 8"
    nodes=$((a * b * ${c:-1} / chips))
}

if [[ -n $topology ]]; then
    [[ -z $nodes ]] || fail "--nodes is for GPUs: how many nodes $topology has is known"
    slices=${slices:-1}
    whole_number --slices "$slices"
    read_topology
    # The chips and the memory that is locked for them are root's.
    user=0 resource=google.com/tpu
else
    [[ -z $slices && -z $chips ]] ||
        fail "--slices and --chips-per-node are for TPUs: give --gpus=TYPE:N and --nodes"
    [[ $gpus =~ ^([a-z][a-z0-9-]*):([1-9][0-9]?)$ ]] ||
        fail "--gpus=$gpus must be the type and the number of a node, such as nvidia-h100-80gb:8"
    accelerator=${BASH_REMATCH[1]} chips=${BASH_REMATCH[2]} nodes=${nodes:-1} slices=1
    whole_number --nodes "$nodes"
    user=1000 resource=nvidia.com/gpu # the user is that of launch/Dockerfile
fi
mount=/mnt/${bucket:-$claim}

# Prints the words of a command as a list of YAML, each as the program is to get it.
yaml_list() {
    local indent=$1 word
    for word in "${@:2}"; do
        [[ $word != *[[:cntrl:]]* ]] || fail "a flag has a line break or another control character"
        word=${word//\\/\\\\} word=${word//\"/\\\"}
        # What stands in $() would be replaced by Kubernetes.
        printf '%*s- "%s"\n' "$indent" '' "${word//\$(/\$\$(}"
    done
}

# Prints the manifest.
jobset() {
    cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: "$name"
YAML
    [[ -z $namespace ]] || printf '  namespace: "%s"\n' "$namespace"
    [[ -z $topology ]] || cat <<YAML
  annotations:
    # Each slice gets a node pool of its own.
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
YAML
    cat <<YAML
spec:
  failurePolicy:
    # One pod that fails ends all; they start again together and go on from the workdir.
    maxRestarts: $restarts
    rules:
      # The pod was taken away, as the policy of the pods below says.
      - name: takenAway
        action: RestartJobSetAndIgnoreMaxRestarts
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: workers
      # Slices of a TPU; GPUs have one.
      replicas: $slices
      template:
        spec:
          # Nodes of a slice, with one pod each.
          parallelism: $nodes
          completions: $nodes
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onPodConditions:
                  - type: DisruptionTarget
                    status: "True"
          template:
YAML
    [[ -z $bucket ]] || cat <<YAML
            metadata:
              annotations:
                gke-gcsfuse/volumes: "true"
YAML
    cat <<YAML
            spec:
              restartPolicy: Never
              # On SIGTERM a run saves, for which it has this time.
              terminationGracePeriodSeconds: $grace
YAML
    [[ -z $account ]] || printf '              serviceAccountName: "%s"\n' "$account"
    printf '              nodeSelector:\n'
    if [[ -n $topology ]]; then
        cat <<YAML
                cloud.google.com/gke-tpu-accelerator: $accelerator
                cloud.google.com/gke-tpu-topology: $shape
YAML
    else
        printf '                cloud.google.com/gke-accelerator: %s\n' "$accelerator"
    fi
    [[ -z $spot ]] || cat <<YAML
                cloud.google.com/gke-spot: "true"
              tolerations:
                - key: cloud.google.com/gke-spot
                  operator: Equal
                  value: "true"
                  effect: NoSchedule
YAML
    cat <<YAML
              securityContext:
                runAsUser: $user
                runAsGroup: $user
                fsGroup: $user
              containers:
                - name: jaxvid
                  image: "$image"
YAML
    if [[ -n $topology ]]; then
        cat <<YAML
                  securityContext:
                    capabilities:
                      # To lock memory without limit, which the chips' driver asks for.
                      add: [SYS_RESOURCE]
YAML
        set -- sh -c 'ulimit -l unlimited; exec "$@"' sh python -m jaxvid.main "$@"
    else
        set -- python -m jaxvid.main "$@"
    fi
    printf '                  command:\n'
    yaml_list 20 "$@"
    environment
    cat <<YAML
                  resources:
                    limits:
                      $resource: $chips
                  volumeMounts:
                    - name: workdir
                      mountPath: $mount
YAML
    [[ -n $topology ]] || cat <<YAML
                    - name: shared-memory
                      mountPath: /dev/shm
YAML
    printf '              volumes:\n                - name: workdir\n'
    if [[ -n $bucket ]]; then
        # Orbax puts checkpoints in place by renaming folders, which gcsfuse must be allowed to.
        cat <<YAML
                  csi:
                    driver: gcsfuse.csi.storage.gke.io
                    volumeAttributes:
                      bucketName: "$bucket"
                      mountOptions: implicit-dirs,rename-dir-limit=100000,uid=$user,gid=$user
YAML
    else
        cat <<YAML
                  persistentVolumeClaim:
                    claimName: "$claim"
YAML
    fi
    [[ -n $topology ]] || cat <<YAML
                # NCCL needs more of it than the 64 MB that a container has.
                - name: shared-memory
                  emptyDir:
                    medium: Memory
YAML
}

# Prints how the processes find each other, where there are several. What tells a slice its hosts,
# and several slices each other (TPU_WORKER_*, MEGASCALE_*), GKE puts into the pods by itself.
environment() {
    ((slices * nodes > 1)) || return 0
    printf '                  env:\n'
    if [[ -n $topology ]]; then
        cat <<YAML
                    - name: JAXVID_DISTRIBUTED
                      value: "on"
YAML
    else
        cat <<YAML
                    - name: JAXVID_COORDINATOR
                      value: $name-workers-0-0.$name:8476
                    - name: JAXVID_PROCESSES
                      value: "$nodes"
                    - name: JAXVID_PROCESS
                      valueFrom:
                        fieldRef:
                          fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
YAML
    fi
}

manifest=$(jobset "$@") || exit
if [[ -n $dry_run ]]; then
    printf '%s\n' "$manifest"
    exit
fi
command -v kubectl >/dev/null || fail "kubectl is not a program: install it, or take --dry-run"
kubectl create -f - <<<"$manifest" ||
    fail "the JobSet was refused: see above; one that is there goes by kubectl delete jobset $name"
within=${namespace:+" --namespace=$namespace"}
cat >&2 <<TEXT
follow it:  kubectl logs$within --follow --prefix --max-log-requests=$((slices * nodes)) \
--selector=jobset.sigs.k8s.io/jobset-name=$name --container=jaxvid
end it:     kubectl delete jobset$within $name
TEXT
