"""Where samplers and finishers come to lie where Ray is told of two GPUs, and how long a sampler waits between two
objects which take long to hand on: python tests/ray_places.py FOLDER."""

import json
import signal
import statistics
import sys
import time
from argparse import Namespace
from collections import defaultdict
from functools import partial
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ray

from pipeline.batch import Job, Outcome, Recipe
from serving.ray_batch import batch
from serving.ray_batch.actors import Finisher, Sampler
from serving.ray_batch.cluster import connected, machines
from serving.ray_batch.division import shares


class Large(tuple):
    """What takes as long to be handed on as a mesh of millions of faces."""

    def __reduce__(self):
        time.sleep(0.2)
        return tuple, (tuple(self),)


def waits(rows):
    """Seconds between two objects of a sampler, the median."""
    by = defaultdict(list)
    for span in (span for row in rows for span in row.spans if span["kind"] == "sample"):
        by[span["worker"]].append((span["start"], span["end"]))
    each = [sorted(spans) for spans in by.values()]
    return statistics.median(after[0] - before[1] for spans in each for before, after in pairwise(spans))


def stand_in(kind, last):
    """An actor of a kind that notes its GPU in place of its work."""

    class StandIn(kind):
        def __init__(self, *arguments):
            super(kind, self).__init__(*arguments[:4])

        def work(self, row):
            time.sleep(0.4 if last else 0.5)
            own = (self.kind, next(iter(ray.get_gpu_ids()), None), ray.get_runtime_context().get_actor_id())
            seen = Large((*(row.made or ()), own))
            return batch.Row(row.job, seen, Outcome(report={"seen": tuple(seen)}) if last else None, spans=row.spans)

    return StandIn


def main(folder):
    ray.init = partial(ray.init, num_cpus=4, num_gpus=2)
    batch.Sampler, batch.Finisher = stand_in(Sampler, False), stand_in(Finisher, True)
    options = Namespace(
        gpus=None,
        gpu_share=1.0,
        samplers=None,
        finishers=None,
        finish_on="auto",
        tries=1,
        memory_limit=None,
        output=Path(folder),
    )
    terminated = []
    signal.signal(signal.SIGTERM, lambda *_: terminated.append(True))
    with connected(None) as joined:
        signal.raise_signal(signal.SIGTERM)
        divided = shares(machines(joined), options)
        todo = [Job(str(number), "", "", 1, "") for number in range(8)]
        rows = list(batch._rows(joined, options, Recipe(), todo, divided))
        places = defaultdict(lambda: defaultdict(set))
        for kind, gpu, actor in (each for row in rows for each in row.outcome.report["seen"]):
            places[kind][str(gpu)].add(actor)
    found = {kind: {gpu: len(actors) for gpu, actors in gpus.items()} for kind, gpus in places.items()}
    print(json.dumps({**found, "objects": len(rows), "waits": waits(rows), "terminated": len(terminated)}))


if __name__ == "__main__":
    main(sys.argv[1])
