"""Kernels of the sumchecks: tables of `eq`, layers of the tree, rounds and folds.

An array over `F` has shape `(n, 2)`. Variables are bound from the most significant bit of the index
on, so a pair of entries is `i` and `i + n/2`, and a folded table is the front half of its array.
Every round kernel first binds the previous challenge (unless told that there is none), then sums.

They let go of the interpreter lock: a server goes on answering while it proves. They refuse
nothing: sizes are powers of two and arrays contiguous by the callers' care.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from verispect.proof.prover.kernels_field import (
    add,
    from_signed,
    multiply,
    multiply_extension,
    multiply_twice,
    subtract,
)


@njit(cache=True, nogil=True)
def eq_table(point: Any) -> Any:
    """Return `eq(point, x)` for all `x`, the point's first coordinate being the top bit."""
    count = point.shape[0]
    table = np.zeros((1 << count, 2), np.uint64)
    table[0, 0] = 1
    for k in range(count):
        a, b = point[k, 0], point[k, 1]
        for i in range((1 << k) - 1, -1, -1):
            x, y = table[i, 0], table[i, 1]
            p, q = multiply_extension(x, y, a, b)
            table[2 * i + 1, 0], table[2 * i + 1, 1] = p, q
            table[2 * i, 0], table[2 * i, 1] = subtract(x, p), subtract(y, q)
    return table


@njit(cache=True, nogil=True)
def outer(left: Any, right: Any) -> Any:
    """Return all products of an entry of `left` and one of `right`, row by row."""
    rows, columns = left.shape[0], right.shape[0]
    result = np.empty((rows * columns, 2), np.uint64)
    for i in range(rows):
        a, b = left[i, 0], left[i, 1]
        for j in range(columns):
            x, y = multiply_extension(a, b, right[j, 0], right[j, 1])
            result[i * columns + j, 0], result[i * columns + j, 1] = x, y
    return result


@njit(cache=True, nogil=True)
def add_scaled(target: Any, source: Any, factor: Any) -> None:
    """Add `factor` times `source` to `target`."""
    a, b = factor[0], factor[1]
    for i in range(source.shape[0]):
        x, y = multiply_extension(a, b, source[i, 0], source[i, 1])
        target[i, 0], target[i, 1] = add(target[i, 0], x), add(target[i, 1], y)


@njit(cache=True, nogil=True)
def fold(table: Any, size: int, r: Any) -> None:
    """Bind the first variable of the first `size` entries to `r`, in place."""
    half = size // 2
    a, b = r[0], r[1]
    for i in range(half):
        x, y = table[i, 0], table[i, 1]
        p, q = multiply_extension(
            subtract(table[i + half, 0], x), subtract(table[i + half, 1], y), a, b
        )
        table[i, 0], table[i, 1] = add(x, p), add(y, q)


# -- The tree (section 7) --------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def leaves(denominators: Any, first: Any, second: Any, base: Any, beta: Any) -> None:
    """Write `base - first - beta second` for integers; `second` may be empty."""
    a, b = beta[0], beta[1]
    pair = second.shape[0] > 0
    for i in range(first.shape[0]):
        x = subtract(base[0], from_signed(np.int64(first[i])))
        y = base[1]
        if pair:
            value = from_signed(np.int64(second[i]))
            x = subtract(x, multiply(a, value))
            y = subtract(y, multiply(b, value))
        denominators[i, 0], denominators[i, 1] = x, y


@njit(cache=True, nogil=True)
def layer_above(numerators: Any, denominators: Any, used: int, p: Any, q: Any) -> None:
    """Add fractions pairwise, the two halves of a layer, into the layer above.

    From `used` on all fractions are 0/1.
    """
    half = p.shape[0]
    paired = min(half, max(0, used - half))
    for i in range(paired):
        a, b = denominators[i, 0], denominators[i, 1]
        c, d = denominators[i + half, 0], denominators[i + half, 1]
        q[i, 0], q[i, 1] = multiply_extension(a, b, c, d)
        p[i, 0], p[i, 1] = multiply_twice(
            numerators[i, 0],
            numerators[i, 1],
            c,
            d,
            numerators[i + half, 0],
            numerators[i + half, 1],
            a,
            b,
        )
    p[paired:] = numerators[paired:half]
    q[paired:] = denominators[paired:half]


@njit(cache=True, nogil=True)
def merge_numerators(p: Any, q: Any, m: Any) -> None:
    """Add `m q` to `p`, over the front half of a layer: one product fewer in every later step."""
    a, b = m[0], m[1]
    for i in range(p.shape[0] // 2):
        x, y = multiply_extension(a, b, q[i, 0], q[i, 1])
        p[i, 0], p[i, 1] = add(p[i, 0], x), add(p[i, 1], y)


@njit(inline="always")
def _bound(table: Any, i: int, step: int, a: Any, b: Any) -> Any:
    x, y = table[i, 0], table[i, 1]
    p, q = multiply_extension(
        subtract(table[i + step, 0], x), subtract(table[i + step, 1], y), a, b
    )
    return add(x, p), add(y, q)


@njit(cache=True, nogil=True)
def fraction_round(
    p: Any,
    q: Any,
    size: int,
    used: int,
    r: Any,
    bind: bool,
    high: Any,
    low: Any,
) -> Any:
    """Bind the previous challenge if told to; return what a round's quadratic sums to.

    `p` and `q` hold both halves of a layer, of which `size` entries each were in use, the
    numerators of the front half merged. Returned are the sums of `eq` times the quadratic at 0 and
    times its leading coefficient; `eq` is the outer product of `high` and `low`. In the back half
    all fractions from `used` on are 0/1.
    """
    half, width = p.shape[0] // 2, low.shape[0]
    e, f = r[0], r[1]
    if bind:
        size //= 2
    step = size // 2
    s0 = s1 = t0 = t1 = np.uint64(0)
    for i in range(high.shape[0]):
        u0 = u1 = v0 = v1 = np.uint64(0)
        for j in range(width):
            x = i * width + j
            y = half + x
            paired = x < used
            if bind:
                for at in (x, x + step):
                    k0, k1 = _bound(p, at, size, e, f)
                    p[at, 0], p[at, 1] = k0, k1
                    k0, k1 = _bound(q, at, size, e, f)
                    q[at, 0], q[at, 1] = k0, k1
                    if paired:
                        k0, k1 = _bound(p, half + at, size, e, f)
                        p[half + at, 0], p[half + at, 1] = k0, k1
                        k0, k1 = _bound(q, half + at, size, e, f)
                        q[half + at, 0], q[half + at, 1] = k0, k1
            a0, a1 = p[x, 0], p[x, 1]
            m0, m1 = low[j, 0], low[j, 1]
            if not paired:
                g0, g1 = multiply_extension(a0, a1, m0, m1)
                u0, u1 = add(u0, g0), add(u1, g1)
                continue
            b0, b1 = p[y, 0], p[y, 1]
            c0, c1 = q[x, 0], q[x, 1]
            d0, d1 = q[y, 0], q[y, 1]
            g0, g1 = multiply_twice(a0, a1, d0, d1, b0, b1, c0, c1)
            g0, g1 = multiply_extension(g0, g1, m0, m1)
            u0, u1 = add(u0, g0), add(u1, g1)
            a0, a1 = subtract(p[x + step, 0], a0), subtract(p[x + step, 1], a1)
            b0, b1 = subtract(p[y + step, 0], b0), subtract(p[y + step, 1], b1)
            c0, c1 = subtract(q[x + step, 0], c0), subtract(q[x + step, 1], c1)
            d0, d1 = subtract(q[y + step, 0], d0), subtract(q[y + step, 1], d1)
            g0, g1 = multiply_twice(a0, a1, d0, d1, b0, b1, c0, c1)
            g0, g1 = multiply_extension(g0, g1, m0, m1)
            v0, v1 = add(v0, g0), add(v1, g1)
        m0, m1 = high[i, 0], high[i, 1]
        u0, u1 = multiply_extension(u0, u1, m0, m1)
        v0, v1 = multiply_extension(v0, v1, m0, m1)
        s0, s1, t0, t1 = add(s0, u0), add(s1, u1), add(t0, v0), add(t1, v1)
    return s0, s1, t0, t1


@njit(cache=True, nogil=True)
def last_fractions(p: Any, q: Any, r: Any) -> Any:
    """Bind the last variable; return the four values left."""
    half = p.shape[0] // 2
    result = np.empty((4, 2), np.uint64)
    for k in range(2):
        result[k, 0], result[k, 1] = _bound(p, k * half, 1, r[0], r[1])
        result[2 + k, 0], result[2 + k, 1] = _bound(q, k * half, 1, r[0], r[1])
    return result


# -- Products of three tables (section 8) and of two (section 9) ----------------------------------


@njit(cache=True, nogil=True)
def triples_round(a: Any, b: Any, c: Any, size: int, r: Any, bind: bool) -> Any:
    """Bind three tables, of `size` entries, to `r` if told to; return the sums at 0, 2, 3."""
    e, f = r[0], r[1]
    if bind:
        size //= 2
        for i in range(size):
            x, y = _bound(a, i, size, e, f)
            a[i, 0], a[i, 1] = x, y
            x, y = _bound(b, i, size, e, f)
            b[i, 0], b[i, 1] = x, y
            x, y = _bound(c, i, size, e, f)
            c[i, 0], c[i, 1] = x, y
    step = size // 2
    sums = np.zeros((3, 2), np.uint64)
    for i in range(step):
        k = i + step
        a0, a1, b0, b1, c0, c1 = a[i, 0], a[i, 1], b[i, 0], b[i, 1], c[i, 0], c[i, 1]
        d0, d1 = subtract(a[k, 0], a0), subtract(a[k, 1], a1)
        e0, e1 = subtract(b[k, 0], b0), subtract(b[k, 1], b1)
        f0, f1 = subtract(c[k, 0], c0), subtract(c[k, 1], c1)
        for point in range(3):
            x, y = multiply_extension(a0, a1, b0, b1)
            x, y = multiply_extension(x, y, c0, c1)
            sums[point, 0], sums[point, 1] = add(sums[point, 0], x), add(sums[point, 1], y)
            # From 0 to 2 the tables move by twice their slope, then once more to 3.
            a0, a1 = add(a0, d0), add(a1, d1)
            b0, b1 = add(b0, e0), add(b1, e1)
            c0, c1 = add(c0, f0), add(c1, f1)
            if point == 0:
                a0, a1 = add(a0, d0), add(a1, d1)
                b0, b1 = add(b0, e0), add(b1, e1)
                c0, c1 = add(c0, f0), add(c1, f1)
    return sums[0, 0], sums[0, 1], sums[1, 0], sums[1, 1], sums[2, 0], sums[2, 1]


@njit(cache=True, nogil=True)
def sum_of_triples(a: Any, b: Any, c: Any) -> Any:
    """Return the sum of products of three."""
    s0 = s1 = np.uint64(0)
    for i in range(a.shape[0]):
        x, y = multiply_extension(a[i, 0], a[i, 1], b[i, 0], b[i, 1])
        x, y = multiply_extension(x, y, c[i, 0], c[i, 1])
        s0, s1 = add(s0, x), add(s1, y)
    return s0, s1


@njit(cache=True, nogil=True)
def inner_product(a: Any, b: Any) -> Any:
    """Return the sum of products."""
    s0 = s1 = np.uint64(0)
    for i in range(a.shape[0]):
        x, y = multiply_extension(a[i, 0], a[i, 1], b[i, 0], b[i, 1])
        s0, s1 = add(s0, x), add(s1, y)
    return s0, s1


@njit(cache=True, nogil=True)
def pairs_round(a: Any, b: Any, size: int, r: Any, bind: bool) -> Any:
    """Bind both tables (of `size` entries before) to `r` if told to; return the sums at 0 and 2.

    Both have shape `(count, n, 2)`; the sum goes over all `count` pairs of tables.
    """
    c, d = r[0], r[1]
    s0 = s1 = t0 = t1 = np.uint64(0)
    for k in range(a.shape[0]):
        u, v = a[k], b[k]
        left = size
        if bind:
            left //= 2
            for i in range(left):
                x, y = _bound(u, i, left, c, d)
                u[i, 0], u[i, 1] = x, y
                x, y = _bound(v, i, left, c, d)
                v[i, 0], v[i, 1] = x, y
        step = left // 2
        for i in range(step):
            a0, a1, b0, b1 = u[i, 0], u[i, 1], v[i, 0], v[i, 1]
            x, y = multiply_extension(a0, a1, b0, b1)
            s0, s1 = add(s0, x), add(s1, y)
            p0, p1, q0, q1 = u[i + step, 0], u[i + step, 1], v[i + step, 0], v[i + step, 1]
            a0, a1 = subtract(add(p0, p0), a0), subtract(add(p1, p1), a1)
            b0, b1 = subtract(add(q0, q0), b0), subtract(add(q1, q1), b1)
            x, y = multiply_extension(a0, a1, b0, b1)
            t0, t1 = add(t0, x), add(t1, y)
    return s0, s1, t0, t1
