"""The studio's light as kernels see it, and what a surface sends to the viewer."""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from .environment_functions import environment_light


@wp.struct
class Studio:
    """Light of a half-bright sky over a floor and of rectangular soft boxes; see studio.py.

    Directions are in the studio's frame: the world's, turned about z by the camera's azimuth.
    """

    cosine: wp.float32
    sine: wp.float32
    zenith: wp.vec3
    nadir: wp.vec3
    horizon: wp.float32
    edge: wp.float32
    axes: wp.array[wp.mat33]  # rows: a box's right, up and the direction to its centre
    half: wp.array[wp.vec2]  # radians
    radiance: wp.array[wp.vec3]
    harmonics: wp.array[wp.vec3]  # [18]: irradiance / pi of everything but the first box, then of the first box
    sharp: wp.array2d[wp.vec3]  # an environment, and below it blurred, one level under the other
    blurred: wp.array2d[wp.vec3]
    levels: wp.int32  # of the blurred ones; 0: there is no environment
    first_blur: wp.float32  # radians


@wp.func
def window(x: wp.float32, half: wp.float32, blur: wp.float32):
    return 0.5 * (wp.tanh((x + half) / blur) - wp.tanh((x - half) / blur))


@wp.func
def box_light(studio: Studio, k: wp.int32, d: wp.vec3, blur: wp.float32):
    at = studio.axes[k] * d
    up = wp.asin(wp.clamp(at[1], -1.0, 1.0))
    right = wp.atan2(at[0], at[2]) * wp.cos(up)
    soft = wp.sqrt(studio.edge * studio.edge + blur * blur)
    half = studio.half[k]
    return studio.radiance[k] * (window(right, half[0], soft) * window(up, half[1], soft))


@wp.func
def surroundings(studio: Studio, d: wp.vec3, blur: wp.float32):
    """Radiance from direction d, blurred, without the first box."""
    soft = wp.sqrt(studio.horizon * studio.horizon + blur * blur)
    sky = 0.5 + 0.5 * wp.tanh(wp.asin(wp.clamp(d[2], -1.0, 1.0)) / soft)
    light = studio.nadir * (1.0 - sky) + studio.zenith * sky
    for k in range(1, studio.radiance.shape[0]):
        light += box_light(studio, k, d, blur)
    if studio.levels > 0:
        light += environment_light(studio.sharp, studio.blurred, studio.levels, studio.first_blur, d, blur)
    return light


@wp.func
def diffuse(studio: Studio, first: wp.int32, n: wp.vec3):
    """Irradiance / pi from spherical harmonics of degree 2 (Ramamoorthi and Hanrahan 2001)."""
    h = studio.harmonics
    light = h[first] + h[first + 1] * n[1] + h[first + 2] * n[2] + h[first + 3] * n[0]
    light += h[first + 4] * (n[0] * n[1]) + h[first + 5] * (n[1] * n[2])
    light += h[first + 6] * (3.0 * n[2] * n[2] - 1.0) + h[first + 7] * (n[0] * n[2])
    light += h[first + 8] * (n[0] * n[0] - n[1] * n[1])
    return wp.max(light, wp.vec3(0.0, 0.0, 0.0))


@wp.func
def studio_frame(studio: Studio, d: wp.vec3):
    return wp.vec3(studio.cosine * d[0] + studio.sine * d[1], studio.cosine * d[1] - studio.sine * d[0], d[2])


@wp.func
def shine(
    studio: Studio,
    base: wp.vec3,
    metallic: wp.float32,
    roughness: wp.float32,
    n: wp.vec3,
    viewer: wp.vec3,
    open_sky: wp.float32,
    lit: wp.float32,
):
    """Light that a glTF metallic-roughness surface sends to the viewer.

    Cook-Torrance with GGX by the split sum (Karis 2013): the light blurred by the lobe, times the lobe's
    directional albedo in Karis' fit of 2014, scaled for multiple scattering (Turquin 2019). What is not reflected
    enters the diffuse part, so no more light leaves than arrives.

    Args:
        base: linear. n, viewer: unit, world frame. open_sky, lit: 0-1, how much of the sky and of the first box is
            seen.
    """
    rough = wp.clamp(roughness, 0.05, 1.0)
    alpha = rough * rough
    facing = wp.clamp(wp.dot(n, viewer), 0.0, 1.0)
    fall = 1.0 - rough
    a004 = wp.min(fall * fall, wp.pow(2.0, -9.28 * facing)) * fall + 0.0425 - 0.0275 * rough
    scale = -1.04 * a004 + 1.04 - 0.572 * rough
    bias = wp.max(1.04 * a004 - 0.04 + 0.022 * rough, 0.0)
    once = wp.clamp(scale + bias, 0.05, 1.0)
    more = 1.0 / once - 1.0
    plastic = wp.min((0.04 * scale + bias) * (1.0 + 0.04 * more), 1.0)
    metal = wp.cw_mul(base * scale + wp.vec3(bias, bias, bias), wp.vec3(1.0, 1.0, 1.0) + base * more)
    metal = wp.min(metal, wp.vec3(1.0, 1.0, 1.0))
    reflected = metal * metallic + wp.vec3(plastic, plastic, plastic) * (1.0 - metallic)

    mirror = n * (2.0 * wp.dot(n, viewer)) - viewer
    pull = (1.0 - alpha) * (wp.sqrt(1.0 - alpha) + alpha)  # of rough lobes towards the normal (Lagarde 2014)
    mirror = studio_frame(studio, wp.normalize(n * (1.0 - pull) + mirror * pull))
    blur = 2.45 * alpha / (1.0 + 2.1 * alpha)  # fitted to the integral of GGX over boxes; error below 2 %
    seen = wp.clamp(wp.pow(facing + open_sky, wp.pow(2.0, -16.0 * rough - 1.0)) - 1.0 + open_sky, 0.0, 1.0)
    mirrored = surroundings(studio, mirror, blur) * seen + box_light(studio, 0, mirror, blur) * wp.min(seen, lit)

    normal = studio_frame(studio, n)
    arriving = diffuse(studio, 0, normal) * open_sky + diffuse(studio, 9, normal) * lit
    kept = base * ((1.0 - plastic) * (1.0 - metallic))
    return wp.cw_mul(reflected, mirrored) + wp.cw_mul(kept, arriving)


@wp.func
def shown(colour: wp.vec3):
    """Highlights above 0.8 compressed to below 1 without a change of hue: Khronos' PBR Neutral tone mapper."""
    low = wp.min(wp.min(colour[0], colour[1]), colour[2])
    offset = 0.04
    if low < 0.08:
        offset = low - 6.25 * low * low
    colour = colour - wp.vec3(offset, offset, offset)
    peak = wp.max(wp.max(colour[0], colour[1]), colour[2])
    start = 0.76
    if peak < start:
        return colour
    rest = 1.0 - start
    compressed = 1.0 - rest * rest / (peak + rest - start)
    colour = colour * (compressed / peak)
    grey = 1.0 - 1.0 / (0.15 * (peak - compressed) + 1.0)
    return colour * (1.0 - grey) + wp.vec3(compressed, compressed, compressed) * grey
