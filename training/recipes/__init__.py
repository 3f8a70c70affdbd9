"""The classes of objects: for each, how n of them are put together from at most SLOTS parts.

Units are free, the origin lies on the axis of symmetry; Z up, the front towards -Y. A later part decides where two
meet; a cut removes from the parts before it.
"""

from __future__ import annotations

from .household import bottle, chair, hammer, lamp, mug, table, teapot
from .outdoors import duck, house, mushroom, snowman, tree
from .toys import aeroplane, car, rings, robot, rocket

SLOTS = 8  # parts of an object at most
RECIPES = {
    recipe.__name__: recipe
    for recipe in (
        table,
        chair,
        mug,
        lamp,
        rocket,
        house,
        tree,
        car,
        bottle,
        hammer,
        snowman,
        rings,
        mushroom,
        robot,
        teapot,
        duck,
        aeroplane,
    )
}
