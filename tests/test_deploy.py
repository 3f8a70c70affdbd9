"""deploy/: what containers are built from and run with fits the repository, fits together, and passes its own tools."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import gateway
import pytest
import yaml
from conftest import ROOT

DEPLOY = ROOT / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
SETTINGS = {
    name
    for template in (DEPLOY / "gateway" / "templates").iterdir()
    for name in re.findall(r"\$\{(GATEWAY_\w+)\}", template.read_text(encoding="utf-8"))
}


def steps(word: str) -> list[str]:
    """The instructions of a kind in the Containerfile, without line continuations."""
    lines = "\n".join(line for line in CONTAINERFILE.splitlines() if not line.lstrip().startswith("#"))
    return re.findall(rf"^{word} (.*)$", lines.replace("\\\n", " "), re.MULTILINE)


def documents(name: str) -> list[dict]:
    return [each for each in yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")) if each]


def tool(name: str) -> str:
    """A program of the PATH or of this Python's environment."""
    found = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)
    return found or pytest.skip(f"{name} is not installed (docs/deploy.md says where it is from)")


def run(*command) -> str:
    done = subprocess.run(command, cwd=DEPLOY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_image_holds_what_is_there():
    copied = [source for step in steps("COPY") for source in shlex.split(step)[:-1]]
    missing = [source for source in copied if not list(ROOT.glob(source))]
    assert not missing
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text(encoding="utf-8").split("\n")
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied), "what is copied reaches the builder"
    named = set(re.findall(r"--requirement ([\w.-]+)", CONTAINERFILE))
    assert named >= {path.name for path in ROOT.glob("requirements*.txt")}


def test_the_image_is_of_wheels_without_root_and_watched():
    assert "PIP_ONLY_BINARY=:all:" in CONTAINERFILE
    assert steps("USER") == ["10001:10001"]
    assert steps("VOLUME") == ['["/weights", "/data", "/cache"]']
    assert "/health" in steps("HEALTHCHECK")[0]
    for place in ("HF_HOME=/weights", "TRITON_CACHE_DIR=/cache", "WARP_CACHE_PATH=/cache", "HOME=/cache"):
        assert place in steps("ENV")[1], "everything that is written has a volume"


def test_the_health_check_is_a_program(tmp_path):
    """It fails where nothing answers: a check that cannot fail would be none."""
    command = json.loads(steps("HEALTHCHECK")[0].partition("CMD ")[2])
    code = command[2].replace("8000", str(gateway.free_port()))
    assert subprocess.run([sys.executable, *command[1:2], code], capture_output=True).returncode == 1


def test_the_command_is_one_of_the_service(capsys):
    words = json.loads(steps("CMD")[0])
    assert json.loads(steps("ENTRYPOINT")[0]) == ["python", "-m"]
    with pytest.raises(SystemExit) as ended:  # as argparse ends a program that has shown its help
        import_module(f"{words[0]}.__main__").main([words[1], "--help"])
    known = capsys.readouterr()
    assert ended.value.code == 0, known.err
    assert [word for word in words if word.startswith("--") and word not in known.out] == []


def test_compose_sets_what_the_gateway_asks_for():
    (compose,) = documents("compose.yaml")
    default = {
        name: value.partition(":-")[2].rstrip("}") for name, value in compose["x-settings"].items() if "$" in value
    }
    assert default | {"GATEWAY_SITE": "service"} == gateway.DEFAULTS, "what is tested is what is shipped"
    for name in ("gateway", "comfyui-gateway"):
        assert set(compose["services"][name]["environment"]) == SETTINGS


def test_every_container_of_compose_is_confined():
    (compose,) = documents("compose.yaml")
    for name, service in compose["services"].items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        for port in service.get("ports", []):
            assert "127.0.0.1:" in port, "what others may reach is a decision of the owner"
    assert "ports" not in compose["services"]["service"], "only the gateway is reached"
    assert {volume.partition(":")[2] for volume in compose["services"]["service"]["volumes"]} == set(
        json.loads(steps("VOLUME")[0])
    )


def pods() -> dict[str, dict]:
    """What each deployment starts."""
    deployments = [each for each in documents("kubernetes.yaml") if each["kind"] == "Deployment"]
    return {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in deployments}


def test_kubernetes_sets_the_same():
    (nginx,) = pods()["gateway"]["containers"]
    settings = {each["name"]: each["value"] for each in nginx["env"]}
    assert set(settings) == SETTINGS
    assert {name: settings[name] for name in gateway.DEFAULTS} == gateway.DEFAULTS
    (compose,) = documents("compose.yaml")
    assert nginx["image"] == compose["x-gateway"]["image"]
    for name, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0, name
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False, name
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"], name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes, name
    (service,) = pods()["service"]["containers"]
    assert {mount["mountPath"] for mount in service["volumeMounts"]} >= set(json.loads(steps("VOLUME")[0]))
    assert str(pods()["service"]["securityContext"]["runAsUser"]) in steps("USER")[0]


def test_kustomize_brings_every_file_of_the_gateway():
    (kustomization,) = documents("kustomization.yaml")
    brought = {name for generated in kustomization["configMapGenerator"] for name in generated["files"]}
    files = {path.relative_to(DEPLOY).as_posix() for path in (DEPLOY / "gateway").rglob("*") if path.is_file()}
    assert brought == files - {"gateway/comfyui.conf"}
    configured = {each["name"] for each in kustomization["configMapGenerator"]}
    volumes = [volume for pod in pods().values() for volume in pod["volumes"]]
    assert configured == {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}
    assert (DEPLOY / kustomization["resources"][0]).exists()


def test_every_setting_is_described():
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert [name for name in SETTINGS if f"`{name}`" not in text] == []
    for name, value in gateway.DEFAULTS.items():
        assert re.search(rf"`{name}` \| `{value}`", text), name


def test_hadolint_finds_nothing():
    run(tool("hadolint"), "Containerfile")


def test_docker_compose_reads_the_files():
    program = tool("docker-compose")
    both = ["--file", "compose.yaml", "--file", "compose.gpu.yaml", "--profile", "comfyui"]
    read = json.loads(run(program, *both, "config", "--format", "json"))
    assert set(read["services"]) == {"service", "gateway", "comfyui-gateway"}
    assert read["services"]["service"]["build"]["args"] == {"VARIANT": "cuda"}
    assert read["services"]["service"]["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"


def test_kubernetes_own_schemas_fit():
    told = run(tool("kubernetes-validate"), "--strict", "kubernetes.yaml")
    assert told.count("passed") == len(documents("kubernetes.yaml"))


def test_yamllint_finds_nothing():
    rules = "line-length: {max: 150}, document-start: disable, comments: {min-spaces-from-content: 1}"
    run(tool("yamllint"), "--strict", "--config-data", f"{{extends: default, rules: {{{rules}}}}}", ".")


@pytest.fixture
def modal_app(monkeypatch):
    if not find_spec("modal"):
        pytest.skip("the package modal is not installed")
    monkeypatch.setenv("TRELLIS2_CHECKPOINT", "small")
    spec = spec_from_file_location("modal_app", DEPLOY / "modal_app.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:.*is executing locally")
def test_the_modal_app_reads_before_the_snapshot_and_moves_after_it(modal_app):
    """As modal runs it, but here and on the CPU: the bundled checkpoint, once before and once after."""
    there = modal_app.Trellis2()
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        there.make.local(b"no picture")
    made = there.make.local((ROOT / "assets" / "rocket.png").read_bytes(), faces=2000, texture_size=256)
    assert made.startswith(b"glTF")
