"""The manifests: Kubernetes' schemas know every field, the pod is restricted, and it fits what the daemon does.

They are read as they are written, and once more as `kubectl kustomize` renders them where there is kubectl.
"""

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
import yaml

from rekeyd.config import Config, listen_address, parse
from rekeyd.config.models import FleetMode

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
FORMS = ("base", "example")
# The oldest that has ReadWriteOncePod switched on, up to the newest whose schema is at hand.
VERSIONS = ("1.27", "1.29", "1.31", "1.33", "1.35", "1.37")
KUBECTL = os.environ.get("KUBECTL") or shutil.which("kubectl")

Document = dict[str, Any]


def written(form: str) -> list[Document]:
    """What the kustomization lists; patches, names and namespaces are kustomize's to apply."""
    folder = KUBERNETES / form
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    found: list[Document] = []
    for name in kustomization["resources"]:
        path = (folder / name).resolve()
        found += written(path.name) if path.is_dir() else yaml.safe_load_all(path.read_text())
    for generator in kustomization["configMapGenerator"]:
        made = {file: (folder / file).read_text() for file in generator["files"]}
        found = [d for d in found if (d["kind"], d["metadata"]["name"]) != ("ConfigMap", generator["name"])]
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": made})
    return found


def kustomized(form: str) -> list[Document]:
    if KUBECTL is None:
        pytest.skip("NOT CHECKED: no kubectl here ($KUBECTL, or on the path) to render the kustomization with")
    ran = subprocess.run(
        [KUBECTL, "kustomize", str(KUBERNETES / form)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return list(yaml.safe_load_all(ran.stdout))


@pytest.fixture(params=[written, kustomized], ids=["as written", "as kubectl renders it"])
def render(request: pytest.FixtureRequest) -> Callable[[str], list[Document]]:
    chosen: Callable[[str], list[Document]] = request.param
    return chosen


def only(documents: list[Document], kind: str) -> Document:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def pod_of(documents: list[Document]) -> Document:
    spec: Document = only(documents, "StatefulSet")["spec"]["template"]["spec"]
    return spec


def config_of(documents: list[Document]) -> Config:
    return parse(only(documents, "ConfigMap")["data"]["config.toml"], {})


# --- whole --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_kustomization_lists_every_file_of_its_folder_and_none_that_is_not_there(form: str) -> None:
    folder = KUBERNETES / form
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    listed = [*kustomization["resources"], *(f for g in kustomization["configMapGenerator"] for f in g["files"])]
    assert [name for name in listed if not (folder / name).exists()] == []
    present = {path.name for path in folder.iterdir()} - {"kustomization.yaml"}
    assert present == {name for name in listed if not name.startswith("../")}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("form", FORMS)
def test_every_document_fits_the_schema(form: str, version: str, render: Callable[[str], list[Document]]) -> None:
    documents = render(form)
    assert {"StatefulSet", "ConfigMap", "Service", "ServiceAccount", "NetworkPolicy"} <= {d["kind"] for d in documents}
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_knows_no_field_that_is_misspelt() -> None:
    documents = written("base")
    pod_of(documents)["terminationGracePeriod"] = 90
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(only(documents, "StatefulSet"), VERSIONS[-1], strict=True)


# --- restricted ---------------------------------------------------------------------------------------------------

# https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, with what it takes over from baseline
_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"),
    "image",
}
_SECCOMP = {"RuntimeDefault", "Localhost"}
_HOST = ("hostNetwork", "hostPID", "hostIPC")


def violations(documents: list[Document]) -> list[str]:
    """Of the Pod Security Standard `restricted`. ValueError without a pod: then nothing was checked."""
    found: list[str] = []
    pods = 0
    for document in documents:
        spec = document if document["kind"] == "Pod" else document.get("spec", {}).get("template", document)
        if "containers" in spec.get("spec", {}):
            pods += 1
            found += _violations_of(spec["spec"])
    if not pods:
        raise ValueError("there is no pod in it")
    return found


def _violations_of(pod: Document) -> Iterator[str]:
    whole = pod.get("securityContext", {})
    for name in _HOST:
        if pod.get(name):
            yield name
    for volume in pod.get("volumes", []):
        yield from (f"volume {kind}" for kind in volume if kind not in {"name", *_VOLUMES})
    for name in ("sysctls", "windowsOptions"):
        if whole.get(name):
            yield name
    if whole.get("runAsUser") == 0:
        yield "runAsUser 0"
    for container in (*pod["containers"], *pod.get("initContainers", []), *pod.get("ephemeralContainers", [])):
        yield from _violations_of_container(container, container.get("securityContext", {}), whole)


def _violations_of_container(container: Document, own: Mapping[str, Any], whole: Mapping[str, Any]) -> Iterator[str]:
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if own.get("runAsNonRoot", whole.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot"
    if own.get("runAsUser") == 0:
        yield "runAsUser 0"
    if own.get("seccompProfile", whole.get("seccompProfile", {})).get("type") not in _SECCOMP:
        yield "seccompProfile"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities are not dropped"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities are added"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "hostPort"


@pytest.mark.parametrize("form", FORMS)
def test_the_pod_is_restricted(form: str, render: Callable[[str], list[Document]]) -> None:
    assert violations(render(form)) == []


# What is done to the pod and its first container, and the one thing that must then be found.
LOOSENED: Mapping[str, Callable[[Document, Document], object]] = {
    "hostNetwork": lambda pod, _: pod.update(hostNetwork=True),
    "hostPID": lambda pod, _: pod.update(hostPID=True),
    "volume hostPath": lambda pod, _: pod["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
    "runAsNonRoot": lambda pod, _: pod["securityContext"].pop("runAsNonRoot"),
    "runAsUser 0": lambda pod, _: pod["securityContext"].update(runAsUser=0),
    "seccompProfile": lambda pod, _: pod["securityContext"]["seccompProfile"].update(type="Unconfined"),
    "privileged": lambda _, box: box["securityContext"].update(privileged=True),
    "allowPrivilegeEscalation": lambda _, box: box["securityContext"].pop("allowPrivilegeEscalation"),
    "capabilities are not dropped": lambda _, box: box["securityContext"].pop("capabilities"),
    "capabilities are added": lambda _, box: box["securityContext"]["capabilities"].update(add=["SYS_PTRACE"]),
    "hostPort": lambda _, box: box["ports"][0].update(hostPort=9744),
    "procMount": lambda _, box: box["securityContext"].update(procMount="Unmasked"),
}


@pytest.mark.parametrize("found", LOOSENED)
def test_a_pod_that_is_less_restricted_is_found(found: str) -> None:
    documents = copy.deepcopy(written("base"))
    pod = pod_of(documents)
    LOOSENED[found](pod, pod["containers"][0])
    assert violations(documents) == [found]


def test_a_check_that_saw_no_pod_is_no_check() -> None:
    with pytest.raises(ValueError, match="there is no pod"):
        violations([d for d in written("base") if d["kind"] != "StatefulSet"])


def test_the_pod_writes_nowhere_but_into_its_volumes_and_holds_no_token_of_the_cluster() -> None:
    documents = written("base")
    pod = pod_of(documents)
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["automountServiceAccountToken"] is False
    assert only(documents, "ServiceAccount")["automountServiceAccountToken"] is False
    assert {"memory"} <= container["resources"]["limits"].keys()


# --- what the daemon needs ----------------------------------------------------------------------------------------


def test_the_base_changes_nothing_until_a_person_says_so() -> None:
    assert config_of(written("base")).fleet.mode is FleetMode.OBSERVE


@pytest.mark.parametrize("form", FORMS)
def test_the_probes_reach_what_the_configuration_listens_on(form: str, render: Callable[[str], list[Document]]) -> None:
    documents = render(form)
    host, port = listen_address(config_of(documents).http.listen)
    (container,) = pod_of(documents)["containers"]
    assert host == "0.0.0.0"  # noqa: S104 -- within the pod; a loopback would be reached by no probe
    assert container["ports"] == [{"name": "http", "containerPort": port}]
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["port"] for probe in probes.values()} == {"http"}
    assert [probes[n]["path"] for n in ("startupProbe", "livenessProbe", "readinessProbe")] == [
        "/healthz",
        "/healthz",
        "/readyz",
    ]
    assert only(documents, "Service")["spec"]["ports"][0]["port"] == port


@pytest.mark.parametrize("form", FORMS)
def test_kubernetes_waits_longer_for_the_end_than_the_daemon_does(form: str) -> None:
    documents = written(form)
    grace = timedelta(seconds=pod_of(documents)["terminationGracePeriodSeconds"])
    assert grace >= config_of(documents).fleet.stop_timeout + timedelta(seconds=15)


@pytest.mark.parametrize("form", FORMS)
def test_every_file_that_the_configuration_names_lies_in_a_volume(
    form: str, render: Callable[[str], list[Document]]
) -> None:
    documents = render(form)
    pod, config = pod_of(documents), config_of(documents)
    (container,) = pod["containers"]
    mounts = {PurePosixPath(mount["mountPath"]): mount["name"] for mount in container["volumeMounts"]}

    def volume(path: str | None) -> str | None:
        return None if path is None else mounts.get(PurePosixPath(path).parent)

    assert volume(container["args"][container["args"].index("--config") + 1]) == "config"
    assert container["args"][-1] == "run"
    assert volume(config.journal.url.removeprefix("sqlite:///")) == "journal"
    assert volume(config.vault.auth.jwt_file) == "vault-token"
    assert {volume(account.external_id_file) for account in config.aws.accounts} <= {"secrets"}
    volumes = {v["name"]: v for v in pod["volumes"]}
    claimed = {claim["metadata"]["name"] for claim in only(documents, "StatefulSet")["spec"]["volumeClaimTemplates"]}
    assert set(mounts.values()) == set(volumes) | claimed
    assert volumes["config"]["configMap"]["name"] == only(documents, "ConfigMap")["metadata"]["name"]
    (token,) = (source["serviceAccountToken"] for source in volumes["vault-token"]["projected"]["sources"])
    assert token["path"] == PurePosixPath(str(config.vault.auth.jwt_file)).name


def test_there_is_one_pod_with_one_journal() -> None:
    spec = only(written("base"), "StatefulSet")["spec"]
    assert spec["replicas"] == 1
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]


def test_metrics_are_served_also_while_it_is_not_ready() -> None:
    assert only(written("base"), "Service")["spec"]["publishNotReadyAddresses"] is True


def test_the_role_in_vault_is_for_this_pod_alone() -> None:
    role = json.loads((DEPLOY / "vault" / "kubernetes-role.json").read_text())
    documents = written("example")
    kustomization = yaml.safe_load((KUBERNETES / "example" / "kustomization.yaml").read_text())
    assert role["bound_service_account_names"] == [pod_of(documents)["serviceAccountName"]]
    assert role["bound_service_account_namespaces"] == [kustomization["namespace"]]
    (volume,) = (v for v in pod_of(documents)["volumes"] if v["name"] == "vault-token")
    assert volume["projected"]["sources"][0]["serviceAccountToken"]["audience"] == role["audience"]
