"""Kernels of the unwrapping on NVIDIA Warp, and how they are launched: rigid flattening, texel drawing, packing.

Every kernel but the sequential one takes the number of its first row, so that a CPU's threads can share the rows.
Sums are gathered in a fixed order: results do not depend on the number of threads. Variables that change in a loop are
declared with a type, for Warp takes a bare number as a constant.
"""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

from concurrent.futures import ThreadPoolExecutor

import torch
import warp as wp

from .kernels import configure, cores, device_of

configure(__name__)

ROWS = 1 << 13  # fewest rows that are worth a thread
STRIDE = wp.constant(12)  # rows skipped while a place is sought: one for so many rows of a chart's height
SLACK = wp.constant(1e-3)  # texels: more than rounding texture coordinates to float32 moves a corner
WIDE = wp.constant(16)  # texels: what narrower charts take does not change a row's widest free run much
CLAIM, FIND, MARK = wp.constant(0), wp.constant(1), wp.constant(2)


class Launcher:
    """Launches kernels over rows on a tensor's device; on a CPU from a pool of threads that ends with `with`."""

    def __init__(self, like: torch.Tensor) -> None:
        self.where = device_of(like)
        if self.where == "cpu":
            wp.load_module(__name__, device="cpu")  # before the threads: modules must not be compiled by two at once
            self._pool, self._stream = ThreadPoolExecutor(cores()), None
        else:
            self._pool, self._stream = None, wp.stream_from_torch(torch.cuda.current_stream(like.device))

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(self, *_) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def __call__(self, kernel: wp.Kernel, count: int, *arguments) -> None:
        if self._pool is None:
            wp.launch(kernel, count, [0, *arguments], device=self.where, stream=self._stream)
            return
        step = max(ROWS, -(-count // cores()))
        starts = range(0, count, step)
        if len(starts) <= 1:
            wp.launch(kernel, count, [0, *arguments], device="cpu")
            return
        work = [
            self._pool.submit(wp.launch, kernel, min(step, count - start), [start, *arguments], device="cpu")
            for start in starts
        ]
        for each in work:
            each.result()


@wp.kernel
def diagonal(
    start: wp.int32,
    first: wp.array[wp.int32],
    incident: wp.array[wp.int32],
    cot: wp.array2d[wp.float32],
    out: wp.array[wp.float32],
):
    """Diagonal of the Laplacian; see laplace."""
    i = start + wp.tid()
    total = wp.float32(0.0)
    for k in range(first[i], first[i + 1]):
        c = incident[k]
        f = c // 3
        j = c - 3 * f
        total += cot[f, (j + 1) % 3] + cot[f, (j + 2) % 3]
    out[i] = total


@wp.kernel
def laplace(
    start: wp.int32,
    first: wp.array[wp.int32],
    incident: wp.array[wp.int32],
    faces: wp.array[wp.vec3i],
    cot: wp.array2d[wp.float32],
    still: wp.float32,
    u: wp.array[wp.vec2],
    out: wp.array[wp.vec2],
):
    """The cotangent Laplacian, its diagonal times 1 + still, times u: vertex by vertex over its corners (3 * face +
    corner)."""
    i = start + wp.tid()
    total = wp.vec2(0.0, 0.0)
    here = u[i]
    for k in range(first[i], first[i + 1]):
        c = incident[k]
        f = c // 3
        j = c - 3 * f
        n = (j + 1) % 3
        m = (j + 2) % 3
        v = faces[f]
        total += cot[f, m] * (here - u[v[n]]) + cot[f, n] * (here - u[v[m]])
        total += still * (cot[f, m] + cot[f, n]) * here
    out[i] = total


@wp.kernel
def rotate(
    start: wp.int32,
    faces: wp.array[wp.vec3i],
    rest: wp.array2d[wp.vec2],
    cot: wp.array2d[wp.float32],
    u: wp.array[wp.vec2],
    pull: wp.array2d[wp.vec2],
):
    """The local step: the rotation nearest to how a face now lies, and what the rotated face asks of its corners."""
    f = start + wp.tid()
    v = faces[f]
    a = wp.float32(0.0)
    b = wp.float32(0.0)
    for k in range(3):
        n = (k + 1) % 3
        w = cot[f, (k + 2) % 3]
        now = u[v[n]] - u[v[k]]
        x = rest[f, n] - rest[f, k]
        a += w * (now[0] * x[0] + now[1] * x[1])
        b += w * (now[1] * x[0] - now[0] * x[1])
    size = wp.sqrt(a * a + b * b)
    if size > 0.0:
        a /= size
        b /= size
    else:
        a = wp.float32(1.0)
        b = wp.float32(0.0)
    for k in range(3):
        n = (k + 1) % 3
        m = (k + 2) % 3
        x = cot[f, m] * (rest[f, k] - rest[f, n]) + cot[f, n] * (rest[f, k] - rest[f, m])
        pull[f, k] = wp.vec2(a * x[0] - b * x[1], b * x[0] + a * x[1])


@wp.kernel
def gather(
    start: wp.int32,
    first: wp.array[wp.int32],
    incident: wp.array[wp.int32],
    pull: wp.array2d[wp.vec2],
    out: wp.array[wp.vec2],
):
    i = start + wp.tid()
    total = wp.vec2(0.0, 0.0)
    for k in range(first[i], first[i + 1]):
        c = incident[k]
        f = c // 3
        total += pull[f, c - 3 * f]
    out[i] = total


@wp.kernel
def boxes(
    start: wp.int32,
    turns: wp.int32,
    first: wp.array[wp.int32],
    points: wp.array[wp.vec2d],
    directions: wp.array[wp.vec2d],
    low: wp.array2d[wp.vec2d],
    high: wp.array2d[wp.vec2d],
):
    """The box round points first[c] .. first[c + 1] - 1 after turning them so that a direction becomes the x axis."""
    i = start + wp.tid()
    c = i // turns
    k = i - c * turns
    d = directions[k]
    least = wp.vec2d(wp.float64(1e300), wp.float64(1e300))
    most = -least
    for j in range(first[c], first[c + 1]):
        p = points[j]
        q = wp.vec2d(d[0] * p[0] + d[1] * p[1], d[0] * p[1] - d[1] * p[0])
        least = wp.min(least, q)
        most = wp.max(most, q)
    low[c, k] = least
    high[c, k] = most


@wp.func
def crossing(a: wp.vec2d, b: wp.vec2d, y: wp.float64):
    """x of the edge a-b, a its lower end, at height y: the same numbers as raster.rasterise."""
    height = b[1] - a[1]
    t = wp.float64(0.0)
    if height > wp.float64(0.0):
        t = (y - a[1]) / height
    return a[0] + t * (b[0] - a[0])


@wp.func
def covered_span(a: wp.vec2d, b: wp.vec2d, c: wp.vec2d, y: wp.float64):
    """Least and greatest x of a triangle, its corners from the lowest to the highest, at height y."""
    one = crossing(a, c, y)
    other = crossing(a, b, y)
    if y >= b[1]:
        other = crossing(b, c, y)
    return wp.vec2d(wp.min(one, other), wp.max(one, other))


@wp.kernel
def draw(
    start: wp.int32,
    mode: wp.int32,
    faces: wp.array[wp.vec3i],
    points: wp.array[wp.vec2d],
    labels: wp.array[wp.int32],
    low: wp.array[wp.vec2i],
    sizes: wp.array[wp.vec2i],
    offset: wp.array[wp.int64],
    owner: wp.array[wp.int32],
    flags: wp.array[wp.uint8],
    turned: wp.array[wp.uint8],
):
    """Scan-converts faces as raster.rasterise does, each into the box of its chart.

    Texel (column x, row y) of chart c stands at offset[c] + (y - low) * width + (x - low). Mode CLAIM: owner = face at
    covered texels, the last to write stays. FIND: flags = 1 for the owner of a covered texel and the face, if these are
    two (no thread counts: on a CPU Warp has no atomics). MARK: flags = 1 at texels that are covered, or would be if
    corners were rounded, and at the texel of the face's centroid; `turned` the same after a quarter turn (x, y) ->
    (height - 1 - y, x).
    """
    f = start + wp.tid()
    v = faces[f]
    label = labels[f]
    x0 = low[label][0]
    y0 = low[label][1]
    width = wp.int64(sizes[label][0])
    height = wp.int64(sizes[label][1])
    base = offset[label]
    a = points[v[0]]
    b = points[v[1]]
    c = points[v[2]]
    if mode == MARK:
        third = wp.float64(1.0) / wp.float64(3.0)
        x = wp.int64(wp.int32(wp.round((a[0] + b[0] + c[0]) * third)) - x0)
        y = wp.int64(wp.int32(wp.round((a[1] + b[1] + c[1]) * third)) - y0)
        flags[base + y * width + x] = wp.uint8(1)
        turned[base + x * height + height - wp.int64(1) - y] = wp.uint8(1)
    if b[1] < a[1]:
        swap = a
        a = b
        b = swap
    if c[1] < b[1]:
        swap = b
        b = c
        c = swap
    if b[1] < a[1]:
        swap = a
        a = b
        b = swap
    slack = wp.float64(0.0)
    if mode == MARK:
        slack = wp.float64(SLACK)
    for row in range(wp.int32(wp.ceil(a[1] - slack)), wp.int32(wp.ceil(c[1] + slack))):
        level = wp.float64(row)
        span = covered_span(a, b, c, level)
        if mode == MARK:
            below = covered_span(a, b, c, wp.clamp(level - slack, a[1], c[1]))
            above = covered_span(a, b, c, wp.clamp(level + slack, a[1], c[1]))
            if level < a[1] or level > c[1]:
                span = below
            if wp.abs(b[1] - level) <= slack:  # a corner between the three heights
                below = wp.vec2d(wp.min(below[0], b[0]), wp.max(below[1], b[0]))
            span[0] = wp.min(span[0], wp.min(below[0], above[0])) - slack
            span[1] = wp.max(span[1], wp.max(below[1], above[1])) + slack
        y = wp.int64(row - y0)
        for column in range(wp.int32(wp.ceil(span[0])), wp.int32(wp.ceil(span[1]))):
            x = wp.int64(column - x0)
            at = base + y * width + x
            if mode == CLAIM:
                owner[at] = f
            elif mode == FIND:
                if owner[at] != f:
                    flags[owner[at]] = wp.uint8(1)
                    flags[f] = wp.uint8(1)
            else:
                flags[at] = wp.uint8(1)
                turned[base + x * height + height - wp.int64(1) - y] = wp.uint8(1)


@wp.func
def turn_run(run: wp.vec3i, turn: wp.int32, width: wp.int32, height: wp.int32):
    """A run (row, first column, end) of turn 0 or 1 as it lies in that turn or, half a turn on, in turn 2 or 3."""
    if turn < 2:
        return run
    return wp.vec3i(height - 1 - run[0], width - run[2], width - run[1])


@wp.func
def leftmost(
    runs: wp.array[wp.vec3i],
    head: wp.int32,
    tail: wp.int32,
    turn: wp.int32,
    width: wp.int32,
    height: wp.int32,
    y: wp.int32,
    margin: wp.int32,
    last: wp.array2d[wp.int16],
):
    """The first column at which a chart's runs head .. tail - 1 are all free when its lowest row is y; -1 for none."""
    end = last.shape[0] - margin - width
    x = wp.int32(margin)
    passed = wp.int32(0)
    i = wp.int32(head)
    while passed < tail - head and x <= end:
        run = turn_run(runs[i], turn, width, height)
        taken = wp.int32(last[y + run[0], x + run[2] - 1])
        if taken >= x + run[1]:  # right behind what is in the way
            x = taken + 1 - run[1]
            passed = wp.int32(0)
        else:
            passed += 1
            i += 1
            if i == tail:
                i = wp.int32(head)
    if x > end:
        x = wp.int32(-1)
    return x


@wp.kernel
def place(
    begin: wp.int32,
    end: wp.int32,
    order: wp.array[wp.int32],
    sizes: wp.array[wp.vec2i],
    first: wp.array2d[wp.int32],
    runs: wp.array[wp.vec3i],
    halo: wp.array[wp.vec2i],
    margin: wp.int32,
    last: wp.array2d[wp.int16],
    widest: wp.array[wp.int32],
    hint: wp.array2d[wp.int32],
    grain: wp.int32,
    found: wp.array[wp.vec3i],
    failed: wp.array[wp.int32],
):
    """Put charts order[begin:end], one after another, each as low as it goes in one of four turns, then as far left.

    sizes [C]: width, height of turn 0. first [2, C + 1]: where each chart's runs begin, of turn 0 and of turn 1.
    runs: (row, first column, end), the longest of a chart first. halo: (row, half width) of the disk that is taken with
    each texel. margin: texels to keep free along the texture's border.
    last [S, S]: the last taken column up to here, -1 for none. widest [S]: no free run of a row is longer. hint: the
    row to look from, for small charts by width and height in units of `grain` texels. found [C]: column, row, turn.
    failed: 1 if one did not fit.
    """
    size = last.shape[0]
    gap = halo.shape[0] // 2
    known = hint.shape[0] * grain  # texels: charts below look up where to begin
    for k in range(begin, end):
        chart = order[k]
        top = size - margin + 1
        best = wp.vec3i(-1, -1, -1)
        for turn in range(4):
            odd = turn % 2
            w = sizes[chart][odd]
            h = sizes[chart][1 - odd]
            head = first[odd, chart]
            longest = turn_run(runs[head], turn, w, h)
            stride = 1 + h // STRIDE
            y = wp.int32(margin)
            if w < known and h < known:
                y = wp.max(y, hint[w // grain, h // grain])
            while y + h < top:
                x = wp.int32(-1)
                if widest[y + longest[0]] >= longest[2] - longest[1]:
                    x = leftmost(runs, head, first[odd, chart + 1], turn, w, h, y, margin, last)
                if x < 0:
                    y += stride
                    continue
                lower = wp.int32(x)
                step = wp.int32(0)  # rows were skipped: down again as far as it goes
                while lower >= 0:
                    x = lower
                    y -= step
                    step = wp.int32(1)
                    lower = wp.int32(-1)
                    if stride > 1 and y > margin:
                        lower = leftmost(runs, head, first[odd, chart + 1], turn, w, h, y - 1, margin, last)
                best = wp.vec3i(x, y, turn)
                top = y + h
                if w < known and h < known:
                    hint[w // grain, h // grain] = y
                break
        found[chart] = best
        if best[2] < 0:
            failed[0] = 1
            break
        turn = best[2]
        odd = turn % 2
        w = sizes[chart][odd]
        h = sizes[chart][1 - odd]
        for i in range(first[odd, chart], first[odd, chart + 1]):
            run = turn_run(runs[i], turn, w, h)
            for j in range(halo.shape[0]):
                row = best[1] + run[0] + halo[j][0]
                if row >= 0 and row < size:
                    for x in range(
                        wp.max(best[0] + run[1] - halo[j][1], 0), wp.min(best[0] + run[2] + halo[j][1], size)
                    ):
                        last[row, x] = wp.int16(x)
        left = wp.max(best[0] - gap, 0)
        right = best[0] + w + gap
        for row in range(wp.max(best[1] - gap, 0), wp.min(best[1] + h + gap, size)):
            current = wp.int32(-1)
            if left > 0:
                current = wp.int32(last[row, left - 1])
            x = wp.int32(left)
            while x < size:
                if wp.int32(last[row, x]) == x:
                    current = x
                    if x >= right:
                        break
                else:
                    last[row, x] = wp.int16(current)
                x += 1
            if w >= WIDE:
                free = wp.int32(0)
                current = wp.int32(-1)
                for x in range(size):
                    if wp.int32(last[row, x]) == x:
                        free = wp.max(free, x - current - 1)
                        current = x
                widest[row] = wp.max(free, size - current - 1)
