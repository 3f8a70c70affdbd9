"""Kernels of the packing on NVIDIA Warp: charts put one after another into a texture whose taken texels are bits.

They run on a CPU only, each launch on one core. Variables that change in a loop are declared with a type, for Warp
takes a bare number as a constant.
"""
# No `from __future__ import annotations`: Warp reads the annotations as they are.

import warp as wp

from ...warp.launch import configure

configure(__name__)

STRIDE = wp.constant(12)  # rows skipped while a place is sought: one for so many rows of a chart's height
WIDE = wp.constant(16)  # texels: what narrower charts take does not change a row's widest free run much
NARROW = wp.constant(63)  # columns: 64 places of such a chart are looked at in two words
ALL = wp.constant(wp.uint64(0xFFFFFFFFFFFFFFFF))  # texels of a word


@wp.func_native("""
#if defined(__CUDA_ARCH__)
    return 63 - __clzll(word);
#else
    return 63 - __builtin_clzll(word);
#endif
""")
def highest(word: wp.uint64) -> int:
    """Number of the highest bit of a word that is not 0."""


@wp.func
def from_bit(column: wp.int32):
    """A column's bit in its word and all above."""
    return ALL << wp.uint64(column & 63)


@wp.func
def to_bit(column: wp.int32):
    """A column's bit in its word and all below."""
    return ALL >> wp.uint64(63 - (column & 63))


# In C++, as it is most of the packing's time, which so is a fifth shorter.
@wp.func_native("""
    const auto* words = taken.data + (long long)row * taken.shape[1];
    const int first = begin >> 6;
    int i = (end - 1) >> 6;
    auto word = words[i] & (~0ull >> (63 - ((end - 1) & 63)));
    while (i > first && !word)
        word = words[--i];
    if (i == first)
        word &= ~0ull << (begin & 63);
#if defined(__CUDA_ARCH__)
    return word ? (i << 6) + 63 - __clzll(word) : -1;
#else
    return word ? (i << 6) + 63 - __builtin_clzll(word) : -1;
#endif
""")
def last_taken(taken: wp.array2d[wp.uint64], row: wp.int32, begin: wp.int32, end: wp.int32) -> int:
    """The last taken column of a row in begin .. end - 1, -1 for none. taken: contiguous."""


@wp.func
def take(taken: wp.array2d[wp.uint64], row: wp.int32, begin: wp.int32, end: wp.int32):
    """Mark columns begin .. end - 1 of a row."""
    first = begin >> 6
    final = (end - 1) >> 6
    if first == final:
        taken[row, first] = taken[row, first] | (from_bit(begin) & to_bit(end - 1))
        return
    taken[row, first] = taken[row, first] | from_bit(begin)
    for i in range(first + 1, final):
        taken[row, i] = ALL
    taken[row, final] = taken[row, final] | to_bit(end - 1)


@wp.func
def widest_gap(taken: wp.array2d[wp.uint64], row: wp.int32):
    """Length of a row's longest free run."""
    widest = wp.int32(0)
    end = wp.int32(taken.shape[0])  # of the free run that is being measured, from the right
    for k in range(taken.shape[1]):
        i = taken.shape[1] - 1 - k
        word = taken[row, i]
        while word != wp.uint64(0):
            bit = highest(word)
            widest = wp.max(widest, end - (i << 6) - bit - 1)
            free = ~word & to_bit(bit)
            if free == wp.uint64(0):
                end = i << 6
                word = wp.uint64(0)
            else:
                bit = highest(free)
                end = (i << 6) + bit + 1
                word = word & to_bit(bit)
    return wp.max(widest, end)


@wp.func
def turn_run(run: wp.vec3i, turn: wp.int32, width: wp.int32, height: wp.int32):
    """A run (row, first column, end) of turn 0 or 1 as it lies in that turn or, half a turn on, in turn 2 or 3."""
    if turn < 2:
        return run
    return wp.vec3i(height - 1 - run[0], width - run[2], width - run[1])


# In C++ for its pairs of words. A row of 2048 texels that is full takes a quarter of the time that going from one taken
# texel to the next does.
@wp.func_native("""
    const int words = taken.shape[1];
    const int final = (end >> 6) + 1;
    for (int i = begin >> 6; i < final; ++i) {
        unsigned long long blocked = i == begin >> 6 ? ~(~0ull << (begin & 63)) : 0ull;
        if (i == end >> 6)
            blocked |= (end & 63) == 63 ? 0ull : ~0ull << ((end & 63) + 1);
        for (int k = head; k < tail && ~blocked; ++k) {
            const auto& run = runs.data[k];
            const int row = turn < 2 ? run[0] : height - 1 - run[0];
            const int from = turn < 2 ? run[1] : width - run[2];
            const int length = run[2] - run[1];
            const auto* line = taken.data + (long long)(y + row) * words;
            const unsigned long long one = line[i];
            const unsigned long long two = i + 1 < words ? line[i + 1] : 0ull;
            const unsigned long long three = i + 2 < words ? line[i + 2] : 0ull;
            // What is taken at column `from` of a chart at each of these columns, and at the next 64
            unsigned long long low = from ? one >> from | two << (64 - from) : one;
            unsigned long long high = from ? two >> from | three << (64 - from) : two;
            int reach = 1;
            while (reach < length) {
                const int step = reach < length - reach ? reach : length - reach;
                low |= low >> step | high << (64 - step);
                high |= high >> step;
                reach += step;
            }
            blocked |= low;
        }
        if (~blocked) {
#if defined(__CUDA_ARCH__)
            return (i << 6) + __ffsll(~blocked) - 1;
#else
            return (i << 6) + __builtin_ctzll(~blocked);
#endif
        }
    }
    return -1;
""")
def leftmost_narrow(
    runs: wp.array[wp.vec3i],
    head: wp.int32,
    tail: wp.int32,
    turn: wp.int32,
    width: wp.int32,
    height: wp.int32,
    y: wp.int32,
    begin: wp.int32,
    end: wp.int32,
    taken: wp.array2d[wp.uint64],
) -> int:
    """As leftmost, for charts of less than 64 columns, at columns begin .. end: 64 at once."""


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
    taken: wp.array2d[wp.uint64],
):
    """The first column at which a chart's runs head .. tail - 1 are all free when its lowest row is y; -1 for none."""
    end = taken.shape[0] - margin - width
    if width <= NARROW and end >= margin:
        return leftmost_narrow(runs, head, tail, turn, width, height, y, margin, end, taken)
    x = wp.int32(margin)
    passed = wp.int32(0)
    i = wp.int32(head)
    while passed < tail - head and x <= end:
        run = turn_run(runs[i], turn, width, height)
        last = last_taken(taken, y + run[0], x + run[1], x + run[2])
        if last >= 0:  # right behind what is in the way
            x = last + 1 - run[1]
            passed = wp.int32(0)
        else:
            passed += 1
            i += 1
            if i == tail:
                i = wp.int32(head)
    if x > end:
        x = wp.int32(-1)
    return x


@wp.func
def lowest_place(
    runs: wp.array[wp.vec3i],
    head: wp.int32,
    tail: wp.int32,
    turn: wp.int32,
    width: wp.int32,
    height: wp.int32,
    start: wp.int32,
    top: wp.int32,
    margin: wp.int32,
    taken: wp.array2d[wp.uint64],
    widest: wp.array[wp.int32],
):
    """The lowest row from `start` on, and the first column there, at which a chart is free and ends below `top`;
    column -1 for none."""
    longest = turn_run(runs[head], turn, width, height)
    stride = 1 + height // STRIDE
    y = wp.int32(start)
    found = wp.vec2i(-1, -1)
    while y + height < top:
        x = wp.int32(-1)
        if widest[y + longest[0]] >= longest[2] - longest[1]:
            x = leftmost(runs, head, tail, turn, width, height, y, margin, taken)
        if x < 0:
            y += stride
            continue
        found = wp.vec2i(x, y)
        while x >= 0 and stride > 1 and y > margin:  # rows were skipped: down again as far as it goes
            y -= 1
            x = leftmost(runs, head, tail, turn, width, height, y, margin, taken)
            if x >= 0:
                found = wp.vec2i(x, y)
        break
    return found


@wp.kernel
def place(
    begin: wp.int32,
    end: wp.int32,
    turns: wp.int32,
    order: wp.array[wp.int32],
    sizes: wp.array[wp.vec2i],
    alike: wp.array2d[wp.int32],
    first: wp.array2d[wp.int32],
    runs: wp.array[wp.vec3i],
    halo: wp.array[wp.vec2i],
    margin: wp.int32,
    taken: wp.array2d[wp.uint64],
    widest: wp.array[wp.int32],
    hint: wp.array[wp.int32],
    found: wp.array[wp.vec3i],
    failed: wp.array[wp.int32],
):
    """Put charts order[begin:end], one after another, each as low as it goes in one of its turns, then as far left.

    turns: how many quarter turns to try, 2 or 4. sizes [C]: width, height of turn 0. alike [4, C]: the class, of
    each turn, of charts that are sought a place for from where the last of them was put on, and from the lowest row
    if there is none. first [2, C + 1]: where each chart's runs begin, of turn 0 and of turn 1. runs: (row, first
    column, end), the longest of a chart first. halo: (row, half width) of the disk that is taken with each texel.
    margin: texels to keep free along the texture's border. taken [S, W]: its texels, 64 to a word. widest [S]: no free
    run of a row is longer. hint: the row to look from, by class; S when the class is full. found [C]: column, row,
    turn; -1 for charts that do not fit. failed: 1 if there are such; others are then sought no second time.
    """
    size = taken.shape[0]
    gap = halo.shape[0] // 2
    for k in range(begin, end):
        chart = order[k]
        top = size - margin + 1
        best = wp.vec3i(-1, -1, -1)
        for attempt in range(2 * turns):
            turn = attempt % turns
            odd = turn % 2
            w = sizes[chart][odd]
            h = sizes[chart][1 - odd]
            kind = alike[turn, chart]
            start = wp.max(margin, hint[kind])
            if attempt >= turns:
                if best[2] >= 0 or start == margin or failed[0] > 0:
                    continue
                start = wp.int32(margin)
            head = first[odd, chart]
            tail = first[odd, chart + 1]
            at = lowest_place(runs, head, tail, turn, w, h, start, top, margin, taken, widest)
            if at[0] >= 0:
                best = wp.vec3i(at[0], at[1], turn)
                top = at[1] + h
                hint[kind] = at[1]
        found[chart] = best
        if best[2] < 0:
            failed[0] = 1
            hint[alike[0, chart]] = size
            hint[alike[1, chart]] = size
            continue
        odd = best[2] % 2
        w = sizes[chart][odd]
        h = sizes[chart][1 - odd]
        for i in range(first[odd, chart], first[odd, chart + 1]):
            run = turn_run(runs[i], best[2], w, h)
            for j in range(halo.shape[0]):
                row = best[1] + run[0] + halo[j][0]
                if row >= 0 and row < size:
                    left = wp.max(best[0] + run[1] - halo[j][1], 0)
                    take(taken, row, left, wp.min(best[0] + run[2] + halo[j][1], size))
        if w >= WIDE:
            for row in range(wp.max(best[1] - gap, 0), wp.min(best[1] + h + gap, size)):
                widest[row] = widest_gap(taken, row)
