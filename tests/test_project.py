"""pyproject.toml against what the ComfyUI registry specifies, and one version for all who ask.

Source: docs.comfy.org/registry/specifications, and comfy-cli, which reads the version from [tool.comfy.version].
"""

import re
import sys

import pytest
from PIL import Image

if sys.version_info < (3, 11):
    pytest.skip("the standard library reads TOML since Python 3.11", allow_module_level=True)
import tomllib

VERSION = re.compile(r'^__version__ = "(\d+\.\d+\.\d+)"$', re.MULTILINE)


@pytest.fixture
def config(root):
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_registry_takes_the_project_table(config):
    project = config["project"]
    assert re.fullmatch(r"[A-Za-z]([-_.]?[A-Za-z0-9])*", project["name"]) and len(project["name"]) < 100
    assert project["description"] and project["requires-python"] == ">=3.10"
    assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", project["urls"]["Repository"])
    known = r"Operating System :: OS Independent|Environment :: GPU :: (NVIDIA CUDA|AMD ROCm|Apple Metal|Intel Arc)"
    assert all(re.fullmatch(known, classifier) for classifier in project["classifiers"])


def test_the_registry_takes_the_comfy_table(config, root):
    comfy = config["tool"]["comfy"]
    assert re.fullmatch(r"[\w-]+", comfy["PublisherId"]) and comfy["DisplayName"]
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    repository = config["project"]["urls"]["Repository"].removeprefix("https://github.com/")
    assert repository.split("/")[0] == comfy["PublisherId"], "the placeholder must be replaced everywhere or nowhere"
    prefix = f"https://raw.githubusercontent.com/{repository}/main/"
    assert comfy["Icon"].startswith(prefix)
    with Image.open(root / comfy["Icon"].removeprefix(prefix)) as icon:
        assert icon.width <= 800 and icon.height <= 400


def test_the_version_stands_once(config, root):
    import pipeline

    assert "version" not in config["project"] and "version" in config["project"]["dynamic"]
    source = (root / config["tool"]["comfy"]["version"]["path"]).read_text(encoding="utf-8")
    assert VERSION.findall(source) == [pipeline.__version__]
    assert config["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "pipeline.__version__"}


def test_the_changelog_tells_of_the_version(root):
    import pipeline

    assert f"\n## {pipeline.__version__}" in (root / "CHANGELOG.md").read_text(encoding="utf-8")
