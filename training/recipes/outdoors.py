"""Recipes of outdoor objects, including animals. See __init__.py."""

from __future__ import annotations

import math

import torch

from .parts import QUARTER, SIDES, Draw, Part, ball, balls, beam, box, egg, ring, turned


def house(d: Draw) -> list[Part]:
    width, depth, half = d.between(0.3, 0.5), d.between(0.3, 0.45), d.proportion(0.16, 0.42)
    walls, tiles = d.either(0.4, d.white(), d.paint()), d.paint()
    over, rise, along = 0.06, d.between(0.1, 0.26), d.chance(0.5)
    trim = d.either(0.5, d.wood(), d.vivid())
    across, length = torch.where(along, depth, width) + over, torch.where(along, width, depth) + over
    door, tall = d.between(-0.3, 0.3) * width, half * d.between(0.5, 0.75)
    place = (width * 0.58, -depth, half * 0.3)
    return [
        box(width, depth, half, walls),
        beam(
            across,
            across * d.choice(torch.full((d.count,), 0.03), torch.full((d.count,), 0.4)),
            length,
            rise,
            tiles,
            at=(0, 0, half + rise - 0.005),
            tilt=(0, 0, along * QUARTER),
        ),
        box(0.075, 0.03, tall, trim, at=(door, -depth, tall - half)),
        box(
            0.08,
            0.025,
            0.08,
            d.either(0.5, d.dark(), d.vivid()),
            at=place,
            mirror=SIDES,
            present=(door.abs() + 0.17 < width * 0.58),
        ),
        box(
            0.05,
            0.05,
            rise,
            d.either(0.5, walls, d.paint()),
            at=(d.side() * width * 0.5, depth * d.between(-0.3, 0.3), half + rise * 1.5),
            present=d.chance(0.6),
        ),
        box(width + 0.14, depth + 0.14, 0.025, d.leaf(), at=(0, 0, -half - 0.01), present=d.chance(0.4)),
    ]


def tree(d: Draw) -> list[Part]:
    wide, half = d.proportion(0.25, 0.55), d.between(0.14, 0.3)
    trunk, radius = d.wood(), d.between(0.05, 0.085)
    crown = d.leaf()
    shade = d.either(0.5, crown, d.leaf())
    fir, tall = d.chance(0.5), d.between(0.18, 0.3)
    x, y = d.between(0.35, 0.6) * wide, d.between(-0.2, 0.2) * wide
    pot = d.chance(0.4)
    return [
        turned(radius, radius * 0.8, half, trunk),
        turned(wide, 0.03, tall, crown, at=(0, 0, half + tall * 0.7), rounding=0.015, present=fir),
        turned(wide * 0.8, 0.03, tall * 0.9, shade, at=(0, 0, half + tall * 1.6), rounding=0.015, present=fir),
        turned(
            wide * 0.58,
            0.03,
            tall * 0.75,
            crown,
            at=(0, 0, half + tall * 2.4),
            rounding=0.015,
            present=fir & d.chance(0.7),
        ),
        egg(
            wide,
            wide * d.between(0.8, 1),
            wide * d.between(0.75, 1.1),
            crown,
            at=(0, 0, half + wide * 0.6),
            present=~fir,
        ),
        ball(
            wide * d.between(0.5, 0.68),
            shade,
            at=(d.side() * x, y, half + wide * d.between(0.2, 0.9)),
            present=~fir & d.chance(0.7),
        ),
        turned(0.14, 0.2, 0.12, d.paint(), at=(0, 0, -half), rounding=0.01, present=pot),
        turned(0.3, 0.26, 0.03, d.leaf(), at=(0, 0, -half), rounding=0.01, present=~pot & d.chance(0.5)),
    ]


def mushroom(d: Draw) -> list[Part]:
    wide, tall = d.proportion(0.3, 0.55), d.between(0.2, 0.36)
    half, radius = d.between(0.16, 0.3), d.between(0.08, 0.15)
    cap, stem = d.vivid(), d.either(0.7, d.white(), d.paint())
    under = d.either(0.5, stem, cap)
    spots = d.either(0.6, d.white(), d.vivid())
    turns = torch.where(d.chance(0.5), 4.0, 5.0)
    return [
        egg(wide, wide, tall, cap, at=(0, 0, half)),
        turned(1.0, 1.0, 0.5, under, at=(0, 0, half - 0.5), cut=True),
        turned(radius * d.between(1.0, 1.4), radius, half, stem, at=(0, 0, 0.02)),
        ball(wide * 0.16, spots, at=(wide * 0.6, 0, half + tall * 0.74), turns=turns, phase=-QUARTER),
        ball(wide * 0.18, spots, at=(0, 0, half + tall * 0.93)),
        turned(
            radius * 2.4, radius * 2.1, 0.03, d.leaf(), at=(0, 0, -half + 0.02), rounding=0.012, present=d.chance(0.6)
        ),
        ring(radius, 0.03, under, at=(0, 0, half * 0.3), present=d.chance(0.4)),
    ]


def snowman(d: Draw) -> list[Part]:
    middle = d.proportion(0.16, 0.26)
    low, head = d.between(0.27, 0.34), middle * d.between(0.65, 0.85)
    snow = d.either(0.7, d.white(), d.paint())
    belly = low + middle * 0.7
    face = belly + middle + head * 0.65
    hat, brim = d.paint(), head * d.between(1.0, 1.25)
    crown = head * d.between(0.4, 0.7)
    return [
        ball(low, snow),
        ball(middle, snow, at=(0, 0, belly)),
        ball(head, snow, at=(0, 0, face)),
        turned(0.045, 0.012, 0.09, d.vivid(), at=(0, -head - 0.06, face), tilt=(QUARTER, 0, 0), rounding=0.01),
        ball(0.03, d.dark(), at=(head * 0.38, -head * 0.87, face + head * 0.3), mirror=SIDES),
        turned(brim, brim, 0.022, hat, at=(0, 0, face + head * 0.72), rounding=0.01),
        turned(brim * 0.65, brim * 0.6, crown, hat, at=(0, 0, face + head * 0.72 + crown)),
        ring(head * 0.85, 0.045, d.vivid(), at=(0, 0, face - head * 0.72), present=d.chance(0.6)),
    ]


def duck(d: Draw) -> list[Part]:
    long, wide = d.proportion(0.3, 0.5), d.between(0.2, 0.28)
    tall, head = d.between(0.18, 0.25), d.between(0.13, 0.18)
    body = d.either(0.5, d.vivid(), d.paint())
    top, wing, bill = d.either(0.5, body, d.paint()), d.either(0.4, body, d.paint()), d.vivid()
    front, face = -long * d.between(0.45, 0.65), tall + head * d.between(0.5, 0.9)
    return [
        egg(wide, long, tall, body),
        balls(head, head * 0.6, face * 0.6, top, at=(0, front, face), tilt=(math.pi, 0, 0)),
        egg(head * 0.55, head * 0.75, 0.04, bill, at=(0, front - head * 1.1, face - head * 0.1)),
        ball(0.03, d.dark(), at=(head * 0.55, front - head * 0.76, face + head * 0.4), mirror=SIDES),
        egg(0.05, long * 0.55, tall * 0.55, wing, at=(wide * 0.92, long * 0.15, tall * 0.2), mirror=SIDES),
        turned(0.12, 0.02, 0.13, top, at=(0, long * 0.95, tall * 0.45), tilt=(-0.8, 0, 0), rounding=0.015),
        turned(
            wide * 0.95, wide * 0.9, 0.04, d.paint(), at=(0, 0, -tall * 0.95), rounding=0.015, present=d.chance(0.3)
        ),
    ]
