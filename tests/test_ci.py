"""The workflow of CI against the tree: what it names is there, and what others skip runs in one of its jobs."""

import re
from pathlib import Path

import pytest
import yaml


@pytest.fixture
def jobs(root) -> dict[str, str]:
    """The commands of each job."""
    found = yaml.safe_load((root / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    return {name: "\n".join(step.get("run", "") for step in job["steps"]) for name, job in found.items()}


def files_of(root: Path, commands: str) -> set[str]:
    """The test files that commands name."""
    patterns = re.findall(r"tests/test_\S+", commands)
    found = {pattern: {path.name for path in root.glob(pattern)} for pattern in patterns}
    assert all(found.values()), [pattern for pattern, paths in found.items() if not paths]
    return set().union(*found.values())


def test_what_needs_comfyui_runs_with_one(jobs, root):
    text = {path.name: path.read_text(encoding="utf-8") for path in (root / "tests").glob("test_*.py")}
    needing = {
        name for name in text if re.search(r"^from comfy_server import .*\b(COMFYUI|needs_comfyui)\b", text[name], re.M)
    }
    assert len(needing) > 5 and needing <= files_of(root, jobs["comfyui"])


def test_what_is_optional_is_installed_for_its_tests(jobs, root):
    """A package without which a test is skipped is one of the requirements that some job installs."""
    everything = "\n".join(jobs.values())
    files = {root / name for name in re.findall(r"-r (\S+\.txt)", everything)}
    assert files >= {*root.glob("requirements*.txt"), *root.glob("tests/requirements*.txt")}
    assert files_of(root, jobs["optional"]) >= {path.name for path in root.glob("tests/test_serv*.py")}


def test_a_release_waits_for_every_job(root):
    found = yaml.safe_load((root / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    assert {*found["publish"]["needs"], "publish"} == {*found}


def test_the_type_checker_is_the_same_everywhere(jobs, root):
    here = re.findall(r"pyright==([\d.]+)", (root / ".ci" / "run").read_text(encoding="utf-8"))
    assert here and here == re.findall(r"pyright==([\d.]+)", jobs["lint"])
