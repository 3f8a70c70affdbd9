"""A mesh made ready for pictures: framing, light, z-buffer and shading with the kernels beside this file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..errors import SettingsError
from ..srgb import tensor_to_linear
from ..views.camera import PictureCamera
from ..warp import DEVICES, launch
from ..warp.launch import array, launch_parallel, launch_per_worker, workers_on
from . import studio_functions, surface_functions, view_functions
from .camera import Camera
from .depth_kernels import BAND, Canvas, draw, draw_large, project
from .preparation_kernels import halve, normal_tensors, undirected_normals
from .shade_kernels import shade
from .studio import Studio
from .subject import ALPHA_MODES, MODES, Subject
from .surroundings import FIRST_BLUR, LEVELS
from .view_functions import SAMPLES
from .visibility_kernels import smooth, visibility

wp: Any = launch.wp  # whose types a checker does not see

_LAYERS = 8  # translucent faces that a ray passes at most
_SHADOW = 1024  # samples of the shadow map's side
_CREASE = math.cos(math.radians(40))  # sharper edges are shaded as edges
_MARGIN = 1.06  # round the object
_CLAY = (0.46, 0.45, 0.44)  # linear
_CLAY_ROUGHNESS = 0.62  # dull, with a soft highlight that shows the form
_LINE = (0.012, 0.016, 0.03)  # colour of a wireframe's lines, linear
_LINE_WIDTH = 1.1  # pixels
_RADIUS = 0.3  # of ambient occlusion, in radii of the object
_ROWS_AT_ONCE, _PIXELS_AT_ONCE = 1 << 16, 1 << 13  # of one launch on a CPU
_PIXELS_A_TICK = 1 << 18  # on a CPU: about a second of two cores
_LARGE_AT_ONCE = 1 << 18  # faces
_BUFFERS = 4  # pictures that are drawn at the same time on a CPU, to be merged


class Scene:
    """A subject on its device, scaled to the unit ball, ready to be drawn from several sides in one mode."""

    def __init__(self, subject: Subject, mode: str, studio: Studio, tick: Callable[[], None] = lambda: None) -> None:
        self._tick = tick
        self._mode, self._studio, self._harmonics = mode, studio, studio.harmonics()
        self._lit = mode in ("shaded", "wireframe", "pbr")
        device = subject.vertices.device
        self._device = device if device.type in DEVICES else torch.device("cpu")
        self._place(self._on_device(subject.vertices))
        self._faces = subject.faces.detach().to(self._device, torch.int32).contiguous()
        self._shape = self._make_shape(subject)
        given = subject.normals is not None
        normals = self._smooth_normals() if subject.normals is None else self._on_device(subject.normals)
        self._shape.normals, self._shape.crease = array(normals), -2.0 if given else _CREASE

    def _place(self, vertices: torch.Tensor) -> None:
        low, high = vertices.amin(0), vertices.amax(0)
        centre = (low + high) / 2
        vertices = vertices - centre
        radius = float(vertices.norm(dim=1).amax())
        if not 0 < radius < math.inf:
            problem = "All vertices lie in one point" if radius == 0 else "The mesh is too large for 32-bit numbers"
            raise SettingsError(f"{problem}: it cannot be framed. Scale the mesh to about one unit.")
        self._vertices, self._centre, self._radius = vertices / radius, centre.double().cpu().numpy(), radius
        self._profile = self._revolved()

    def _revolved(self) -> np.ndarray:
        """[2 N, 2]: radius and height of the rims of a stack of cylinders round the z axis that holds every vertex."""
        slabs = 64
        slab = ((self._vertices[:, 2] + 1) * (slabs / 2)).long().clamp(0, slabs - 1)
        wide = self._zeros(slabs, torch.float32) - 1
        wide.scatter_reduce_(0, slab, self._vertices[:, :2].norm(dim=1), "amax")
        wide = wide.cpu().numpy()
        lowest, highest = self._vertices[:, 2].aminmax()
        heights = np.linspace(-1, 1, slabs + 1).clip(float(lowest), float(highest))
        rims = [(wide[k], heights[k + side]) for k in range(slabs) for side in (0, 1) if wide[k] >= 0]
        return np.array(rims, np.float64)

    def picture(self, camera: Camera, size: int, background: Sequence[float] | None) -> np.ndarray:
        """[size, size, 4] uint8."""
        view = self._view(camera, size * SAMPLES)
        light = self._light(camera)
        shadow = self._nearest(light, self._project(light)) if self._lit else self._zeros(1, torch.int64)
        projected = self._project(view)
        layered = self._shape.alpha != surface_functions.OPAQUE
        studio, look = self._lights(camera), self._look(layered)
        through = torch.ones(view.side**2 if layered else 1, device=self._device)
        picture = self._zeros((size * size, 4), torch.float32)
        keys = None
        for _ in range(_LAYERS if layered else 1):
            keys = self._nearest(view, projected, keys)
            if layered and not bool(((keys != 0) & (through > 1 / 512)).any()):
                break
            opens = self._visible(view, light, look, projected, keys, shadow)
            self._shade(view, studio, look, projected, keys, opens, through, picture)
        return self._developed(picture.reshape(size, size, 4), background)

    def camera(self, camera: Camera) -> PictureCamera:
        """A camera with what it leaves to the framing, in world units."""
        target, distance = self._framed(camera)
        x, y, z = (target * self._radius + self._centre).tolist()
        return PictureCamera.at(camera.azimuth, camera.elevation, camera.fov, distance * self._radius, (x, y, z))

    def bounds(self, camera: Camera) -> tuple[float, float]:
        """Depths in world units between which the whole subject lies."""
        view = self._view(camera, SAMPLES)
        return view.near * self._radius, view.far * self._radius

    def depth(self, camera: Camera, size: int) -> np.ndarray:
        """[size, size] float32: world units along the optical axis to each pixel's nearest sample; inf: nothing."""
        view = self._view(camera, size * SAMPLES)
        keys = self._nearest(view, self._project(view))
        keys = keys.reshape(size, SAMPLES, size, SAMPLES).amax((1, 3))
        near = (keys >> 32).double() / view_functions.SCALE
        depth = 1 / (near * (1 / view.near - 1 / view.far) + 1 / view.far)
        return torch.where(keys == 0, math.inf, depth * self._radius).float().cpu().numpy()

    # Preparing

    def _on_device(self, values: torch.Tensor) -> torch.Tensor:
        return values.detach().to(self._device, torch.float32).contiguous()

    def _zeros(self, shape: int | tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=self._device)

    def _table(self, values: torch.Tensor):
        return array(values, wp.float32)

    def _smooth_normals(self) -> torch.Tensor:
        """[V, 3] unit normals without a sign, so that faces wound differently do not cancel."""
        workers = workers_on(self._device, _BUFFERS)
        tensors = self._zeros((workers, len(self._vertices), 6), torch.int32)
        mesh = self._faces, self._vertices
        launch_per_worker(
            normal_tensors, len(self._faces), lambda worker: (*mesh, tensors[worker]), workers, _ROWS_AT_ONCE
        )
        normals = torch.empty_like(self._vertices)
        launch_parallel(undirected_normals, len(normals), tensors, normals)
        return normals

    def _make_shape(self, subject: Subject):
        """The kernels' view of the subject: geometry, and the material as far as the mode needs it."""
        shape = surface_functions.Shape()
        shape.vertices = array(self._vertices)
        shape.faces = array(self._faces, wp.vec3i)
        shape.source, shape.alpha = surface_functions.CLAY, surface_functions.OPAQUE
        shape.uvs = array(self._zeros((1, 2), torch.float32), wp.vec2)
        shape.colours = shape.maps = shape.mips = self._table(self._zeros((1, 6), torch.float32))
        if self._mode not in ("base_color", "pbr"):
            return shape
        shape.alpha = ALPHA_MODES.index(subject.alpha_mode)
        if subject.maps is None:
            assert subject.colours is not None  # see check_subject
            colours = self._on_device(subject.colours)
            if colours.shape[1] == 3:
                rest = torch.tensor([0.0, 0.7, 1.0], device=self._device)
                colours = torch.cat([colours, rest.expand(len(colours), 3)], 1)
            shape.source, shape.colours = surface_functions.COLOURS, self._table(colours)
            return shape
        shape.source = surface_functions.MAPS
        assert subject.uvs is not None
        shape.uvs = array(self._on_device(subject.uvs), wp.vec2)
        shape.map_side = len(subject.maps)
        maps = torch.from_numpy(np.ascontiguousarray(subject.maps)).to(self._device)
        maps = maps / 255 if maps.dtype == torch.uint8 else maps.float()
        shape.maps = self._table(maps.reshape(-1, 6))
        shape.mips, shape.levels = self._mips(shape.maps, shape.map_side)
        return shape

    def _mips(self, maps, side: int):
        """Every smaller level of the maps, one after the other, and how many there are."""
        sides = []
        while side > 1:
            side //= 2
            sides.append(side)
        mips = self._table(self._zeros((max(1, sum(x * x for x in sides)), 6), torch.float32))
        source, first, above, offset = maps, 0, int(maps.shape[0] ** 0.5 + 0.5), 0
        for side in sides:
            launch_parallel(halve, side * side, source, first, above, mips, offset)
            source, first, above, offset = mips, offset, side, offset + side * side
        return mips, len(sides)

    # Cameras and lights

    def _view(self, camera: Camera, side: int):
        axes, tangent = camera.axes(), math.tan(math.radians(camera.fov) / 2)
        target, distance = self._framed(camera)
        eye = target + distance * axes[2]
        view = self._looking(axes, eye, side)
        view.focal = side / 2 / tangent
        away = float(np.linalg.norm(eye))
        view.near, view.far = max(away - 1.001, 1e-3), away + 1.001  # round the unit ball
        return view

    def _framed(self, camera: Camera) -> tuple[np.ndarray, float]:
        """Target and distance of a camera, in the unit ball's frame."""
        target, distance = self._fit(camera)
        if camera.target is not None:
            target = (np.array(camera.target) - self._centre) / self._radius
        if camera.distance is not None:
            distance = camera.distance / self._radius
        return target, distance

    def _light(self, camera: Camera):
        """A parallel view of the unit ball from the box that casts shadows."""
        box = self._studio.boxes[0]
        axes = Camera(camera.azimuth + box.azimuth, box.elevation).axes()
        light = self._looking(axes, axes[2], _SHADOW)
        light.focal = _SHADOW / 2 / 1.01
        light.near, light.far, light.parallel = -0.01, 2.01, True
        return light

    def _looking(self, axes: np.ndarray, eye: np.ndarray, side: int):
        view = view_functions.View()
        view.right, view.up, view.back, view.eye = (wp.vec3(*row) for row in (*axes, eye))
        view.middle, view.side = side / 2, side
        return view

    def _fit(self, camera: Camera) -> tuple[np.ndarray, float]:
        """Target and distance with which the solid of revolution that the object's turns sweep fills the picture."""
        turn = np.linspace(0, 2 * np.pi, 128, endpoint=False)
        circle = np.stack([np.sin(turn), -np.cos(turn)], 1)
        ring = np.concatenate(
            [self._profile[:, None, :1] * circle, 0 * circle[None, :, :1] + self._profile[:, None, 1:]], 2
        )
        right, up, back = replace(camera, azimuth=0.0).axes() @ ring.reshape(-1, 3).T
        tangent = math.tan(math.radians(camera.fov) / 2) / _MARGIN
        above, below = (back + up / tangent).max(), (back - up / tangent).max()
        distance = max((above + below) / 2, (back + np.abs(right) / tangent).max())
        return camera.axes()[1] * (above - below) / 2 * tangent, float(distance)

    def _lights(self, camera: Camera):
        studio = studio_functions.Studio()
        turn, given = math.radians(camera.azimuth), self._studio
        studio.cosine, studio.sine = math.cos(turn), math.sin(turn)
        studio.zenith, studio.nadir = wp.vec3(*given.zenith), wp.vec3(*given.nadir)
        studio.horizon, studio.edge = given.horizon, given.edge

        def table(rows: list | np.ndarray, dtype):
            return array(torch.tensor(np.array(rows), dtype=torch.float32).to(self._device), dtype)

        studio.axes = table([box.axes() for box in given.boxes], wp.mat33)
        studio.half = table([np.radians([box.width, box.height]) / 2 for box in given.boxes], wp.vec2)
        studio.radiance = table([box.radiance for box in given.boxes], wp.vec3)
        studio.harmonics = table(self._harmonics, wp.vec3)
        surroundings = given.environment
        pictures = [np.zeros((1, 1, 3))] * 2
        if surroundings is not None:
            pictures = [surroundings.sharp, surroundings.blurred.reshape(-1, *surroundings.blurred.shape[2:])]
            studio.levels, studio.first_blur = LEVELS, FIRST_BLUR
        studio.sharp, studio.blurred = (table(each, wp.vec3) for each in pictures)
        return studio

    def _look(self, layered: bool):
        look = surface_functions.Look()
        look.mode = MODES.index(self._mode)
        look.clay, look.clay_roughness = wp.vec3(*_CLAY), _CLAY_ROUGHNESS
        look.line, look.line_width = wp.vec3(*_LINE), _LINE_WIDTH
        box = self._studio.boxes[0]
        look.radius, look.softness = _RADIUS, math.tan(math.radians(min(box.width, box.height, 120)) / 2)
        look.layered = layered
        return look

    # Drawing

    def _project(self, view):
        """Every vertex on the picture."""
        screen = self._zeros((len(self._vertices), 2), torch.int32)
        projected = view_functions.Projection()
        projected.screen = array(screen, wp.vec2i)
        projected.near = array(torch.empty(len(screen), device=self._device), wp.float32)
        launch_parallel(project, len(screen), view, self._vertices, projected)
        return projected

    def _nearest(self, view, projected, before: torch.Tensor | None = None) -> torch.Tensor:
        """[N] key of the nearest face of every sample, 0 where there is none; behind the keys `before` if given."""
        self._tick()
        workers = workers_on(self._device, _BUFFERS)
        buffers = self._zeros((workers, view.side**2), torch.int64)
        canvases = [self._canvas(view.side, keys, before) for keys in buffers]
        large = self._zeros(len(self._faces), torch.bool)

        def rows(worker: int) -> tuple:
            return self._faces, projected, canvases[worker], large

        launch_per_worker(draw, len(self._faces), rows, workers, _ROWS_AT_ONCE)
        bands = -(-view.side // BAND)
        for which in large.nonzero()[:, 0].int().split(_LARGE_AT_ONCE):

            def banded(worker: int, which=which) -> tuple:
                return self._faces, which, bands, projected, canvases[worker]

            launch_per_worker(draw_large, len(which) * bands, banded, workers, _ROWS_AT_ONCE)
        return buffers[0] if workers == 1 else buffers.amax(0)

    def _canvas(self, side: int, keys: torch.Tensor, before: torch.Tensor | None):
        canvas = Canvas()
        canvas.side, canvas.layered = side, before is not None
        canvas.keys = array(keys, wp.uint64)
        canvas.before = canvas.keys if before is None else array(before, wp.uint64)
        return canvas

    def _visible(self, view, light, look, projected, keys: torch.Tensor, shadow: torch.Tensor) -> tuple:
        """Of every pixel: a point that it sees, its normal, and the parts of sky and first box that this point sees."""
        count = (view.side // SAMPLES) ** 2 if self._lit else 1
        places = [self._zeros((count, 3), torch.float32) for _ in range(2)]
        opens = [self._zeros((count, 2), torch.float32) for _ in range(2)]
        if self._lit:
            given = view, light, self._shape, look, projected, keys, shadow, *places, opens[0]
            self._per_pixel(visibility, count, *given)
            self._per_pixel(smooth, count, view, *places, -2, *opens)
            self._per_pixel(smooth, count, view, *places, -1, *opens[::-1])
        return *places, opens[0]

    def _shade(self, view, studio, look, projected, keys: torch.Tensor, opens, through, picture: torch.Tensor) -> None:
        given = view, self._shape, studio, look, projected, keys, *opens, through, picture
        self._per_pixel(shade, len(picture), *given)

    def _per_pixel(self, kernel, count: int, *given) -> None:
        block = _PIXELS_A_TICK if self._device.type == "cpu" else count  # a GPU is done before anyone could wait
        for first in range(0, count, block):
            self._tick()
            rows = min(block, count - first)
            launch_parallel(kernel, rows, *given, chunk=_PIXELS_AT_ONCE, first=first)

    def _developed(self, picture: torch.Tensor, background: Sequence[float] | None) -> np.ndarray:
        """Colour times coverage, and coverage [H, W, 4] -> bytes, over the background."""
        colour, cover = picture[..., :3], picture[..., 3:].clamp(0, 1)
        encoded = self._mode == "normals"  # numbers, not light
        if background is None:
            colour = colour / cover.clamp_min(1e-6)
        else:
            behind = torch.tensor([float(x) for x in background], device=self._device)
            colour = colour + (1 - cover) * (behind if encoded else tensor_to_linear(behind))
            cover = torch.ones_like(cover)
        colour = colour if encoded else _srgb(colour)
        return (torch.cat([colour, cover], -1).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _srgb(values: torch.Tensor) -> torch.Tensor:
    # not by torch.pow, whose last bit depends on how many threads share the values
    power = (values.clamp_min(0.0031308).log() / 2.4).exp()
    return torch.where(values <= 0.0031308, values * 12.92, 1.055 * power - 0.055)
