"""Writes every text that is derived from the nodes' schemas and the command line's parser.

`python tests/generate_texts.py` writes tests/interface.json, locales/en/nodeDefs.json, the tables of the help pages in
web/docs (the Chinese ones take their words from locales/zh/nodeDefs.json), the colours of sockets in
web/js/trellis2.js, the tables of docs/options.md, and those of docs/performance.md from benchmarks/history.jsonl. What
stands around a table is written by hand and stays.
tests/test_texts.py fails while a file differs from this.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from host_stub import PACK, ROOT, WIDGETS, declared, pack, stubbed_nodes

# Tooltips that are made at run time. A locale's text would hide them, and their row on a help page is written by hand.
AT_RUN_TIME = {"checkpoint"}


@dataclass(frozen=True)
class Words:
    """What a table of a help page says in one language."""

    inputs: str
    outputs: str
    input_head: str
    output_head: str
    kinds: dict
    switch: tuple
    optional: str
    advanced: str
    span: str
    either: str
    comma: str


WORDS = {
    "en": Words(
        inputs="## Inputs",
        outputs="## Outputs",
        input_head="| input | effect | type | default | range |",
        output_head="| output | type | meaning |",
        kinds={"INT": "integer", "FLOAT": "number", "STRING": "text", "BOOLEAN": "switch", "COMBO": "choice"},
        switch=("off", "on"),
        optional=" (optional)",
        advanced=" (advanced)",
        span="{} to {}",
        either=" or ",
        comma=", ",
    ),
    "zh": Words(
        inputs="## 输入",
        outputs="## 输出",
        input_head="| 输入 | 作用 | 类型 | 默认值 | 范围 |",
        output_head="| 输出 | 类型 | 含义 |",
        kinds={"INT": "整数", "FLOAT": "数值", "STRING": "文本", "BOOLEAN": "开关", "COMBO": "选项"},
        switch=("关", "开"),
        optional="（可选）",  # noqa: RUF001
        advanced="（高级）",  # noqa: RUF001
        span="{} 到 {}",
        either=" 或 ",
        comma="、",
    ),
}


def generated() -> dict[Path, str]:
    """Every generated file and what it should hold."""
    interface = _known_first({node.define_schema().node_id: declared(node) for node in stubbed_nodes()})
    english = {node_id: promised(node) for node_id, node in interface.items()}
    chinese = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    files = {
        ROOT / "tests" / "interface.json": json.dumps(interface, indent=1) + "\n",
        ROOT / "locales" / "en" / "nodeDefs.json": json.dumps(english, indent=2, ensure_ascii=False) + "\n",
    }
    for language, texts in (("en", english), ("zh", chinese)):
        for node_id, node in interface.items():
            path = page(language, node_id)
            files[path] = help_page(path, node, texts.get(node_id, english[node_id]), WORDS[language])
    path = ROOT / "web" / "js" / "trellis2.js"
    files[path] = with_colors(path.read_text(encoding="utf-8"))
    path = ROOT / "docs" / "options.md"
    files[path] = options_page(path.read_text(encoding="utf-8"))
    path = ROOT / "docs" / "service.md"
    files[path] = service_page(path.read_text(encoding="utf-8"))
    path = ROOT / "docs" / "output.md"
    files[path] = output_page(path.read_text(encoding="utf-8"))
    path = ROOT / "docs" / "performance.md"
    files[path] = performance_page(path.read_text(encoding="utf-8"))
    return files


def _known_first(interface: dict[str, dict]) -> dict[str, dict]:
    """In the order of interface.json as it is, new nodes last: moving a class to another file changes no text."""
    known = list(json.loads((ROOT / "tests" / "interface.json").read_text(encoding="utf-8")))
    return {node_id: interface[node_id] for node_id in sorted(interface, key=(*known, *interface).index)}


def with_colors(script: str) -> str:
    """The editor's script with the colours of nodes/sockets.py."""
    colors = import_module(f"{PACK}.nodes.sockets").COLORS
    before, start, rest = script.partition("const COLORS = {\n")
    lines = "".join(f'    {name}: "{color}",\n' for name, color in colors.items())
    return f"{before}{start}{lines}}};{rest.partition('};')[2]}"


def page(language: str, node_id: str) -> Path:
    """The file that ComfyUI's editor shows: docs/<id>/<language>.md, else docs/<id>.md, which is the English one."""
    docs = ROOT / "web" / "docs"
    return docs / f"{node_id}.md" if language == "en" else docs / node_id / f"{language}.md"


def promised(node: dict) -> dict:
    """The texts of a node of interface.json as a locale file has them."""

    def entry(name, spec, with_tooltip=True):
        tooltip = spec.get("tooltip") if with_tooltip else None
        return {"name": name, "tooltip": tooltip} if tooltip else {"name": name}

    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": {name: entry(name, spec, name not in AT_RUN_TIME) for name, spec in node["inputs"].items()},
        "outputs": {str(slot): entry(spec["name"], spec) for slot, spec in enumerate(node["outputs"])},
    }


def help_page(path: Path, node: dict, texts: dict, words: Words) -> str:
    """The page with its title and its two tables as the node has them; a new one where there is none."""
    title = f"# {texts['display_name']}"
    text = path.read_text(encoding="utf-8") if path.exists() else f"{title}\n\n{texts['description']}\n"
    by_hand = _second_cells(text)
    rows = [
        _input_row(name, spec, texts["inputs"].get(name, {"name": name}), by_hand.get(name, ""), words)
        for name, spec in node["inputs"].items()
    ]
    text = with_table(text, words.inputs, [words.input_head, "|---|---|---|---|---|", *rows])
    rows = [
        _output_row(spec, texts["outputs"].get(str(slot), {"name": spec["name"]}), words)
        for slot, spec in enumerate(node["outputs"])
    ]
    text = with_table(text, words.outputs, [words.output_head, "|---|---|---|", *rows])
    return "\n".join([title, *text.split("\n")[1:]])


def with_table(text: str, heading: str, table: list[str]) -> str:
    """The text with the first table under a heading replaced; heading and table go to the end where it has neither."""
    lines = text.rstrip("\n").split("\n")
    if heading not in lines:
        lines += ["", heading]
    start = lines.index(heading) + 1
    end = next((i for i in range(start, len(lines)) if lines[i].startswith("## ")), len(lines))
    first = next((i for i in range(start, end) if lines[i].startswith("|")), None)
    if first is None:
        return "\n".join([*lines[:start], "", *table, *lines[start:]]) + "\n"
    last = next((i for i in range(first, end) if not lines[i].startswith("|")), end)
    return "\n".join([*lines[:first], *table, *lines[last:]]) + "\n"


def _second_cells(text: str) -> dict[str, str]:
    """Name of an input -> the second cell of its row."""
    rows = [line.split("|") for line in text.split("\n") if line.startswith("|") and "`" in line.split("|")[1]]
    return {row[1].split("`")[1]: row[2].strip() for row in rows}


def _input_row(name: str, spec: dict, texts: dict, by_hand: str, words: Words) -> str:
    widget = spec["type"] in WIDGETS and "default" in spec  # else a text that only comes through a link
    mark = words.advanced if spec["advanced"] else words.optional if spec["optional"] and not widget else ""
    effect = by_hand if name in AT_RUN_TIME else _cell(texts.get("tooltip", ""))
    kind = words.kinds[spec["type"]] if widget else _types(spec["type"], words)
    cells = (_named(name, texts["name"]) + mark, effect, kind, _default(spec, words), _range(spec, words))
    return f"| {' | '.join(cells)} |"


def _output_row(spec: dict, texts: dict, words: Words) -> str:
    cells = _named(spec["name"], texts["name"]), _types(spec["type"], words), _cell(texts.get("tooltip", ""))
    return f"| {' | '.join(cells)} |"


def _named(name: str, shown: str) -> str:
    return f"`{name}`" if shown == name else f"{shown} `{name}`"


def _types(types: str, words: Words) -> str:
    return words.either.join(f"`{each}`" for each in types.split(","))


def _cell(text: str) -> str:
    """Plain text in a Markdown cell."""
    for special in "\\|<*":
        text = text.replace(special, "\\" + special)
    return " ".join(text.split())


def _default(spec: dict, words: Words) -> str:
    if spec["type"] not in WIDGETS or spec.get("default") in (None, ""):
        return ""
    if spec["type"] == "BOOLEAN":
        return words.switch[spec["default"]]
    return f"`{spec['default']}`" if spec["type"] in ("COMBO", "STRING") else _number(spec["default"])


def _range(spec: dict, words: Words) -> str:
    if spec["type"] == "BOOLEAN":
        return words.comma.join(reversed(words.switch))
    if spec.get("options"):
        return words.comma.join(f"`{each}`" for each in spec["options"])
    return words.span.format(_number(spec["min"]), _number(spec["max"])) if "min" in spec else ""


def _number(value: float) -> str:
    if value == 2**64 - 1:
        return "2^64 - 1"
    return f"{value:,}" if abs(value) >= 10_000 else f"{value:g}"


def options_page(text: str) -> str:
    """docs/options.md with a table for every command of `python -m pipeline`."""
    for name, parser in commands().items():
        rows = [_option_row(action) for action in parser._actions if action.dest != "help"]
        text = with_table(text, f"## {name}", ["| option | meaning |", "|---|---|", *rows])
    return text


def service_page(text: str) -> str:
    """docs/service.md with a table of the options of `python -m serving run`."""
    for name in ("pipeline", "serving"):  # by their own names, as the service is no part of what ComfyUI loads
        if name not in sys.modules:
            place = ROOT / name
            spec = spec_from_file_location(name, place / "__init__.py", submodule_search_locations=[str(place)])
            assert spec is not None and spec.loader is not None
            sys.modules[name] = module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
    parser = argparse.ArgumentParser()
    import_module("serving.settings").add(parser)
    rows = [_option_row(action) for action in parser._actions if action.dest != "help"]
    return with_table(text, "## Options", ["| option | meaning |", "|---|---|", *rows])


def commands() -> dict[str, argparse.ArgumentParser]:
    """Name of a command of `python -m pipeline` -> its parser."""
    pack()
    parser = import_module(f"{PACK}.pipeline.cli.main").parser()
    return next(action for action in parser._actions if isinstance(action.choices, dict)).choices


def _option_row(action: argparse.Action) -> str:
    formatter = argparse.HelpFormatter("")
    value = formatter._format_args(action, action.dest.upper()) if action.nargs != 0 else ""
    written = " ".join(filter(None, [", ".join(action.option_strings), value]))
    return f"| `{written.replace('|', chr(92) + '|')}` | {_cell((action.help or '') % vars(action))} |"


def output_page(text: str) -> str:
    """docs/output.md with a table of the file formats."""
    pack()
    rows = []
    for suffix, kind in import_module(f"{PACK}.pipeline.export.writers").WRITERS.items():
        unit = "metre" if kind.unit == 1 else "millimetre"
        rows.append(f"| `{suffix}` | {kind.title} | {'Y' if kind.y_up else 'Z'} | {unit} |")
    return with_table(text, "## Formats", ["| suffix | what it holds | up | unit |", "|---|---|---|---|", *rows])


def performance_page(text: str) -> str:
    """docs/performance.md with the tables that `python -m pipeline bench-tables` prints."""
    pack()
    history = import_module(f"{PACK}.pipeline.bench.history")
    for kind, tables in history.tables(history.read(history.HISTORY)).items():
        start = f"<!-- bench-tables: {kind} -->"
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n\n{tables}\n\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return text


def main() -> None:
    """Write what differs, and say which files."""
    for path, text in generated().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
