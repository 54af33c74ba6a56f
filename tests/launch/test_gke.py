"""The JobSet for Kubernetes: against a schema, and what its pods would be and do."""

import copy
import json
import pathlib
import re
import subprocess

import pytest
import yaml

from jaxvid.devices import processes
from tests.launch import schema
from tests.launch.stand_in import LAUNCH, Stage

SCHEMA = json.loads((pathlib.Path(__file__).parent / "jobset.schema.json").read_text("utf-8"))
WHAT = ["--name=first", "--image=registry/jaxvid:1"]
TPU = [*WHAT, "--topology=v6e:4x4", "--bucket=own"]
GPU = [*WHAT, "--gpus=nvidia-h100-80gb:8", "--claim=disk"]
FLAGS = ["--config=configs/tsm_r50.py:dataset=a b", "--workdir=/mnt/it's/$HOME", "--x=*"]
RUN = ["--", *FLAGS]


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    stage.stand_in("kubectl")
    return stage


def manifest(stage, *arguments, run=RUN):
    done = stage.run("gke.sh", "--dry-run", *arguments, *run)
    assert done.returncode == 0, done.stderr
    assert stage.calls == []
    found = yaml.safe_load(done.stdout)
    assert schema.errors(found, SCHEMA) == []
    return found


def job_of(found):
    return found["spec"]["replicatedJobs"][0]["template"]["spec"]


def pod_of(found):
    return job_of(found)["template"]["spec"]


def container_of(found):
    return pod_of(found)["containers"][0]


# ---- the manifest


@pytest.mark.parametrize(
    "options",
    [
        TPU,
        GPU,
        [*TPU, "--slices=4", "--spot", "--namespace=ml", "--service-account=trainer"],
        [*GPU, "--nodes=2", "--spot", "--restarts=20", "--grace=600"],
        [*WHAT, "--topology=v5e:1x1", "--claim=disk"],
        # What YAML would read as something else than a text.
        ["--name=on", "--image=1", "--topology=v4:2x2x1", "--bucket=123", "--namespace=null"],
        ["--name=y", "--image=1.5", "--gpus=nvidia-l4:1", "--claim=yes", "--service-account=no"],
    ],
)
def test_it_is_valid(stage, options):
    manifest(stage, *options)


@pytest.mark.parametrize(
    "path, value",
    [
        ("spec.failurePolicy.maxRestarts", "3"),
        ("spec.failurePolicy.maxRestart", 3),
        ("spec.failurePolicy", None),
        ("spec.replicatedJobs.0.template.spec.backoffLimit", 6),
        ("spec.replicatedJobs.0.template.spec.template.spec.restartPolicy", "Always"),
        ("spec.replicatedJobs.0.template.spec.template.spec.containers", []),
        ("apiVersion", "jobset.x-k8s.io/v1"),
        ("metadata.name", True),
    ],
)
def test_the_schema_is_strict(stage, path, value):
    found = copy.deepcopy(manifest(stage, *TPU))
    *folder, name = path.split(".")
    place = found
    for step in folder:
        place = place[int(step) if step.isdecimal() else step]
    if value is None:
        del place[name]
    else:
        place[name] = value
    assert schema.errors(found, SCHEMA)


@pytest.mark.parametrize(
    "topology, accelerator, chips, nodes",
    [
        ("v4:2x2x2", "tpu-v4-podslice", 4, 2),
        ("v5e:1x1", "tpu-v5-lite-podslice", 1, 1),
        ("v5e:2x4", "tpu-v5-lite-podslice", 4, 2),
        ("v5e:16x16", "tpu-v5-lite-podslice", 4, 64),
        ("v5p:2x2x1", "tpu-v5p-slice", 4, 1),
        ("v6e:4x4", "tpu-v6e-slice", 4, 4),
        ("tpu7x:4x4x8", "tpu7x", 4, 32),
    ],
)
def test_a_topology_has_its_nodes(stage, topology, accelerator, chips, nodes):
    found = manifest(stage, *WHAT, f"--topology={topology}", "--bucket=own")
    assert pod_of(found)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology.partition(":")[2],
    }
    assert container_of(found)["resources"]["limits"] == {"google.com/tpu": chips}
    assert job_of(found)["parallelism"] == job_of(found)["completions"] == nodes


def test_a_node_of_eight_chips_is_a_slice(stage):
    found = manifest(stage, *WHAT, "--topology=v6e:2x4", "--chips-per-node=8", "--bucket=own")
    assert job_of(found)["parallelism"] == 1
    assert container_of(found)["resources"]["limits"] == {"google.com/tpu": 8}


def test_slices_are_replicas(stage):
    found = manifest(stage, *TPU, "--slices=3")
    assert found["spec"]["replicatedJobs"][0]["replicas"] == 3
    assert job_of(found)["parallelism"] == 4
    annotations = found["metadata"]["annotations"]
    assert list(annotations.values()) == ["cloud.google.com/gke-nodepool"]


def test_restarts_time_to_save_and_spot_are_as_asked(stage):
    found = manifest(stage, *TPU, "--restarts=7", "--grace=900", "--spot")
    assert found["spec"]["failurePolicy"]["maxRestarts"] == 7
    assert pod_of(found)["terminationGracePeriodSeconds"] == 900
    assert pod_of(found)["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert "tolerations" not in pod_of(manifest(stage, *TPU))


# ---- its pods


def words_of(container):
    """What a container runs, once Kubernetes has read `$$(` as `$(`."""
    return [word.replace("$$(", "$(") for word in container["command"]]


@pytest.mark.parametrize("options", [TPU, GPU])
def test_the_flags_arrive_as_they_were(stage, options):
    flags = [*FLAGS, r'--y="q" \n $(JAXVID_PROCESS) ${a} 🙂', "--z: #no", "&*!|>%@`"]
    container = container_of(manifest(stage, *options, run=["--", *flags]))
    # Nothing that Kubernetes would replace is left.
    assert not any(re.search(r"(?<!\$)\$\(", word) for word in container["command"])
    stage.stand_in("python")
    done = subprocess.run(words_of(container), env=stage.environment(), capture_output=True)
    assert done.returncode == 0
    assert stage.calls == [["python", "-m", "jaxvid.main", *flags]]


def environment_of(found, index):
    """The variables of the pod with an index, as Kubernetes sets them."""
    return {
        variable["name"]: variable.get("value", str(index))
        for variable in container_of(found).get("env", [])
    }


def test_processes_on_gpus_find_each_other(stage):
    found = manifest(stage, *GPU, "--nodes=3")
    for index in range(3):
        told = processes._explicit_processes(environment_of(found, index))
        assert told == {
            "coordinator_address": "first-workers-0-0.first:8476",
            "num_processes": 3,
            "process_id": index,
        }
    (reference,) = [v["valueFrom"] for v in container_of(found)["env"] if "valueFrom" in v]
    assert "job-completion-index" in reference["fieldRef"]["fieldPath"]


@pytest.mark.parametrize("options", [["--slices=2"], ["--topology=v5e:1x1", "--slices=2"], []])
def test_processes_on_tpus_ask_jax(stage, options):
    assert environment_of(manifest(stage, *TPU, *options), 0) == {"JAXVID_DISTRIBUTED": "on"}


@pytest.mark.parametrize("options", [GPU, [*TPU, "--topology=v6e:2x2"]])
def test_a_single_process_is_alone(stage, options):
    assert environment_of(manifest(stage, *options), 0) == {}


@pytest.mark.parametrize("options", [TPU, [*GPU[:-1], "--bucket=own"]])
def test_the_workdir_is_writable(stage, options):
    found = manifest(stage, *options)
    context = pod_of(found)["securityContext"]
    volume = pod_of(found)["volumes"][0]["csi"]["volumeAttributes"]
    assert volume["bucketName"] == "own"
    assert f"uid={context['runAsUser']},gid={context['runAsGroup']}" in volume["mountOptions"]
    assert container_of(found)["volumeMounts"][0]["mountPath"] == "/mnt/own"
    assert job_of(found)["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}


def test_a_claim_is_mounted(stage):
    found = manifest(stage, *GPU)
    assert pod_of(found)["volumes"][0]["persistentVolumeClaim"] == {"claimName": "disk"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container_of(found)["volumeMounts"]}
    assert mounts == {"workdir": "/mnt/disk", "shared-memory": "/dev/shm"}
    assert {volume["name"] for volume in pod_of(found)["volumes"]} == set(mounts)
    assert "metadata" not in job_of(found)["template"]


# ---- the command


def test_it_is_created_once(stage):
    stage.stand_in("kubectl", script=f'#!/bin/sh\necho "$@" && cat >"{stage.folder}/got"\n')
    done = stage.run("gke.sh", *TPU, "--namespace=ml", *RUN)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "create -f -\n"
    got = yaml.safe_load((stage.folder / "got").read_text("utf-8"))
    assert got == manifest(stage, *TPU, "--namespace=ml")
    assert "kubectl logs --namespace=ml --follow" in done.stderr
    assert "kubectl delete jobset --namespace=ml first" in done.stderr


def test_one_that_is_refused_says_what_to_do(stage):
    stage.answer(("kubectl create", 1, ""))
    done = stage.run("gke.sh", *TPU, *RUN)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the JobSet was refused: see above")
    assert "kubectl delete jobset first" in done.stderr


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([*TPU], "say what to run"),
        ([*TPU, "--zone=a", *RUN], "--zone=a is unknown"),
        ([*TPU, "--name=Upper", *RUN], "--name=Upper must be at most 40 small letters"),
        ([*TPU, f"--name={'a' * 41}", *RUN], "--name=aaaaaaa"),
        ([*TPU, "--image=a b", *RUN], "--image=a b must be the address"),
        ([*TPU, "--gpus=nvidia-l4:1", *RUN], "give either --topology"),
        ([*WHAT, "--bucket=own", *RUN], "give either --topology"),
        ([*TPU, "--claim=disk", *RUN], "give either --bucket or --claim"),
        ([*WHAT, "--topology=v6e:4x4", *RUN], "give either --bucket or --claim"),
        ([*TPU, "--bucket=gs://own", *RUN], "--bucket=gs://own must be the name alone"),
        ([*TPU, "--topology=v7:4x4", *RUN], "--topology=v7:4x4 must begin with v4:, "),
        ([*TPU, "--topology=v6e", *RUN], "--topology=v6e must begin with v4:, "),
        ([*TPU, "--topology=v6e:4x4x4", *RUN], "--topology=v6e:4x4x4: the shapes of v6e are 1x1,"),
        ([*TPU, "--topology=v4:4x4", *RUN], "--topology=v4:4x4: the shapes of v4 are 2x2x1,"),
        ([*TPU, "--topology=v4:4x4x6", *RUN], "--topology=v4:4x4x6: the shapes"),
        ([*TPU, "--topology=tpu7x:8x4x4", *RUN], "--topology=tpu7x:8x4x4: the shapes of tpu7x"),
        ([*TPU, "--topology=v5p:08x8x8", *RUN], "--topology=v5p:08x8x8: the shapes"),
        ([*TPU, "--chips-per-node=8", *RUN], "--chips-per-node=8: a node has 4 chips"),
        ([*TPU, "--nodes=2", *RUN], "--nodes is for GPUs"),
        ([*TPU, "--slices=0", *RUN], "--slices=0 must be a whole number from 1"),
        ([*GPU, "--slices=2", *RUN], "--slices and --chips-per-node are for TPUs"),
        ([*GPU, "--gpus=8", *RUN], "--gpus=8 must be the type and the number of a node"),
        ([*GPU, "--grace=1s", *RUN], "--grace=1s must be a whole number"),
        ([*GPU, "--", "--x=a\nb"], "a flag has a line break"),
    ],
)
def test_wrong_arguments_are_one_sentence(stage, arguments, says):
    done = stage.run("gke.sh", *arguments)
    assert done.returncode == 1 and stage.calls == []
    assert done.stderr.startswith(f"error: {says}") and done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_help_names_every_option(stage):
    done = stage.run("gke.sh", "--help")
    options = re.findall(r"^ +(--[a-z-]+)=?\*?\)", (LAUNCH / "gke.sh").read_text("utf-8"), re.M)
    assert len(options) == 16
    assert done.returncode == 0
    assert all(re.search(rf"^  {option}\b", done.stdout, re.M) for option in options[:-1])
