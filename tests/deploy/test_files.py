"""The files in deploy/ are valid for those who read them, and say the same as each other and as their pages."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml
from dask_jobqueue.slurm import SLURMJob
from jsonschema import Draft202012Validator

from shardtools import __version__
from tests.deploy.commands import PROGRAMS, code_blocks, find_commands, parse

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PAGES = [ROOT / "docs" / name for name in ("kubernetes.md", "slurm.md", "compose.md")]
IMAGE = f"shardtools:{__version__}"
SCHEMA = json.loads((Path(__file__).parent / "operator" / "daskjob.json").read_text())


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text("utf-8"))


def load_module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), DEPLOY / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def strict(schema: Any) -> Any:
    """Return a schema that refuses fields that it does not know, as kubectl does."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
    return {**closed, **{name: strict(part) for name, part in schema.items()}}


def errors_in(resource: dict[str, Any]) -> list[str]:
    """Return what the operator's schema has against a DaskJob, or against a DaskCluster, which is a part of it."""
    schema = strict(SCHEMA)
    if resource["kind"] == "DaskCluster":
        schema = {**schema["properties"]["spec"]["properties"]["cluster"], "$defs": schema["$defs"]}
    envelope = {"apiVersion", "kind", "metadata"}
    body = {name: value for name, value in resource.items() if name not in envelope}
    assert resource["apiVersion"] == "kubernetes.dask.org/v1" and set(resource) > envelope
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(body)]


def pods_of(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the pod specs of a DaskJob by their role."""
    cluster = job["spec"]["cluster"]["spec"]
    return {
        "job": job["spec"]["job"]["spec"],
        "scheduler": cluster["scheduler"]["spec"],
        "worker": cluster["worker"]["spec"],
    }


@pytest.fixture
def job() -> Any:
    return load("daskjob.yaml")


class TestKubernetes:
    def test_the_job_fits_the_operator(self, job: Any) -> None:
        assert errors_in(job) == []

    def test_mistakes_are_found(self, job: Any) -> None:
        worker = job["spec"]["cluster"]["spec"]["worker"]
        for change in (
            lambda: worker.update(replicas="ten"),
            lambda: worker["spec"]["containers"][0].update(arguments=[]),
            lambda: worker["spec"]["containers"][0]["resources"]["limits"].update(cpu=4),
            lambda: job["spec"]["cluster"]["spec"]["scheduler"].pop("service"),
        ):
            change()
        assert len(errors_in(copy.deepcopy(job))) == 4

    def test_the_cluster_of_kube_cluster_fits_the_operator(self) -> None:
        cluster = load_module("kube_cluster.py").read_spec("other")
        assert errors_in(cluster) == []
        assert cluster["metadata"]["name"] == "other"
        assert cluster["spec"]["scheduler"]["service"]["selector"]["dask.org/cluster-name"] == "other"

    def test_the_service_leads_to_the_scheduler(self, job: Any) -> None:
        service = job["spec"]["cluster"]["spec"]["scheduler"]["service"]
        assert service["selector"]["dask.org/cluster-name"] == job["metadata"]["name"]
        (scheduler,) = pods_of(job)["scheduler"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in scheduler["ports"]}
        assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports
        assert ports == {"tcp-comm": 8786, "http-dashboard": 8787}  # the names by which the operator finds them
        assert {scheduler[probe]["httpGet"]["port"] for probe in ("readinessProbe", "livenessProbe")} <= set(ports)

    def test_every_volume_is_there_and_used(self, job: Any) -> None:
        for pod in pods_of(job).values():
            mounts = {mount["name"] for container in pod["containers"] for mount in container.get("volumeMounts", ())}
            assert {volume["name"] for volume in pod.get("volumes", ())} == mounts

    def test_containers_run_the_image_as_its_user(self, job: Any) -> None:
        for pod in pods_of(job).values():
            assert [container["image"] for container in pod["containers"]] == [IMAGE]
            assert f"USER {pod['securityContext']['runAsUser']}:" in (DEPLOY / "Dockerfile").read_text()

    def test_its_commands_are_right(self, job: Any) -> None:
        for pod in pods_of(job).values():
            for container in pod["containers"]:
                parse(container["args"])

    def test_the_other_command_of_the_page_is_right(self) -> None:
        arguments = yaml.safe_load(code_blocks(ROOT / "docs" / "kubernetes.md", "yaml"))["args"]
        assert arguments[0] == "htmapper"
        parse(arguments)

    def test_the_page_puts_the_image_of_a_registry_into_all_pods(self) -> None:
        (line,) = [line for line in code_blocks(ROOT / "docs" / "kubernetes.md").splitlines() if line[:4] == "sed "]
        done = subprocess.run(
            ["bash", "-c", line.rpartition(" | ")[0]],
            cwd=ROOT,
            env={**os.environ, "REGISTRY": "registry.example.org/me"},
            capture_output=True,
            check=True,
        )
        images = [pod["containers"][0]["image"] for pod in pods_of(yaml.safe_load(done.stdout)).values()]
        assert images == [f"registry.example.org/me/{IMAGE}"] * 3

    def test_the_page_makes_what_it_refers_to(self, job: Any) -> None:
        page = code_blocks(ROOT / "docs" / "kubernetes.md")
        (container,) = pods_of(job)["worker"]["containers"]
        assert f"kubectl create secret generic {container['envFrom'][0]['secretRef']['name']} " in page
        scripts = next(volume for volume in pods_of(job)["job"]["volumes"] if "configMap" in volume)
        assert f"kubectl create configmap {scripts['configMap']['name']} " in page


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments."""
    lines = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1].strip()) for line in lines.splitlines() if line]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what Docker sends to the build, as .dockerignore says."""
    folder = tmp_path_factory.mktemp("context")
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert patterns[0] == "*" and patterns[-1] == "**/__pycache__"
    for pattern in patterns[1:-1]:
        assert pattern.startswith("!")
        source = ROOT / pattern[1:]
        if source.is_dir():
            shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    return folder


class TestImage:
    def test_what_it_copies_is_in_the_context(self, context: Path) -> None:
        copied = [argument.split()[:-1] for name, argument in instructions() if name == "COPY"]
        sources = [source for some in copied if not some[0].startswith("--from") for source in some]
        assert sources and [source for source in sources if not (context / source).exists()] == []

    def test_a_wheel_of_the_context_has_the_whole_package(self, context: Path, tmp_path: Path) -> None:
        (line,) = [argument for name, argument in instructions() if name == "RUN" and argument.startswith("pip wheel")]
        command = line.replace("/wheel ", f"{tmp_path} ").split()
        subprocess.run([sys.executable, "-m", *command, "--no-build-isolation"], cwd=context, check=True)
        (wheel,) = tmp_path.glob("*.whl")
        packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
        here = {
            path
            for path in (ROOT / "shardtools").rglob("*")
            if path.suffix in (".py", ".typed", ".html", ".css", ".js")
        }
        assert packed == {path.relative_to(ROOT).as_posix() for path in here}
        assert f"-{__version__}-" in wheel.name
        metadata = zipfile.ZipFile(wheel).read(f"shardtools-{__version__}.dist-info/METADATA").decode()
        (extras,) = [
            re.findall(r"\.whl\)\[(\w+)\]", line) for _, line in instructions() if line.startswith("pip install")
        ]
        assert extras and all(f"Provides-Extra: {extra}\n" in metadata for extra in extras)

    def test_it_does_not_run_as_root(self) -> None:
        assert [argument for name, argument in instructions() if name == "USER"] == ["1000:1000"]

    def test_its_command_is_right(self) -> None:
        ((_, command),) = [(name, argument) for name, argument in instructions() if name == "CMD"]
        parse(json.loads(command))

    def test_everyone_calls_it_by_the_same_name(self) -> None:
        texts = [path.read_text("utf-8") for path in (*PAGES, *DEPLOY.iterdir()) if path.is_file()]
        tags = {tag for text in texts for tag in re.findall(r"\bshardtools:(\d[\w.]*)", text)}
        assert tags == {__version__}


class TestCompose:
    def test_services(self) -> None:
        services = load("compose.yaml")["services"]
        storage = services["storage"]["extends"]
        assert storage["service"] in yaml.safe_load((DEPLOY / storage["file"]).read_text())["services"]
        assert [services[name]["image"] for name in ("scheduler", "worker", "job")] == [IMAGE] * 3
        (build,) = [service["build"] for service in services.values() if "build" in service]
        assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
        assert set(services["job"]["depends_on"]) == set(services) - {"job"}

    def test_its_commands_are_right(self) -> None:
        for service in load("compose.yaml")["services"].values():
            for command in find_commands(service.get("command", "")):
                parse(command)


class TestSlurm:
    @pytest.mark.parametrize("check", [("bash", "-n"), ("shellcheck",)], ids=lambda check: check[0])
    def test_the_script_is_right(self, check: tuple[str, ...]) -> None:
        program = shutil.which(check[0], path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin")
        assert program is not None
        done = subprocess.run([program, *check[1:], DEPLOY / "slurm.sh"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")

    def test_its_commands_are_right(self) -> None:
        found = list(find_commands((DEPLOY / "slurm.sh").read_text()))
        assert [command[:2] for command in found if command[0] == "dask"] == [["dask", "scheduler"], ["dask", "worker"]]
        for command in found:
            parse([word for word in command if word != "$interface"])

    def test_workers_of_slurm_cluster(self) -> None:
        script = SLURMJob(
            scheduler="tcp://10.0.0.1:8786", name="one", **load_module("slurm_cluster.py").JOB
        ).job_script()
        assert "#SBATCH --cpus-per-task=8\n" in script and "#SBATCH --mem=15G\n" in script
        line = script.splitlines()[-1]
        assert " -m distributed.cli.dask_worker " in line
        parse(["dask", "worker", *line.partition(" -m distributed.cli.dask_worker ")[2].split()])


def all_commands() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        for command in find_commands(code_blocks(page)):
            yield page.name, command
    for example in DEPLOY.glob("*.py"):
        docstring = (example.read_text("utf-8")).split('"""')[1]
        for command in find_commands("\n".join(line for line in docstring.splitlines() if line.startswith("    "))):
            yield example.name, command


class TestPages:
    def test_their_commands_are_right(self) -> None:
        seen = set()
        for place, command in all_commands():
            seen.add(place)
            parse(command)
            for file in re.findall(r"deploy/[\w.]+", " ".join(command)):
                assert (ROOT / file).exists(), (place, file)
        assert seen == {page.name for page in PAGES} | {"kube_cluster.py", "slurm_cluster.py"}

    def test_callables_that_they_name_are_there(self) -> None:
        named = {name for _, command in all_commands() for name in re.findall(r"(\w+\.py):(\w+)", " ".join(command))}
        assert {name for name, _ in named} == {"kube_cluster.py", "slurm_cluster.py"}
        assert all(callable(getattr(load_module(name), function)) for name, function in named)

    def test_files_that_they_name_are_there(self) -> None:
        for page in PAGES:
            files = re.findall(r"deploy/[\w.]+\w", page.read_text("utf-8"))
            assert files and [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("line", ["dask worker h:1 --threads 2", "htshuffle --sed 7 a b", "dask scheduler --ports 0"])
def test_a_wrong_command_is_found(line: str) -> None:
    (command,) = find_commands(line)
    assert command[0] in (*PROGRAMS, "dask")
    with pytest.raises(click.UsageError):
        parse(command)
