"""Union-find for kernels: members in trees with the smallest member as the root, and a parity for each.

An entry of `parent` is twice a member's parent, plus 1 if the two are of different parity; a root is its own parent.
Members are of equal parity throughout where nobody says otherwise. Threads of a GPU may unite at the same time.
"""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp


@wp.func
def find_root(parent: wp.array[wp.int32], member: wp.int32):
    """The root of a member, coded like an entry; halves the path."""
    at = member
    parity = wp.int32(0)
    up = parent[at]
    while up >> 1 != at:
        further = parent[up >> 1]
        up = further ^ (up & 1)
        parent[at] = up
        parity = parity ^ (up & 1)
        at = up >> 1
        up = parent[at]
    return 2 * at + parity


@wp.func
def peek_root(parent: wp.array[wp.int32], member: wp.int32):
    """find_root that changes nothing."""
    at = member
    parity = wp.int32(0)
    while parent[at] >> 1 != at:
        parity = parity ^ (parent[at] & 1)
        at = parent[at] >> 1
    return 2 * at + parity


@wp.func
def unite(parent: wp.array[wp.int32], i: wp.int32, j: wp.int32, differ: wp.int32):
    """Join the sets of two members, whose parities are to differ (1) or not (0). Returns 1 if they were one set before
    and contradict that, else 0."""
    a = find_root(parent, i)
    b = find_root(parent, j) ^ differ
    while a >> 1 != b >> 1:
        if a < b:
            a, b = b, a
        high = a >> 1
        old = wp.atomic_min(parent, high, b ^ (a & 1))
        if old == 2 * high:
            return 0
        # somebody else was faster: what was their root there and ours belong together
        a = find_root(parent, old >> 1) ^ (old & 1) ^ (a & 1)
        b = find_root(parent, b >> 1) ^ (b & 1)
    return (a ^ b) & 1
