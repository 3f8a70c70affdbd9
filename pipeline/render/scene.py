"""Pictures of meshes, plain, coloured or textured: stills and turntables, on a CPU or with CUDA."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..errors import BackendError, NotFiniteError, SettingsError
from ..mesh import Mesh
from ..views.rig import camera_axes
from ..warp import unavailable_reason

MODES = ("shaded", "normals", "base_color", "wireframe", "pbr")
ALPHA_MODES = ("OPAQUE", "MASK", "BLEND")  # as in glTF

_LARGEST = 4096  # pixels of a picture's side
_LAYERS = 8  # translucent faces that a ray passes at most
_SHADOW = 1024  # samples of the shadow map's side
_CREASE = math.cos(math.radians(40))  # sharper edges are shaded as edges
_MARGIN = 1.06  # round the object
_CLAY = (0.46, 0.45, 0.44)  # linear
_CLAY_ROUGHNESS = 0.62
_LINE = (0.012, 0.016, 0.03)
_LINE_WIDTH = 1.1  # pixels
_REACH = 0.3  # of ambient occlusion, in radii of the object
_ROWS_AT_ONCE, _PIXELS_AT_ONCE = 1 << 16, 1 << 13  # of one launch on a CPU
_PIXELS_A_TICK = 1 << 18  # on a CPU: about a second of two cores
_LARGE_AT_ONCE = 1 << 18  # faces
_BUFFERS = 4  # pictures that are drawn at the same time on a CPU, to be merged


@dataclass(frozen=True)
class Camera:
    """Where a picture is taken from. World frame, Z up; the camera looks at `target` and keeps upright.

    azimuth: degrees, 0 in front of the object (on -Y, looking along +Y with +X to the right), growing anticlockwise
        seen from above: 90 is on +X.
    elevation: degrees above the horizon, -90 to 90.
    fov: degrees that the picture's side spans.
    distance: from the target in world units; target: world position. None: chosen so that the object fills the picture
        and would fit from every azimuth.
    """

    azimuth: float = 30.0
    elevation: float = 20.0
    fov: float = 30.0
    distance: float | None = None
    target: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        numbers = (self.azimuth, self.elevation, self.fov, self.distance or 1.0, *(self.target or ()))
        if not np.isfinite(numbers).all():
            raise SettingsError(f"A camera needs finite numbers, got {self}.")
        if not -90 <= self.elevation <= 90:
            raise SettingsError(f"A camera's elevation must lie in -90 to 90 degrees, got {self.elevation}.")
        if not 1 <= self.fov <= 150:
            raise SettingsError(f"A camera's field of view must lie in 1 to 150 degrees, got {self.fov}.")
        if self.distance is not None and self.distance <= 0:
            raise SettingsError(f"A camera's distance must be above 0, got {self.distance}.")

    def axes(self) -> np.ndarray:
        """[3, 3] float64: rows are the picture's right, its up and the direction towards the viewer."""
        return camera_axes(self.azimuth, self.elevation)


@dataclass(frozen=True)
class Softbox:
    """A rectangular light far away. Degrees: azimuth from the camera's (positive: to its right), elevation above the
    horizon, width and height as seen from the object; radiance RGB, linear."""

    azimuth: float
    elevation: float
    width: float
    height: float
    radiance: tuple[float, float, float]

    def axes(self) -> np.ndarray:
        return Camera(self.azimuth, self.elevation).axes()


@dataclass(frozen=True)
class Studio:
    """The light: a sky that turns from nadir to zenith near the horizon, and soft boxes. It turns with the camera's
    azimuth, as the studio of a turntable stays with its camera. The first box casts shadows."""

    zenith: tuple[float, float, float] = (0.36, 0.39, 0.44)
    nadir: tuple[float, float, float] = (0.1, 0.095, 0.09)
    boxes: tuple[Softbox, ...] = (
        Softbox(-50, 45, 36, 36, (6.4, 6.2, 5.9)),
        Softbox(70, 10, 20, 70, (1.1, 1.2, 1.4)),
        Softbox(160, 35, 60, 24, (3.0, 3.15, 3.4)),
    )
    horizon: float = 0.35  # radians over which the sky turns
    edge: float = 0.06  # radians over which a box fades

    def __post_init__(self) -> None:
        if not self.boxes:
            raise SettingsError("A studio needs a soft box; one without radiance will do.")

    def radiance(self, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Light from directions [N, 3] in the studio's frame (the camera stands on -Y): [N, 3] of everything but the
        first box, and of the first box."""
        sky = 0.5 + 0.5 * np.tanh(np.arcsin(directions[:, 2:].clip(-1, 1)) / self.horizon)
        rest = (1 - sky) * np.array(self.nadir) + sky * np.array(self.zenith)
        for box in self.boxes[1:]:
            rest += self._box(box, directions)
        return rest, self._box(self.boxes[0], directions)

    def _box(self, box: Softbox, directions: np.ndarray) -> np.ndarray:
        x, y, z = box.axes() @ directions.T
        up = np.arcsin(y.clip(-1, 1))
        right = np.arctan2(x, z) * np.cos(up)
        inside = 1.0
        for at, size in ((right, box.width), (up, box.height)):
            half = math.radians(size) / 2
            inside = inside * (np.tanh((at + half) / self.edge) - np.tanh((at - half) / self.edge)) / 2
        return inside[:, None] * np.array(box.radiance)

    def harmonics(self) -> np.ndarray:
        """[18, 3] coefficients of 1, y, z, x, xy, yz, 3zz - 1, xz, xx - yy: irradiance / pi as a function of a normal,
        of everything but the first box and then of the first box (Ramamoorthi and Hanrahan 2001)."""
        count = 1 << 12
        steps = np.arange(count) + 0.5
        z, turn = 1 - 2 * steps / count, np.pi * (1 + 5**0.5) * steps
        flat = np.sqrt(1 - z * z)
        x, y = flat * np.cos(turn), flat * np.sin(turn)
        basis = np.stack([np.ones(count), y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y], 1)
        scale = np.array([0.282095, *[0.488603] * 3, 1.092548, 1.092548, 0.315392, 1.092548, 0.546274]) ** 2
        lobe = np.array([1, *[2 / 3] * 3, *[1 / 4] * 5])  # of the cosine, / pi
        lights = self.radiance(np.stack([x, y, z], 1))
        return np.concatenate([(scale * lobe)[:, None] * (basis.T @ light) * (4 * np.pi / count) for light in lights])


@dataclass(frozen=True, eq=False)
class Subject(Mesh):
    """What a picture shows: a mesh and its looks.

    vertices: [V, 3] world units, Z up; all of them count for the framing. faces: [F, 3].
    normals: [V, 3] unit, for shading; None: smooth but for sharp edges, whatever the winding.
    uvs: [V, 2], v downwards; maps: [S, S, 6] float, row 0 at v = 0: base colour RGB (sRGB), metallic, roughness, alpha,
        in 0-1.
    colours: [V, 3 or 6] the same per vertex, without maps; 3: base colour of something rough, opaque, not metallic.
    alpha_mode: what "base_color" and "pbr" make of alpha: ignore it, cut at 0.5, or blend (up to 8 layers).

    Raises:
        MeshError: see mesh.check_mesh.
    """

    normals: torch.Tensor | None = None
    uvs: torch.Tensor | None = None
    maps: np.ndarray | None = None
    colours: torch.Tensor | None = None
    alpha_mode: str = "OPAQUE"


def render(
    subject: Subject,
    camera: Camera = Camera(),
    size: int = 512,
    mode: str = "shaded",
    background: Sequence[float] | None = None,
    studio: Studio = Studio(),
) -> np.ndarray:
    """A picture [size, size, 4] uint8: sRGB and straight alpha. The same input gives the same picture on a device.

    Faces are two-sided. Faces that reach behind the camera are left out; those without area do not show.

    Args:
        size: pixels along a side, 16-4096.
        mode: "shaded": grey clay under the studio's light. "normals": shading normals in the camera's frame, right, up
            and towards the viewer, -1..1 as 0..255. "base_color": without light. "wireframe": clay with the edges drawn
            on it. "pbr": the metallic-roughness material of glTF under the studio's light.
        background: RGB, 0-1 sRGB; None: transparent.

    Raises:
        EmptyResultError: no faces. NotFiniteError: NaN or infinity in normals, UVs or
        colours. SettingsError: anything else that cannot be drawn.
    """
    check_picture(size, mode, background)
    return _Scene(subject, mode, studio).picture(camera, size, background)


def turntable(
    subject: Subject,
    frames: int = 8,
    size: int = 512,
    mode: str = "shaded",
    background: Sequence[float] | None = None,
    camera: Camera = Camera(azimuth=0.0),
    studio: Studio = Studio(),
) -> np.ndarray:
    """Pictures [frames, size, size, 4] from a full circle of azimuths, from the camera's on; otherwise as render()."""
    drawn = turntable_frames(subject, frames, size, mode, background, camera, studio)
    pictures = np.empty((frames, size, size, 4), np.uint8)
    for picture, frame in zip(pictures, drawn):
        picture[:] = frame
    return pictures


def turntable_frames(
    subject: Subject,
    frames: int = 8,
    size: int = 512,
    mode: str = "shaded",
    background: Sequence[float] | None = None,
    camera: Camera = Camera(azimuth=0.0),
    studio: Studio = Studio(),
    tick: Callable[[], None] = lambda: None,
) -> Iterator[np.ndarray]:
    """As turntable(), one picture [size, size, 4] after the other, each drawn when it is asked for.

    tick: called several times while a picture is drawn; an exception that it raises stops the drawing.
    """
    check_picture(size, mode, background, frames)
    scene = _Scene(subject, mode, studio, tick)
    azimuths = [camera.azimuth + 360 * k / frames for k in range(frames)]
    return (scene.picture(replace(camera, azimuth=a), size, background) for a in azimuths)


def check_picture(size: int, mode: str, background: Sequence[float] | None = None, frames: int = 1) -> None:
    """Raises SettingsError for what no picture can have."""
    if not 1 <= frames <= 1000:
        raise SettingsError(f"A turntable has 1 to 1000 frames, got {frames}.")
    if not 16 <= size <= _LARGEST:
        raise SettingsError(f"A picture's side must lie in 16-{_LARGEST} pixels, got {size}.")
    if mode not in MODES:
        raise SettingsError(f"There is no mode {mode!r}; choose one of {', '.join(MODES)}.")
    if background is not None and (len(background) != 3 or not all(0 <= x <= 1 for x in background)):
        raise SettingsError(f"A background is three numbers in 0-1 (RGB) or None, got {background}.")


def _checked(subject: Subject, mode: str) -> None:
    vertices, faces = subject.vertices, subject.faces
    subject.require_faces()
    if len(faces) >= 1 << 31:
        raise SettingsError(f"A picture shows at most {1 << 31:,} faces, got {len(faces):,}. Simplify the mesh.")
    for name, width in (("normals", (3,)), ("uvs", (2,)), ("colours", (3, 6))):
        values = getattr(subject, name)
        if values is None:
            continue
        if values.ndim != 2 or values.shape[1] not in width or len(values) != len(vertices):
            expected = " or ".join(str(x) for x in width)
            raise SettingsError(f"The {name} must be [{len(vertices)}, {expected}], got {list(values.shape)}.")
        if not torch.isfinite(values).all():
            raise NotFiniteError(f"The mesh's {name} hold NaN or infinity.")
    _check_maps(subject)
    if mode in ("base_color", "pbr") and subject.maps is None and subject.colours is None:
        raise SettingsError(f"Mode {mode!r} needs maps or vertex colours; this mesh has none. Choose 'shaded'.")


def _check_maps(subject: Subject) -> None:
    if subject.alpha_mode not in ALPHA_MODES:
        raise SettingsError(f"There is no alpha mode {subject.alpha_mode!r}; choose one of {', '.join(ALPHA_MODES)}.")
    maps = subject.maps
    if maps is None:
        return
    if subject.uvs is None:
        raise SettingsError("Maps need uvs [V, 2] beside them.")
    if subject.colours is not None:
        raise SettingsError("A mesh has maps or vertex colours, not both.")
    if maps.ndim != 3 or maps.shape[0] != maps.shape[1] or maps.shape[2] != 6 or maps.shape[0] < 1:
        raise SettingsError(f"Maps must be [S, S, 6], got {list(maps.shape)}.")
    if not np.isfinite(maps).all():
        raise NotFiniteError("The maps hold NaN or infinity.")


class _Scene:
    """A subject on its device, scaled to the unit ball, ready to be drawn from several sides in one mode."""

    def __init__(self, subject: Subject, mode: str, studio: Studio, tick: Callable[[], None] = lambda: None) -> None:
        if reason := unavailable_reason():
            raise BackendError(f"The renderer needs Warp: {reason}")
        _checked(subject, mode)
        from ..warp import launch
        from . import render_kernels

        self._launch, self._kernels, self._wp = launch, render_kernels, launch.wp
        self._tick = tick
        self._mode, self._studio, self._harmonics = mode, studio, studio.harmonics()
        self._lit = mode in ("shaded", "wireframe", "pbr")
        device = subject.vertices.device
        self._device = device if device.type in ("cpu", "cuda") else torch.device("cpu")
        self._place(self._on_device(subject.vertices))
        self._faces = subject.faces.detach().to(self._device, torch.int32).contiguous()
        self._shape = self._make_shape(subject)
        given = subject.normals is not None
        normals = self._smooth_normals() if subject.normals is None else self._on_device(subject.normals)
        self._shape.normals, self._shape.crease = launch.array(normals), -2.0 if given else _CREASE

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
        view = self._view(camera, size * self._kernels.SAMPLES)
        light = self._light(camera)
        shadow = self._nearest(light, self._project(light)) if self._lit else self._zeros(1, torch.int64)
        seen = self._project(view)
        layered = self._shape.alpha != self._kernels.OPAQUE
        studio, look = self._lights(camera), self._look(layered)
        through = torch.ones(view.side**2 if layered else 1, device=self._device)
        picture = self._zeros((size * size, 4), torch.float32)
        keys = None
        for _ in range(_LAYERS if layered else 1):
            keys = self._nearest(view, seen, keys)
            if layered and not bool(((keys != 0) & (through > 1 / 512)).any()):
                break
            opens = self._visible(view, light, look, seen, keys, shadow)
            self._shade(view, studio, look, seen, keys, opens, through, picture)
        return self._developed(picture.reshape(size, size, 4), background)

    # Preparing

    def _on_device(self, values: torch.Tensor) -> torch.Tensor:
        return values.detach().to(self._device, torch.float32).contiguous()

    def _zeros(self, shape: int | tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=self._device)

    def _table(self, values: torch.Tensor):
        return self._launch.array(values, self._wp.float32)

    def _smooth_normals(self) -> torch.Tensor:
        """[V, 3] unit normals without a sign, so that faces wound differently do not cancel."""
        kernels, workers = self._kernels, self._launch.workers_on(self._device, _BUFFERS)
        tensors = self._zeros((workers, len(self._vertices), 6), torch.int32)
        mesh = self._faces, self._vertices
        self._launch.launch_per_worker(
            kernels.normal_tensors, len(self._faces), lambda worker: (*mesh, tensors[worker]), workers, _ROWS_AT_ONCE
        )
        normals = torch.empty_like(self._vertices)
        self._launch.launch_parallel(kernels.undirected_normals, len(normals), tensors, normals)
        return normals

    def _make_shape(self, subject: Subject):
        """The kernels' view of the subject: geometry, and the material as far as the mode needs it."""
        kernels, wp = self._kernels, self._wp
        shape = kernels.Shape()
        shape.vertices = self._launch.array(self._vertices)
        shape.faces = self._launch.array(self._faces, wp.vec3i)
        shape.source, shape.alpha = kernels.CLAY, kernels.OPAQUE
        shape.uvs = self._launch.array(self._zeros((1, 2), torch.float32), wp.vec2)
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
            shape.source, shape.colours = kernels.COLOURS, self._table(colours)
            return shape
        shape.source = kernels.MAPS
        assert subject.uvs is not None
        shape.uvs = self._launch.array(self._on_device(subject.uvs), wp.vec2)
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
            self._launch.launch_parallel(self._kernels.halve, side * side, source, first, above, mips, offset)
            source, first, above, offset = mips, offset, side, offset + side * side
        return mips, len(sides)

    # Cameras and lights

    def _view(self, camera: Camera, side: int):
        axes, tangent = camera.axes(), math.tan(math.radians(camera.fov) / 2)
        target, distance = self._fit(camera)
        if camera.target is not None:
            target = (np.array(camera.target) - self._centre) / self._radius
        if camera.distance is not None:
            distance = camera.distance / self._radius
        eye = target + distance * axes[2]
        view = self._looking(axes, eye, side)
        view.focal = side / 2 / tangent
        away = float(np.linalg.norm(eye))
        view.near, view.far = max(away - 1.001, 1e-3), away + 1.001  # round the unit ball
        return view

    def _light(self, camera: Camera):
        """A parallel view of the unit ball from the box that casts shadows."""
        box = self._studio.boxes[0]
        axes = Camera(camera.azimuth + box.azimuth, box.elevation).axes()
        light = self._looking(axes, axes[2], _SHADOW)
        light.focal = _SHADOW / 2 / 1.01
        light.near, light.far, light.parallel = -0.01, 2.01, True
        return light

    def _looking(self, axes: np.ndarray, eye: np.ndarray, side: int):
        wp, view = self._wp, self._kernels.View()
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
        wp, studio = self._wp, self._kernels.Studio()
        turn, given = math.radians(camera.azimuth), self._studio
        studio.cosine, studio.sine = math.cos(turn), math.sin(turn)
        studio.zenith, studio.nadir = wp.vec3(*given.zenith), wp.vec3(*given.nadir)
        studio.horizon, studio.edge = given.horizon, given.edge

        def table(rows: list | np.ndarray, dtype):
            return self._launch.array(torch.tensor(np.array(rows), dtype=torch.float32).to(self._device), dtype)

        studio.axes = table([box.axes() for box in given.boxes], wp.mat33)
        studio.half = table([np.radians([box.width, box.height]) / 2 for box in given.boxes], wp.vec2)
        studio.radiance = table([box.radiance for box in given.boxes], wp.vec3)
        studio.harmonics = table(self._harmonics, wp.vec3)
        return studio

    def _look(self, layered: bool):
        wp, look = self._wp, self._kernels.Look()
        look.mode = MODES.index(self._mode)
        look.clay, look.clay_roughness = wp.vec3(*_CLAY), _CLAY_ROUGHNESS
        look.line, look.line_width = wp.vec3(*_LINE), _LINE_WIDTH
        box = self._studio.boxes[0]
        look.reach, look.softness = _REACH, math.tan(math.radians(min(box.width, box.height, 120)) / 2)
        look.layered = layered
        return look

    # Drawing

    def _project(self, view) -> tuple[torch.Tensor, torch.Tensor]:
        """Every vertex on the picture: fixed-point samples [V, 2], and nearness [V] (0: out of sight)."""
        screen = self._zeros((len(self._vertices), 2), torch.int32)
        near = torch.empty(len(self._vertices), device=self._device)
        self._launch.launch_parallel(self._kernels.project, len(near), view, self._vertices, screen, near)
        return screen, near

    def _nearest(self, view, seen: tuple, before: torch.Tensor | None = None) -> torch.Tensor:
        """[N] key of the nearest face of every sample, 0 where there is none; behind the keys `before` if given."""
        self._tick()
        kernels, workers = self._kernels, self._launch.workers_on(self._device, _BUFFERS)
        buffers = self._zeros((workers, view.side**2), torch.int64)
        front, layered = buffers[0] if before is None else before, before is not None
        large = self._zeros(len(self._faces), torch.bool)
        given = view.side, self._faces, *seen, front, layered
        self._launch.launch_per_worker(
            kernels.draw, len(self._faces), lambda worker: (*given, buffers[worker], large), workers, _ROWS_AT_ONCE
        )
        bands = -(-view.side // kernels.BAND)
        for which in large.nonzero()[:, 0].int().split(_LARGE_AT_ONCE):
            given = view.side, bands, which, self._faces, *seen, front, layered

            def arguments(worker: int, given=given) -> tuple:
                return *given, buffers[worker]

            self._launch.launch_per_worker(kernels.draw_large, len(which) * bands, arguments, workers, _ROWS_AT_ONCE)
        return buffers[0] if workers == 1 else buffers.amax(0)

    def _visible(self, view, light, look, seen, keys: torch.Tensor, shadow: torch.Tensor) -> tuple:
        """Of every pixel: a point that it sees, its normal, and the parts of sky and first box that this point sees."""
        count = (view.side // self._kernels.SAMPLES) ** 2 if self._lit else 1
        places = [self._zeros((count, 3), torch.float32) for _ in range(2)]
        opens = [self._zeros((count, 2), torch.float32) for _ in range(2)]
        if self._lit:
            given = view, light, self._shape, look, *seen, keys, shadow, *places, opens[0]
            self._per_pixel(self._kernels.visibility, count, *given)
            self._per_pixel(self._kernels.smooth, count, view, *places, -2, *opens)
            self._per_pixel(self._kernels.smooth, count, view, *places, -1, *opens[::-1])
        return *places, opens[0]

    def _shade(self, view, studio, look, seen, keys: torch.Tensor, opens, through, picture: torch.Tensor) -> None:
        given = view, self._shape, studio, look, *seen, keys, *opens, through, picture
        self._per_pixel(self._kernels.shade, len(picture), *given)

    def _per_pixel(self, kernel, count: int, *given) -> None:
        block = _PIXELS_A_TICK if self._device.type == "cpu" else count  # a GPU is done before anyone could wait
        for first in range(0, count, block):
            self._tick()
            rows = min(block, count - first)
            self._launch.launch_parallel(kernel, rows, *given, chunk=_PIXELS_AT_ONCE, first=first)

    def _developed(self, picture: torch.Tensor, background: Sequence[float] | None) -> np.ndarray:
        """Colour times coverage, and coverage [H, W, 4] -> bytes, over the background."""
        colour, cover = picture[..., :3], picture[..., 3:].clamp(0, 1)
        encoded = self._mode == "normals"  # numbers, not light
        if background is None:
            colour = colour / cover.clamp_min(1e-6)
        else:
            behind = torch.tensor([float(x) for x in background], device=self._device)
            colour = colour + (1 - cover) * (behind if encoded else _linear(behind))
            cover = torch.ones_like(cover)
        colour = colour if encoded else _srgb(colour)
        return (torch.cat([colour, cover], -1).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _linear(values: torch.Tensor) -> torch.Tensor:
    return torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _srgb(values: torch.Tensor) -> torch.Tensor:
    # not by torch.pow, whose last bit depends on how many threads share the values
    power = (values.clamp_min(0.0031308).log() / 2.4).exp()
    return torch.where(values <= 0.0031308, values * 12.92, 1.055 * power - 0.055)
