"""Help pages and translations against the promise of the interface: nothing missing, nothing stale, no drift."""

import json
import re

import pytest
from host_stub import WIDGETS

LANGUAGES = ("en", "zh")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
MESSAGE_SYNTAX = re.compile(r"[{}@|]")  # what the editor's translation library would interpret
INPUT_CELLS, OUTPUT_CELLS = 5, 3  # of a page's tables
# Tooltips that are made at run time: a locale's text would hide them.
AT_RUN_TIME = {"checkpoint"}


@pytest.fixture
def interface(root):
    """Node id -> what it promises."""
    return read(root / "tests" / "interface.json")


@pytest.fixture
def locale(root):
    """locale(language) -> node id -> its texts."""
    return lambda language: read(root / "locales" / language / "nodeDefs.json")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def page(root, language, node_id):
    """The file that ComfyUI's editor shows: docs/<id>/<language>.md, else docs/<id>.md, which is the English one."""
    docs = root / "web" / "docs"
    return docs / f"{node_id}.md" if language == "en" else docs / node_id / f"{language}.md"


def promised(node):
    """The texts of a node as a locale file has them."""

    def entry(name, spec, with_tooltip=True):
        tooltip = spec.get("tooltip") if with_tooltip else None
        return {"name": name, "tooltip": tooltip} if tooltip else {"name": name}

    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": {
            name: entry(spec.get("display_name") or name, spec, name not in AT_RUN_TIME)
            for name, spec in node["inputs"].items()
        },
        "outputs": {str(slot): entry(spec["name"], spec) for slot, spec in enumerate(node["outputs"])},
    }


def flat(texts, path=""):
    """{"node.inputs.seed.tooltip": text} of nested texts."""
    if isinstance(texts, str):
        return {path: texts}
    return {key: text for name, part in texts.items() for key, text in flat(part, f"{path}.{name}").items()}


def test_english_is_the_interface(interface, locale):
    assert flat(locale("en")) == flat({node_id: promised(node) for node_id, node in interface.items()})


def test_chinese_covers_the_interface_and_nothing_else(interface, locale):
    wanted = flat({node_id: promised(node) for node_id, node in interface.items()})
    assert flat(locale("zh")).keys() == wanted.keys()


def test_chinese_is_chinese(locale):
    english, chinese = flat(locale("en")), flat(locale("zh"))
    assert not [key for key, text in chinese.items() if text == english[key] or not CHINESE.search(text)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_holds_message_syntax(locale, language):
    assert not [key for key, text in flat(locale(language)).items() if MESSAGE_SYNTAX.search(text)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_text_made_at_run_time_stays_visible(locale, language):
    hidden = [
        (node_id, name)
        for node_id, node in locale(language).items()
        for name, spec in node["inputs"].items()
        if name in AT_RUN_TIME and "tooltip" in spec
    ]
    assert not hidden


def test_every_node_has_its_pages_and_no_page_is_stale(root, interface):
    wanted = {page(root, language, node_id) for language in LANGUAGES for node_id in interface}
    assert set((root / "web" / "docs").rglob("*.md")) == wanted


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_page_tells_all_of_its_node(root, interface, locale, language):
    wrong = []
    for node_id, node in interface.items():
        text = page(root, language, node_id).read_text(encoding="utf-8")
        inputs, outputs = rows(text, INPUT_CELLS), rows(text, OUTPUT_CELLS)
        if list(inputs) != list(node["inputs"]):
            wrong.append(f"{node_id}: its inputs are {list(node['inputs'])}, the page has {list(inputs)}")
        if [(name, cells[1]) for name, cells in outputs.items()] != [
            (output["name"], f"`{output['type']}`") for output in node["outputs"]
        ]:
            wrong.append(f"{node_id}: the page has the outputs {outputs}")
        for name, spec in node["inputs"].items():
            row = " ".join(inputs.get(name, ()))
            wrong += [f"{node_id}.{name}: no choice {x}" for x in spec.get("options") or () if f"`{x}`" not in row]
        if text.splitlines()[0] != f"# {locale(language)[node_id]['display_name']}":
            wrong.append(f"{node_id}: another title than the node's name")
        if language == "zh" and not all(CHINESE.search(line) for line in text.splitlines() if line.startswith("- ")):
            wrong.append(f"{node_id}: a tip that is not Chinese")
    assert not wrong


@pytest.mark.parametrize(("language", "effect"), [("en", "effect"), ("zh", "作用")])
def test_the_effect_comes_second(root, interface, language, effect):
    """The editor's help is narrow: what stands behind the second column is out of sight."""
    for node_id, node in interface.items():
        text = page(root, language, node_id).read_text(encoding="utf-8")
        heads = [line.split("|")[2].strip() for line in text.splitlines() if line.count("|") == INPUT_CELLS + 1]
        assert heads[0] == effect, node_id
        for name, cells in rows(text, INPUT_CELLS).items():
            spec = node["inputs"][name]
            widget = spec["type"] in WIDGETS and "default" in spec  # else a text that only comes through a link
            assert cells[2].startswith("`") == (not widget), (node_id, name)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_page_shows_the_defaults_and_ranges(root, interface, language):
    wrong = []
    for node_id, node in interface.items():
        inputs = rows(page(root, language, node_id).read_text(encoding="utf-8"), INPUT_CELLS)
        for name, spec in node["inputs"].items():
            _, _, _, default, span = inputs[name]
            if spec["type"] in ("COMBO", "STRING") and default != (
                f"`{spec['default']}`" if spec.get("default") else ""
            ):
                wrong.append(f"{node_id}.{name}: default {default}")
            if spec["type"] in ("INT", "FLOAT"):
                shown = [*numbers(default), *numbers(span)]
                if shown != [spec["default"], spec["min"], spec["max"]]:
                    wrong.append(f"{node_id}.{name}: {shown}")
    assert not wrong


def rows(text, width):
    """{name: cells} of the rows with so many cells whose first one names something in backticks."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    named = [(re.search("`(.+?)`", cells[0]), cells) for cells in lines if len(cells) == width]
    return {match.group(1): cells for match, cells in named if match}


def numbers(cell):
    """The numbers in a cell."""
    cell = cell.replace(",", "").replace("2^64 - 1", str(2**64 - 1))
    return [float(number) if "." in number else int(number) for number in re.findall(r"-?\d+(?:\.\d+)?", cell)]
