"""Run one library call in a process of its own: `python worker.py JOB IN.npz OUT.npz`.

Started as a plain script (no package around it), because these libraries hold Python's lock for seconds
and one of them keeps its mesh in a global; the parent can kill this process at any time.
"""

import sys

import numpy as np

# Aggressiveness of fast-simplification on the unit box: low keeps the surface 4-9 times more accurately than its
# default (7) but may stop above the target, so each rung continues from the last.
LADDER = (2, 3, 4, 5, 7)
CHUNK_FACES = 8192


def simplify(vertices, faces, target):
    import fast_simplification

    target = int(target)
    low, size = vertices.min(0), np.ptp(vertices, axis=0).max()
    points = (vertices - low) / (size or 1)
    for keep_border in (True, False):  # open borders are given up only when nothing else is left to collapse
        for aggressiveness in LADDER:
            before = len(faces)
            if before <= target:
                break
            points, faces = fast_simplification.simplify(
                points, faces.astype(np.int32), target_count=target, agg=aggressiveness, preserve_border=keep_border
            )
            if keep_border and before - len(faces) < 0.1 * (before - target):
                break
    return {"vertices": (points * size + low).astype(np.float32), "faces": faces.astype(np.int32)}


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
        "utilisation": np.float64(atlas.utilization if np.isscalar(atlas.utilization) else atlas.get_utilization(0)),
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


if __name__ == "__main__":
    job, source, target = sys.argv[1:]
    with np.load(source) as arrays:
        result = {"simplify": simplify, "unwrap": unwrap}[job](**arrays)
    np.savez(target, **result)
