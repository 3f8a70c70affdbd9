"""README and docs/: links lead somewhere, anchors exist, nothing stands alone, commands are those that exist."""

import ast
import inspect
import json
import re
import shlex
import shutil
import subprocess

import pytest
from generate_texts import ROOT, commands

from pipeline.views.mixing import STRATEGIES

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "training/*.md", "checkpoints/*/*.md", "web/docs/**/*.md", "tests/golden/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def text_of(path):
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(path):
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path):
    """Relative links of a page that lead nowhere."""
    broken = []
    for link in LINK.findall(text_of(path)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    assert not broken_links(path)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_section_stands_twice(path):
    """As merges leave it, and generated tables then fill only one of the two."""
    sections = re.findall(r"^## .*$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(sections) == len(set(sections))


def test_a_broken_link_is_noticed(tmp_path):
    (tmp_path / "b.md").write_text("# A heading: it's one\n```sh\n# no heading\n```\n", encoding="utf-8")
    links = "[1](b.md) [2](b.md#a-heading-its-one) [3](b.md#no-heading) [4](c.md) [5](https://x.org/c.md)"
    (tmp_path / "a.md").write_text(f"{links} ![6](d.png)\n```\n[7](e.md)\n```\n", encoding="utf-8")
    assert broken_links(tmp_path / "a.md") == ["b.md#no-heading", "c.md", "d.png"]


def test_what_examples_write_into_a_clone_is_no_part_of_it(root):
    if not (root / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no clone")
    text = "\n".join(page.read_text(encoding="utf-8") for page in [root / "README.md", *root.glob("docs/*.md")])
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    written = set(re.findall(r"--(?:output|save-state) (\S+\.(?:glb|safetensors))", blocks)) | {"OUT.safetensors"}
    assert len(written) > 3
    for name in written:
        assert subprocess.run(["git", "check-ignore", "-q", name], cwd=root, check=False).returncode == 0, name


def test_every_page_of_docs_is_linked_from_the_readme():
    links = LINK.findall(text_of(ROOT / "README.md"))
    assert {f"docs/{path.name}" for path in ROOT.glob("docs/*.md")} <= set(links)


def test_every_node_and_every_template_is_in_the_lists(root):
    text = (root / "docs" / "nodes.md").read_text(encoding="utf-8")
    graphs = {path.stem for path in root.glob("workflows/*.json")}
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == graphs
    assert set(re.findall(r"T2\w+", text)) == set(
        json.loads((root / "tests" / "interface.json").read_text(encoding="utf-8"))
    )


def test_every_strategy_of_views_is_described(root):
    described = re.findall(r"^\| `(\w+)` \|", (root / "docs" / "views.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert described == list(STRATEGIES)


def test_files_named_by_help_pages_and_messages_exist():
    """`docs/x.md` outside of a link: help pages are read in the editor, where a relative link leads nowhere."""
    sources = [*ROOT.glob("web/docs/**/*.md"), *ROOT.glob("nodes/**/*.py"), *ROOT.glob("pipeline/**/*.py")]
    named = {
        name for path in sources for name in re.findall(r"(?<![\w/])docs/\w+\.md", path.read_text(encoding="utf-8"))
    }
    assert not [name for name in named if not (ROOT / name).exists()]


def test_ci_finds_the_test_command():
    """`.ci/run` takes the line from the README."""
    command = [line for line in (ROOT / "README.md").read_text("utf-8").splitlines() if line.endswith("&& pytest")]
    assert len(command) == 1 and command[0].startswith("pip install ")


def test_options_named_in_the_docs_exist():
    parsers = commands()
    known = {name: {o for action in parser._actions for o in action.option_strings} for name, parser in parsers.items()}
    wrong = []
    for path in PAGES:
        for line in re.findall(r"python -m pipeline ([^`\n]*)", path.read_text(encoding="utf-8")):
            name, *words = shlex.split(line, comments=True) if line.strip() else ["--help"]
            options = [word for word in words if word.startswith("--")]
            if name in known:
                wrong += [f"{path.name}: {name} {option}" for option in options if option not in known[name]]
            elif re.fullmatch(r"[a-z-]+", name):
                wrong.append(f"{path.name}: no command {name}")
    assert not wrong


def test_the_map_of_the_repository_names_what_is_there():
    """Of CONTRIBUTING: every folder and module of the pipeline is named, and nothing that is gone."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = text.partition("## Layout")[2].split("```")[1].strip().splitlines()
    named = " ".join(line for line in lines if line.startswith("  "))
    here = {
        path.name for path in (ROOT / "pipeline").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    here -= {"__init__.py"}
    assert not [name for name in here if f" {name}{'' if name.endswith('.py') else '/'}" not in f" {named}"], (
        "add it to the map"
    )
    first = [line.split()[0].rstrip(",") for line in lines]
    folder = {True: ROOT / "pipeline", False: ROOT}
    assert not [name for name, line in zip(first, lines) if not (folder[line.startswith("  ")] / name).exists()]


def test_the_example_of_the_library_fits_its_functions():
    """Every import exists and every call of an imported function binds; without running it, which takes a while."""
    text = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    tree = ast.parse(re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1))
    names = {}
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "library.md", "exec"), names)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    bound = 0
    for call in calls:
        called = ast.unparse(call.func)
        if called.partition(".")[0] in names and isinstance(call.func, (ast.Name, ast.Attribute)):
            signature = inspect.signature(eval(called, names))
            signature.bind(*call.args, **{keyword.arg: keyword.value for keyword in call.keywords})
            bound += 1
    assert bound >= 10
