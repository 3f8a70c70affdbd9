"""What looks at a checkpoint before the first stage, and what damages its JSON."""

import json

from pipeline.models import build
from pipeline.spec import PIPELINE_TYPES
from pipeline.weights import Models, open_checkpoint


def fetch(folder, roles=()):
    """What the command line, the node and a service do before the first stage; of a 512 run by itself."""
    models = Models(open_checkpoint(folder), build)
    models.fetch(roles or PIPELINE_TYPES["512"].roles())
    return models


def edited(path, change):
    """Rewrite a JSON file through change(content)."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
