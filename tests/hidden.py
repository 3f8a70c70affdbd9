"""Python processes in which packages are not installed: an import fails, and nobody who asks finds them.

The processes' own children are alike, as what hides the packages is read from the environment.
"""

import os
from pathlib import Path

# Python sets this aside for the machine's owner and imports it first. An entry None in sys.modules is what makes both
# `import` and `importlib.util.find_spec` say that there is no such module.
_SITE = """import sys
sys.modules.update(dict.fromkeys({packages!r}))
"""


def environment_without(folder: Path, *packages: str) -> dict[str, str]:
    """What to add to a process' environment so that packages are not there. folder: an empty one, to write into."""
    (folder / "sitecustomize.py").write_text(_SITE.format(packages=packages), encoding="utf-8")
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}
