"""Recipes of household objects. See __init__.py."""

from __future__ import annotations

import torch

from .parts import ALONG_X, BOTH, QUARTER, SIDES, Draw, Part, ball, beam, box, egg, post, ring, turned


def table(d: Draw) -> list[Part]:
    width, depth, thick = 0.5, d.between(0.28, 0.5), d.between(0.025, 0.05)
    half = d.proportion(0.18, 0.5)  # of the legs
    top, leg = d.either(0.5, d.wood(), d.paint()), d.either(0.5, d.paint(), d.metal())
    round_top, pedestal, square = d.chance(0.35), d.chance(0.3), d.chance(0.5)
    depth = torch.where(round_top, 0.5, depth)
    leg_radius, inset = d.between(0.03, 0.06), torch.where(round_top, 0.62, d.between(0.75, 0.88))
    board = post(~round_top, width, width, thick, top, at=(0, 0, half), rounding=0.01)
    board = Part(board.kind, (width, width, thick, depth), top, at=board.at, rounding=0.01)
    legs = post(square, leg_radius * d.between(0.6, 1.0), leg_radius, half, leg, at=(inset * width, inset * depth, 0))
    things = d.chance(0.35)
    size, x, y = d.between(0.07, 0.13), d.between(-0.25, 0.25), d.between(-0.12, 0.12)
    return [
        board,
        Part(legs.kind, legs.size, leg, legs.at, mirror=BOTH, present=~pedestal),
        turned(leg_radius * 1.3, leg_radius, half, leg, present=pedestal),
        turned(d.between(0.22, 0.32), 0.1, 0.03, leg, at=(0, 0, 0.03 - half), present=pedestal),
        box(0.84 * width * inset / 0.8, inset * depth, 0.02, top, at=(0, 0, -0.45 * half)).when(
            ~pedestal & ~round_top & d.chance(0.35)
        ),
        ball(size, d.vivid(), at=(x, y, half + thick + size * 0.95)).when(things & d.chance(0.5)),
        turned(size * 0.8, size, size, d.vivid(), at=(-x, -y, half + thick + size * 0.98)).when(things),
    ]


def chair(d: Draw) -> list[Part]:
    width, depth, thick = 0.25, d.between(0.22, 0.28), d.between(0.025, 0.045)
    back, half = d.proportion(0.18, 0.42), d.between(0.16, 0.28)
    frame, leg_radius, square = d.either(0.5, d.wood(), d.paint()), d.between(0.022, 0.04), d.chance(0.5)
    seat, rest = d.either(0.5, frame, d.paint()), d.either(0.5, frame, d.paint())
    lean, solid = d.between(0, 0.2), d.chance(0.6)
    legs = post(square, leg_radius * 0.8, leg_radius, half, frame)
    behind = depth - 0.02 + back * lean.sin()
    panel = torch.where(solid, back, back * 0.35)
    height = half + thick + torch.where(solid, back * 0.98, back * 1.6)
    return [
        box(width, depth, thick, seat, at=(0, 0, half), rounding=0.012),
        Part(legs.kind, legs.size, frame, (0.86 * width, 0.86 * depth, 0.0), mirror=BOTH),
        box(width * 0.96, 0.028, panel, rest, at=(0, behind, height), tilt=(-lean, 0, 0), rounding=0.012),
        box(
            0.028,
            0.028,
            back,
            frame,
            at=(0.8 * width, behind, half + thick + back * 0.9),
            tilt=(-lean, 0, 0),
            mirror=SIDES,
            present=~solid,
        ),
        box(0.03, depth * 0.8, 0.022, frame, at=(width, 0.02, half + 0.2), mirror=SIDES, present=(a := d.chance(0.35))),
        box(0.022, 0.022, 0.1, frame, at=(width, -depth * 0.6, half + 0.1), mirror=SIDES, present=a),
        box(
            width * 0.88,
            depth * 0.85,
            0.025,
            d.paint(),
            at=(0, -0.02, half + thick + 0.015),
            rounding=0.02,
            present=d.chance(0.4),
        ),
    ]


def mug(d: Draw) -> list[Part]:
    half = d.proportion(0.32, 0.75)
    bottom, wall = d.between(0.36, 0.52), d.between(0.05, 0.075)
    top = bottom * d.between(0.9, 1.25)
    colour, inner = d.paint(), d.white()
    inside = d.either(0.5, colour, inner)
    radius, section = half * d.between(0.3, 0.42), d.between(0.05, 0.075)
    stretch, side = half * d.between(0.05, 0.3), d.side()
    turn = -side * d.between(-0.1, 0.6)  # of the handle to the front, where it shows
    out = (bottom + top) / 2 + radius * d.between(0.15, 0.4)
    x, y = side * out * turn.cos(), side * out * turn.sin()
    level = half * d.between(0.1, 0.7)
    return [
        turned(bottom, top, half, colour, rounding=0.02),
        ring(radius, section, d.either(0.7, colour, d.paint()), long=stretch, at=(x, y, 0), tilt=(QUARTER, 0, turn)),
        turned(bottom - wall, top - wall, half, inside, at=(0, 0, wall * 1.5), cut=True),
        turned(
            bottom - wall * 0.7,
            bottom - wall * 0.7 + (top - bottom) * (level / half + 1) / 2,
            (level + half - wall) / 2,
            d.either(0.5, d.wood(), d.vivid()),
            at=(0, 0, (level - half + wall) / 2),
        ).when(d.chance(0.3)),
        turned(
            0.5,
            0.8,
            0.035,
            d.either(0.5, colour, d.white()),
            at=(0, 0, -half - 0.02),
            rounding=0.01,
            present=d.chance(0.3),
        ),
    ]


def lamp(d: Draw) -> list[Part]:
    low = d.proportion(0.26, 0.5)  # radius of the shade
    high, tall, pole = low * d.between(0.35, 0.9), d.between(0.16, 0.28), d.between(0.3, 0.5)
    stand, wall = d.either(0.5, d.metal(), d.paint()), 0.03
    shade = d.either(0.35, d.glass(), d.paint())
    foot, rim, thick = d.between(0.2, 0.3), d.between(0.12, 0.2), d.between(0.025, 0.06)
    return [
        turned(low, high, tall, shade, at=(0, 0, pole)),
        turned(low - wall, high - wall, tall, shade, at=(0, 0, pole - wall), cut=True),
        turned(0.028, 0.028, pole + tall / 2, stand, at=(0, 0, tall / 2 - 0.01)),
        turned(foot, rim, thick, stand, at=(0, 0, -pole), rounding=0.015),
        egg(0.13, 0.13, d.between(0.12, 0.22), d.paint(), at=(0, 0, -pole * 0.55), present=d.chance(0.5)),
        ball(d.between(0.07, 0.1), d.white(), at=(0, 0, pole - tall * 0.2)),
    ]


def bottle(d: Draw) -> list[Part]:
    half, radius = d.proportion(0.22, 0.6), d.between(0.18, 0.27)
    neck, tall, slope = radius * d.between(0.28, 0.5), d.between(0.08, 0.2), d.between(0.06, 0.16)
    material = d.either(0.5, d.glass(), d.paint())
    label = d.either(0.5, d.white(), d.vivid())
    top = half + 2 * slope
    return [
        turned(radius, radius, half, material, rounding=0.03),
        turned(radius * 0.99, neck, slope, material, at=(0, 0, half + slope - 0.035)),
        turned(neck, neck, tall, material, at=(0, 0, top + tall - 0.06)),
        turned(
            neck + 0.02, neck + 0.02, d.between(0.04, 0.07), d.paint(), at=(0, 0, top + 2 * tall - 0.07), rounding=0.01
        ),
        turned(
            radius + 0.014,
            radius + 0.014,
            half * d.between(0.3, 0.6),
            label,
            at=(0, 0, half * d.between(-0.2, 0.1)),
            present=d.chance(0.7),
        ),
    ]


def hammer(d: Draw) -> list[Part]:
    long, handle = d.proportion(0.16, 0.36), d.either(0.6, d.wood(), d.paint())
    head, square = d.either(0.6, d.metal(), d.paint()), d.chance(0.5)
    radius, thick = d.between(0.035, 0.055), d.between(0.07, 0.11)
    side, claw = d.side(), d.chance(0.6)
    middle = post(square, thick, thick, long, head, tilt=ALONG_X)
    return [
        turned(radius, radius * 0.85, 0.5, handle, rounding=0.015),
        Part(middle.kind, middle.size, head, (0.0, 0.0, 0.48), ALONG_X, rounding=0.015),
        turned(
            thick * 1.25,
            thick * 1.25,
            0.045,
            d.either(0.6, head, d.paint()),
            at=(side * long, 0, 0.48),
            tilt=ALONG_X,
            rounding=0.012,
        ),
        beam(
            thick * 0.9,
            0.02,
            thick * 0.85,
            d.between(0.12, 0.2),
            head,
            at=(-side * (long + 0.1), 0, 0.48),
            tilt=(0, -side * QUARTER, 0),
            rounding=0.01,
            present=claw,
        ),
        turned(
            radius * 1.35,
            radius * 1.35,
            d.between(0.12, 0.22),
            d.paint(),
            at=(0, 0, -0.36),
            rounding=0.02,
            present=d.chance(0.6),
        ),
    ]


def teapot(d: Draw) -> list[Part]:
    tall = d.proportion(0.22, 0.42)
    wide, side = d.between(0.32, 0.4), d.side()
    colour, second = d.paint(), d.paint()
    lid = d.either(0.5, colour, second)
    spout, radius, section = d.between(0.14, 0.2), tall * d.between(0.45, 0.62), d.between(0.035, 0.05)
    lean, handle = d.between(0.6, 1.0), d.either(0.5, colour, second)
    return [
        egg(wide, wide, tall, colour),
        turned(
            0.085,
            0.05,
            spout,
            colour,
            at=(side * (wide + spout * 0.4), 0, tall * 0.1),
            tilt=(0, side * lean, 0),
            rounding=0.015,
        ),
        ring(radius, section, handle, at=(-side * (wide * 0.95), 0, 0), long=d.between(0, 0.08), tilt=(QUARTER, 0, 0)),
        turned(wide * 0.55, wide * 0.35, 0.04, lid, at=(0, 0, tall * 0.93), rounding=0.012),
        ball(d.between(0.05, 0.08), d.either(0.5, lid, second), at=(0, 0, tall + 0.07)),
        turned(wide * 0.6, wide * 0.5, 0.04, second, at=(0, 0, -tall * 0.96), rounding=0.01),
    ]
