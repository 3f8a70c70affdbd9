"""Many pictures, an object each: the jobs of a run, the manifest that accounts for them, and one way to run a job.

`Maker` keeps the models of a checkpoint loaded and makes one object after another; `run` makes those of a list in this
process. Other hosts (a service, a cluster) take the same Recipe, Job, Maker and Manifest, so that what one of them has
begun another can go on with.
"""

from .jobs import PICTURES, Job, find_pictures, plan_jobs
from .log import log_lines
from .maker import Maker, Outcome, Sampled, device_lost, finish, guarded, opened_models, settings_of
from .manifest import MANIFEST, Manifest
from .recipe import Recipe
from .record import Record
from .run import ended, run
from .sharing import FINISH_ON, Sharing, finishing_device, sharing

__all__ = [
    "FINISH_ON",
    "MANIFEST",
    "PICTURES",
    "Job",
    "Maker",
    "Manifest",
    "Outcome",
    "Recipe",
    "Record",
    "Sampled",
    "Sharing",
    "device_lost",
    "ended",
    "find_pictures",
    "finish",
    "finishing_device",
    "guarded",
    "log_lines",
    "opened_models",
    "plan_jobs",
    "run",
    "settings_of",
    "sharing",
]
