"""Run one library call in a process of its own: `python worker.py JOB [PIPE]`, arrays in by stdin and out by stdout.

Started as a plain script (no package around it), because these libraries hold Python's lock for seconds
and one of them keeps its mesh in a global; the parent can kill this process at any time.
"""

import json
import os
import signal
import struct
import sys
import threading


def end_with_parent(pipe):
    """Go on in a child process that is killed, with the whole process group, when a pipe closes: when the process that
    holds its other end is gone, however it ended. POSIX only.

    A thread of the working process would not do: libraries hold Python's lock while they work.
    """
    child = os.fork()
    if child == 0:
        return

    def wait_and_kill():
        os.read(pipe, 1)  # nobody writes: returns when the other end is closed
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait_and_kill, daemon=True).start()
    _, status = os.waitpid(child, 0)
    os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


if __name__ == "__main__" and len(sys.argv) > 2:  # before numpy: a fork copies no threads
    end_with_parent(int(sys.argv[2]))

import numpy as np  # noqa: E402

# Aggressiveness of fast-simplification on the unit box: low keeps the surface 4-9 times more accurately than its
# default (7) but may stop above the target, so each rung continues from the last.
LADDER = (2, 3, 4, 5, 7)
CHUNK_FACES = 8192


def simplify(vertices, faces, target_faces):
    import fast_simplification

    target_faces = int(target_faces)
    vertices = vertices.astype(np.float64)
    low, size = vertices.min(0), np.ptp(vertices, axis=0).max()
    points = (vertices - low) / (size or 1)
    for keep_border in (True, False):  # open borders are given up only when nothing else is left to collapse
        for aggressiveness in LADDER:
            before = len(faces)
            if before <= target_faces:
                break
            points, faces = fast_simplification.simplify(
                points,
                faces.astype(np.int32),
                target_count=target_faces,
                agg=aggressiveness,
                preserve_border=keep_border,
            )[:2]
            if keep_border and before - len(faces) < 0.1 * (before - target_faces):
                break
    return {"vertices": (points * size + low).astype(np.float32), "faces": faces.astype(np.int32)}


def simplify_parts(vertices, faces, vertex_ends, face_ends, targets, cut, low, size):
    """Parts of a mesh one after the other, each to its target, with all boundary edges kept. cut: [V] bool, vertices
    that other parts use, too. Returns the parts as they were given, with numbers instead of `cut`: [V'] int64, which
    vertex of its part a cut vertex was, -1 for others; and whether all of them were found again."""
    import fast_simplification

    found, complete, start, begin = [], True, 0, 0
    for end, last, target in zip(vertex_ends, face_ends, targets):
        given = points = (vertices[start:end].astype(np.float64) - low) / size
        corners = faces[begin:last]
        for aggressiveness in LADDER[:2]:  # what these cannot reach is left to the last pass over the whole
            if len(corners) <= target:
                break
            points, corners = fast_simplification.simplify(
                points, corners.astype(np.int32), target_count=int(target), agg=aggressiveness, preserve_border=True
            )[:2]
        number = _found_again(points, corners, given, np.flatnonzero(cut[start:end]))
        complete &= number is not None
        found.append((points * size + low, corners, number if complete else np.full(len(points), -1)))
        start, begin = end, last
    return {
        "vertices": np.concatenate([each[0] for each in found]).astype(np.float32),
        "faces": np.concatenate([each[1] for each in found]).astype(np.int32),
        "number": np.concatenate([each[2] for each in found]),
        "vertex_ends": np.cumsum([len(each[0]) for each in found]),
        "face_ends": np.cumsum([len(each[1]) for each in found]),
        "complete": np.bool_(complete),
    }


def _found_again(points, faces, given, wanted):
    """[len(points)] int64: which of the wanted rows of `given` a point is, -1 for none; None if they are not all there.

    They lie on boundary edges, did not move, and kept their order."""
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2).astype(np.int64), axis=1)
    key, uses = np.unique(edges[:, 0] * len(points) + edges[:, 1], return_counts=True)
    key = key[uses == 1]
    boundary = np.unique(np.concatenate([key // len(points), key % len(points)]))
    there = points[boundary].view("V24").reshape(-1)
    here = given[wanted].view("V24").reshape(-1)
    boundary = boundary[np.isin(there, here)]
    number = np.full(len(points), -1)
    order, places = (np.lexsort(each.T) for each in (given[wanted], points[boundary]))
    if len(order) != len(places) or not np.array_equal(given[wanted[order]], points[boundary[places]]):
        return None
    number[boundary[places]] = wanted[order]
    return number


def quads(vertices, faces, target):
    import pynanoinstantmeshes

    # the package makes quads of quads at last, four of each
    count = max(1, int(target) // 4)
    points, found = pynanoinstantmeshes.remesh(
        vertices.astype(np.float32),
        faces.astype(np.uint32),
        vertex_count=count,
        face_count=count,
        rosy=4,
        posy=4,
        creaseAngle=0.0,
        extrinsic=True,
        smooth_iter=2,
        knn_points=10,
        deterministic=True,
    )
    return {"vertices": np.array(points, np.float32), "quads": np.array(found, np.int32)}


def unwrap(vertices, faces, resolution, padding, chunk=CHUNK_FACES):
    import xatlas

    atlas = xatlas.Atlas()
    chunks = split_faces(vertices[faces].mean(1), int(chunk))
    used = []
    for chunk in chunks:
        own, local = np.unique(faces[chunk], return_inverse=True)
        used.append(own)
        atlas.add_mesh(vertices[own].astype(np.float32), local.reshape(-1, 3).astype(np.uint32))
    options = xatlas.PackOptions()
    options.resolution, options.padding, options.bilinear = int(resolution), int(padding), True
    atlas.generate(pack_options=options)
    source, new_faces, uvs, count = [], [], [], 0
    for i, own in enumerate(used):
        mapping, indices, uv = atlas.get_mesh(i)
        source.append(own[mapping])
        new_faces.append(indices.astype(np.int64) + count)
        uvs.append(uv)
        count += len(mapping)
    return {
        "source": np.concatenate(source).astype(np.int64),
        "faces": np.concatenate(new_faces).astype(np.int32),
        "uvs": np.concatenate(uvs).astype(np.float32),
        "charts": np.int64(atlas.chart_count),
        "utilisation": np.float64(atlas.get_utilization(0)),
    }


def split_faces(centres, limit):
    """Face indices in groups of at most `limit`, halved along the longest side of their box."""
    groups, stack = [], [np.arange(len(centres))]
    while stack:
        group = stack.pop()
        if len(group) <= limit:
            groups.append(np.sort(group))
            continue
        axis = np.ptp(centres[group], axis=0).argmax()
        order = group[np.argsort(centres[group, axis], kind="stable")]
        stack += [order[: len(order) // 2], order[len(order) // 2 :]]
    return groups


def write_arrays(file, arrays):
    """Names, dtypes and shapes as JSON behind its length (8 bytes), then the arrays' bytes: a pipe cannot seek, as npz
    files want."""
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    header = json.dumps([[name, array.dtype.str, array.shape] for name, array in arrays.items()]).encode()
    file.write(struct.pack("<Q", len(header)) + header)
    for array in arrays.values():
        file.write(array.reshape(-1).view(np.uint8).data)
    file.flush()


def read_arrays(file):
    """What write_arrays wrote. Raises EOFError if it ends early."""
    (length,) = struct.unpack("<Q", _read(file, np.empty(8, np.uint8)).tobytes())
    header = json.loads(_read(file, np.empty(length, np.uint8)).tobytes())
    return {name: _read(file, np.empty(shape, dtype)) for name, dtype, shape in header}


def _read(file, array):
    """Fill an array."""
    rest = memoryview(array.reshape(-1).view(np.uint8))
    while len(rest):
        count = file.readinto(rest)
        if not count:
            raise EOFError("the pipe was closed")
        rest = rest[count:]
    return array


if __name__ == "__main__":
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print belongs into the log
    jobs = {"simplify": simplify, "simplify_parts": simplify_parts, "quads": quads, "unwrap": unwrap}
    write_arrays(output, jobs[sys.argv[1]](**read_arrays(sys.stdin.buffer)))
