"""Help pages and translations: the generated parts are up to date, the rest is complete, nothing is stale."""

import json
import re

import generate_texts
import pytest
from generate_texts import AT_RUN_TIME, ROOT, page, promised

LANGUAGES = ("en", "zh")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
MESSAGE_SYNTAX = re.compile(r"[{}@|]")  # what the editor's translation library would interpret


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


def flat(texts, path=""):
    """{"node.inputs.seed.tooltip": text} of nested texts."""
    if isinstance(texts, str):
        return {path: texts}
    return {key: text for name, part in texts.items() for key, text in flat(part, f"{path}.{name}").items()}


def test_generated_texts_are_up_to_date():
    """A node's English texts stand once, in its schema, and an option's in the parser."""
    stale = [
        str(path.relative_to(ROOT))
        for path, text in generate_texts.generated().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert not stale, "run `python tests/generate_texts.py`"


def test_a_table_is_replaced_and_the_prose_round_it_stays():
    text = "# A\n\n## One\n\nProse.\n\n| old |\n|---|\n\n- tip\n\n## Two\n\n| other |\n"
    made = generate_texts.with_table(text, "## One", ["| new |", "|---|", "| row |"])
    assert made == text.replace("| old |\n|---|\n", "| new |\n|---|\n| row |\n")
    assert generate_texts.with_table("# A\n", "## Two", ["| new |"]) == "# A\n\n## Two\n\n| new |\n"


def test_a_new_node_gets_a_page_and_a_cell_keeps_its_text_whole(tmp_path):
    tooltip = "One | two <b> *three*."
    node = {
        "display_name": "New",
        "description": "Makes it.",
        "inputs": {"size": {"type": "INT", "optional": True, "advanced": True, "default": 20000, "min": 0, "max": 5}},
        "outputs": [{"name": "mesh", "type": "T2_MESH,MESH", "tooltip": tooltip}],
    }
    made = generate_texts.help_page(tmp_path / "T2New.md", node, promised(node), generate_texts.WORDS["en"])
    assert made.startswith("# New\n\nMakes it.\n")
    assert "| `size` (advanced) |  | integer | 20,000 | 0 to 5 |" in made
    assert r"| `mesh` | `T2_MESH` or `MESH` | One \| two \<b> \*three\*. |" in made


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
    wanted = {page(language, node_id) for language in LANGUAGES for node_id in interface}
    assert set((root / "web" / "docs").rglob("*.md")) == wanted


def test_tips_of_a_chinese_page_are_chinese(interface):
    for node_id in interface:
        lines = page("zh", node_id).read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if line.startswith("- ") and not CHINESE.search(line)], node_id


def test_bold_text_ends_where_it_should(interface):
    """Markdown does not close ** between punctuation and a letter, which Chinese has without a blank between."""
    for node_id in interface:
        text = page("zh", node_id).read_text(encoding="utf-8")
        assert not re.search(r"[\u3000-\u303f\uff00-\uffef]\*\*[\u4e00-\u9fff]", text), node_id


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_page_describes_what_has_no_tooltip(language, interface):
    """Inputs whose tooltip is made at run time have a row by hand."""
    for node_id, node in interface.items():
        cells = generate_texts._second_cells(page(language, node_id).read_text(encoding="utf-8"))
        assert not [name for name in node["inputs"] if name in AT_RUN_TIME and not cells[name]], node_id


def test_a_page_names_only_inputs_that_its_node_or_another_has(interface):
    """A tip that begins with an input's name follows when that is gone."""
    for node_id, node in interface.items():
        names = {*node["inputs"], *(output["name"] for output in node["outputs"])}
        for option in node["inputs"].values():
            names |= set(option.get("options", ()))
        text = page("en", node_id).read_text(encoding="utf-8").partition("## Errors")[0]
        assert not set(re.findall(r"^- `(\w+)`", text, re.MULTILINE)) - names, node_id
