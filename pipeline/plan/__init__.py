"""The memory plan of a run: what each stage will take, which way of running fits, and what is tried where it did not.

`choose` picks the largest rung of the ladder that fits into what is free; `run` goes down where memory runs out all the
same. The ladder is a table (ladder.py); the command line, ComfyUI, batches and the service take it from here.
"""

from .choose import AUTO, LASTING, Plan, choose, named, run
from .demand import GENERATE, REFINE, STATE, TEXTURE, Demand
from .ladder import LESS, RUNGS, Less, Rung
from .peaks import Estimate, estimate

__all__ = [
    "AUTO",
    "GENERATE",
    "LASTING",
    "LESS",
    "REFINE",
    "RUNGS",
    "STATE",
    "TEXTURE",
    "Demand",
    "Estimate",
    "Less",
    "Plan",
    "Rung",
    "choose",
    "estimate",
    "named",
    "run",
]
