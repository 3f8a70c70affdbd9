"""Messages: numbers agree with their nouns, and options that are named are those of the command that names them."""

import ast
import re

import pytest
from generate_texts import ROOT, commands

from pipeline.words import counted

# words behind a number that do not count: verbs, and what there is always more of
_NOT_COUNTED = {"is", "does", "has", "was", "holds", "shows", "tells", "its", "this", "as", "stands", "lacks", "leads"}
# command -> files whose messages are its own; the rest is shared by several
_OWN = {
    "batch": ("cli/batch.py", "batch/"),
    "finish": ("cli/finish.py",),
    "generate": ("cli/generate.py",),
    "inspect": ("cli/inspect.py", "stages/inspection.py"),
    "refine": ("cli/refine.py", "stages/user_mesh/refine.py"),
    "texture": ("cli/texture.py", "stages/user_mesh/texture_mesh.py", "stages/user_mesh/project_texture.py"),
}
_OTHERS = {"--upgrade": "of pip", "--pipeline-type": "refused by name", "--exclude": "of git", "--dirty": "of git"}


def texts(path):
    """[(line, text)] of a file; in place of what an f-string fills in stands {}."""
    found, inner = [], set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [each.value if isinstance(each, ast.Constant) else "{}" for each in node.values]
            inner |= {id(each) for each in node.values}
            found.append((node.lineno, "".join(map(str, parts))))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            found.append((node.lineno, node.value))
    return found


def files(*folders):
    for folder in folders:
        at = ROOT / folder
        yield from [at] if at.is_file() else sorted(at.rglob("*.py"))


def test_what_is_counted():
    found = [counted(number, "GPU") for number in (0, 0.5, 1, 1.0, 2.0, 2500)]
    assert found == ["0 GPUs", "0.5 GPUs", "1 GPU", "1 GPU", "2 GPUs", "2,500 GPUs"]
    assert counted(2, "try", "tries") == "2 tries" and counted(1, "try", "tries") == "1 try"


def test_numbers_agree_with_their_nouns_in_batch_and_service():
    """ "1 samplers, 1 GPUs each": what is counted goes through words.counted. A limit of many is written as it is."""
    wrong = []
    for path in files("serving", "pipeline/batch", "pipeline/cli/batch.py", "pipeline/cli/results.py"):
        for line, text in texts(path):
            nouns = re.findall(r"\{\} ([a-z]+s|[A-Z]+s)\b", text)
            wrong += [f"{path.relative_to(ROOT)}:{line} {noun}" for noun in nouns if noun not in _NOT_COUNTED]
    assert wrong == ["serving/requests.py:84 characters"]  # a constant above 1


@pytest.fixture(scope="module")
def known():
    return {name: {o for a in parser._actions for o in a.option_strings} for name, parser in commands().items()}


def named(path):
    """[(line, option)] that the texts of a file name, but for those that are nothing else: where one is defined."""
    pattern = r"(?<![\w-])--[a-z][a-z-]*[a-z](?![\w{-])"
    return [(line, option) for line, text in texts(path) for option in re.findall(pattern, text) if option != text]


def test_options_that_messages_name_exist(known):
    all_of_them = set().union(*known.values(), _OTHERS)
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {option}"
        for path in files("pipeline")
        for line, option in named(path)
        if option not in all_of_them
    ]
    assert not wrong


@pytest.mark.parametrize("command", _OWN)
def test_a_command_names_its_own_options(command, known):
    """But for those by which a file is made that another command takes."""
    elsewhere = {"--save-state"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {option}"
        for path in files(*(f"pipeline/{each}" for each in _OWN[command]))
        for line, option in named(path)
        if option not in known[command] | elsewhere
    ]
    assert not wrong


def test_every_sampled_stage_can_be_told_its_steps(known):
    stages = {"generate": 3, "batch": 3, "refine": 3, "texture": 1}
    for command, count in stages.items():
        own = [option for option in known[command] if option.endswith("-steps")]
        assert len(own) == count and "--texture-steps" in own and "--solver" in known[command]
