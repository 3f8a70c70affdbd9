"""Many pictures, an object each: the jobs of a run, the manifest that accounts for them, and one way to run a job.

`Maker` keeps the models of a checkpoint loaded and makes one object after another; `run` makes those of a list in this
process. Other hosts (a service, a cluster) take the same Recipe, Job, Maker and Manifest, so that what one of them has
begun another can go on with.
"""

from .finishing import FINISH_ON, Processed, Sampled, complete, process_object, processing_device, write_object
from .jobs import MAX_VARIATIONS, PICTURES, Job, find_pictures, plan_jobs
from .log import log_lines
from .maker import Maker, settings_of
from .manifest import MANIFEST, Manifest
from .outcome import Outcome, device_lost, guarded
from .recipe import Recipe
from .record import Record
from .run import ended, run

__all__ = [
    "FINISH_ON",
    "MANIFEST",
    "MAX_VARIATIONS",
    "PICTURES",
    "Job",
    "Maker",
    "Manifest",
    "Outcome",
    "Processed",
    "Recipe",
    "Record",
    "Sampled",
    "complete",
    "device_lost",
    "ended",
    "find_pictures",
    "guarded",
    "log_lines",
    "plan_jobs",
    "process_object",
    "processing_device",
    "run",
    "settings_of",
    "write_object",
]
