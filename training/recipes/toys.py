"""Recipes of toys and vehicles. See __init__.py."""

from __future__ import annotations

import math

import torch

from .parts import ALONG_X, ALONG_Y, BOTH, QUARTER, SIDES, Draw, Part, ball, balls, beam, box, egg, post, ring, turned


def rocket(d: Draw) -> list[Part]:
    half, radius = d.proportion(0.3, 0.75), d.between(0.2, 0.26)
    body, second = d.either(0.5, d.white(), d.paint()), d.vivid()
    top, nose = radius * d.between(0.75, 1.0), d.between(0.14, 0.28)
    fin = d.either(0.6, second, d.vivid())
    reach, tall = d.between(0.16, 0.3), d.between(0.14, 0.26)
    turns = torch.where(d.chance(0.5), 3.0, 4.0)
    phase = torch.where(turns == 3, torch.where(d.chance(0.5), QUARTER, -QUARTER), math.pi / 4)
    port = d.between(0.25, 0.6) * half
    face = -(radius + (top - radius) * (port / half + 1) / 2)
    return [
        turned(radius, top, half, body),
        turned(top * 1.0, 0.015, nose, second, at=(0, 0, half + nose - 0.01), rounding=0.012),
        beam(
            (radius + reach) / 2,
            (radius + reach) * 0.28,
            0.028,
            tall,
            fin,
            at=((radius + reach) / 2, 0, tall * 0.75 - half),
            turns=turns,
            phase=phase,
        ),
        turned(radius * 0.85, radius * 0.55, 0.06, d.either(0.5, d.dark(), d.metal()), at=(0, 0, -half - 0.05)),
        ring(
            radius * 0.4,
            0.028,
            d.either(0.5, second, d.metal()),
            at=(0, face, port),
            tilt=ALONG_Y,
            present=(window := d.chance(0.75)),
        ),
        turned(
            radius * 0.4,
            radius * 0.4,
            0.03,
            d.either(0.5, d.vivid(), d.dark()),
            at=(0, face, port),
            tilt=ALONG_Y,
            present=window,
        ),
        turned(
            radius + 0.015, radius + 0.008, 0.04, second, at=(0, 0, -half * d.between(0.2, 0.4)), present=d.chance(0.5)
        ),
    ]


def car(d: Draw) -> list[Part]:
    length = d.proportion(0.36, 0.62)
    width, half = d.between(0.22, 0.28), d.between(0.07, 0.11)
    body = d.either(0.85, d.vivid(), d.paint())
    cabin = d.either(0.4, body, d.either(0.5, d.dark(), d.paint()))
    wheel, tyre = d.between(0.085, 0.12), d.dark()
    long, tall = length * d.between(0.38, 0.55), d.between(0.08, 0.13)
    truck = d.chance(0.3)
    middle = torch.where(truck, -length * 0.45, length * d.between(-0.05, 0.25))
    axle = length * d.between(0.55, 0.65)
    hub = d.either(0.6, d.metal(), d.paint())
    return [
        box(width, length, half, body, rounding=0.035),
        beam(
            long,
            long * d.between(0.6, 0.85),
            width * 0.88,
            tall,
            cabin,
            at=(0, middle, half + tall * 0.85),
            tilt=(0, 0, QUARTER),
            rounding=0.02,
        ),
        box(
            width,
            length * 0.5,
            tall * 1.15,
            d.paint(),
            at=(0, length * 0.48, half + tall * 1.1),
            rounding=0.012,
            present=truck,
        ),
        turned(wheel, wheel, 0.045, tyre, at=(width, axle, -half), tilt=ALONG_X, mirror=BOTH, rounding=0.012),
        turned(wheel * 0.5, wheel * 0.5, 0.055, hub, at=(width, axle, -half), tilt=ALONG_X, mirror=BOTH),
        turned(
            0.04,
            0.04,
            0.02,
            d.either(0.7, d.white(), d.vivid()),
            at=(width * 0.68, -length, half * 0.15),
            tilt=ALONG_Y,
            mirror=SIDES,
        ),
        box(
            width * 0.98,
            0.04,
            0.025,
            d.either(0.5, d.metal(), d.dark()),
            at=(0, -length, -half * 0.65),
            present=d.chance(0.6),
        ),
    ]


def aeroplane(d: Draw) -> list[Part]:
    span, long = d.proportion(0.32, 0.6), 0.5
    radius, chord = d.between(0.075, 0.11), d.between(0.08, 0.14)
    body = d.either(0.5, d.white(), d.paint())
    wings, tail = d.either(0.4, body, d.paint()), d.vivid()
    low = d.between(-0.6, 0.6) * radius
    engines = d.chance(0.5)
    at = d.between(-0.12, 0.02)
    return [
        balls(radius * 0.45, radius, long * 1.1, body, at=(0, long * 0.8, 0), tilt=(QUARTER, 0, 0)),
        beam(
            chord,
            chord * 0.6,
            0.022,
            span / 2,
            wings,
            at=(span / 2, at, low),
            tilt=(QUARTER, 0, QUARTER),
            mirror=SIDES,
            rounding=0.01,
        ),
        beam(
            chord * 0.6,
            chord * 0.4,
            0.02,
            span * 0.19,
            wings,
            at=(span * 0.19, long * 0.72, 0.03),
            tilt=(QUARTER, 0, QUARTER),
            mirror=SIDES,
            rounding=0.01,
        ),
        beam(0.11, 0.06, 0.022, 0.11, tail, at=(0, long * 0.74, 0.13), tilt=(0, 0, QUARTER), rounding=0.01),
        turned(
            0.045,
            0.045,
            0.08,
            d.paint(),
            at=(span * 0.45, at - 0.05, low - 0.06),
            tilt=ALONG_Y,
            mirror=SIDES,
            rounding=0.015,
            present=engines,
        ),
        egg(
            radius * 0.7,
            radius * 1.5,
            radius * 0.6,
            d.either(0.5, d.dark(), d.vivid()),
            at=(0, -long * 0.1, radius * 0.75),
        ),
        turned(0.035, 0.02, 0.04, tail, at=(0, -long * 0.3 - radius - 0.02, 0), tilt=(QUARTER, 0, 0), present=~engines),
        box(
            0.2,
            0.022,
            0.03,
            d.metal(),
            at=(0, -long * 0.3 - radius - 0.02, 0),
            present=~engines,
            tilt=(0, d.between(-0.8, 0.8), 0),
        ),
    ]


def robot(d: Draw) -> list[Part]:
    width, half = d.proportion(0.14, 0.3), d.between(0.2, 0.27)
    depth, leg = d.between(0.12, 0.17), d.between(0.1, 0.17)
    body, limb = d.either(0.4, d.metal(), d.paint()), d.paint()
    skull = d.either(0.5, body, d.paint())
    wide, tall = width * d.between(0.6, 0.9), d.between(0.1, 0.14)
    face = half + tall - 0.015
    out, arm = d.between(0.0, 0.35), d.between(0.16, 0.22)
    return [
        box(width, depth, half, body, rounding=0.03),
        box(wide, depth * 0.9, tall, skull, at=(0, 0, face), rounding=0.03),
        ball(0.042, d.either(0.5, d.vivid(), d.dark()), at=(wide * 0.48, -depth * 0.92, face + 0.01), mirror=SIDES),
        post(
            d.chance(0.5),
            0.05,
            0.05,
            arm,
            limb,
            at=(width + 0.03 + arm * out.sin(), 0, half * 0.75 - arm),
            tilt=(0, -out, 0),
            mirror=SIDES,
            rounding=0.02,
        ),
        post(
            d.chance(0.5), 0.075, 0.06, leg, limb, at=(width * 0.52, 0, -half - leg + 0.02), mirror=SIDES, rounding=0.02
        ),
        turned(0.022, 0.022, 0.07, d.metal(), at=(0, 0, face + tall + 0.06), present=(a := d.chance(0.7))),
        ball(0.045, d.vivid(), at=(0, 0, face + tall + 0.14), present=a),
        box(width * 0.6, 0.03, half * 0.4, d.vivid(), at=(0, -depth, half * 0.15), present=d.chance(0.6)),
    ]


def rings(d: Draw) -> list[Part]:
    section = d.proportion(0.055, 0.12)
    widest, step = d.between(0.22, 0.34), d.between(0.0, 0.035)
    four = d.chance(0.6)
    count = torch.where(four, 4, 3)
    base = d.either(0.5, d.wood(), d.paint())
    top = 0.03 + 1.8 * section * count
    parts = [
        turned(widest + section * 1.2, widest + section, 0.04, base, rounding=0.015),
        turned(0.05, 0.04, (top + 0.1) / 2, base, at=(0, 0, (top + 0.1) / 2)),
    ]
    for number in range(4):
        tier = ring(widest - number * step, section, d.vivid(), at=(0, 0, 0.035 + section * (1.8 * number + 0.95)))
        parts.append(tier if number < 3 else tier.when(four))
    return [*parts, ball(d.between(0.07, 0.11), d.vivid(), at=(0, 0, top + 0.12))]
