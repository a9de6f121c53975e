"""The kernels against the standard library and exact products."""

import math
from contextlib import contextmanager

import numpy as np
import pytest
from floats import dtypes, exactly, over_the_range, units
from hypothesis import given
from hypothesis import strategies as st

from minivideococa.model import kernels, ops

# erf


@dtypes
def test_erf_is_the_error_function(dtype):
    x = over_the_range(dtype)
    got = kernels.erf(x)
    assert got.dtype == dtype
    assert units(got, exactly(math.erf, x), dtype).max() <= 6


@dtypes
@given(data=st.data())
def test_erf_of_any_number(dtype, data):
    x = data.draw(st.floats(width=np.finfo(dtype).bits, allow_nan=False))
    got = kernels.erf(np.array([x], dtype))
    assert units(got, np.array([math.erf(x)]), dtype).max() <= 6


@dtypes
def test_erf_is_odd(dtype):
    x = over_the_range(dtype)
    np.testing.assert_array_equal(kernels.erf(-x), -kernels.erf(x))


@dtypes
def test_erf_ends_at_one(dtype):
    eps = np.finfo(dtype).eps
    ends = kernels.erf(np.array([np.inf, -np.inf, 30, -30], dtype))
    np.testing.assert_allclose(ends, [1, -1, 1, -1], rtol=5 * eps)
    assert np.abs(kernels.erf(over_the_range(dtype))).max() <= 1 + 5 * eps


@dtypes
def test_erf_of_not_a_number_is_none(dtype):
    assert np.isnan(kernels.erf(np.array([np.nan], dtype))).all()


@dtypes
def test_erf_of_tiny_numbers_keeps_their_digits(dtype):
    root = math.sqrt(np.finfo(dtype).eps)  # below it the next term, x^2 / 3, is no digit
    x = np.geomspace(float(np.finfo(dtype).tiny) * 8, root, 500).astype(dtype)
    assert units(kernels.erf(x), 2 / math.sqrt(math.pi) * x.astype(np.float64), dtype).max() <= 5


# Matrix products


@contextmanager
def limits(**sizes):
    """Other values of the limits in `kernels`: FEW, MANY, PART, CACHED, BLOCK."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(kernels, name, size)
        yield


def laid_out(x, how):
    """The same numbers in another order of memory."""
    if how == "F":
        return np.asfortranarray(x)
    if how == "strided":
        wide = np.zeros((2 * x.shape[0], 3 * x.shape[1]), x.dtype)
        wide[::2, ::3] = x
        return wide[::2, ::3]
    return x[::-1].copy()[::-1] if how == "reversed" else x


layouts = st.sampled_from(["C", "F", "strided", "reversed"])
products = [
    lambda *p: kernels.matmul(*p),
    lambda *p: kernels._row_by_row(*p),
    lambda *p: kernels._in_parts(*p),
]


@dtypes
@given(
    n=st.tuples(*[st.integers(1, 12)] * 3),
    how=st.tuples(layouts, layouts),
    few=st.integers(0, 6),
    many=st.integers(0, 12),
    part=st.integers(1, 13),
    piece=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_all_ways_to_multiply(dtype, n, how, few, many, part, piece, seed):
    """Of whole numbers, so that sums are exact in any order: all give the product and leave their inputs."""
    R, n_in, n_out = n
    rng = np.random.default_rng(seed)
    rows, weight = (
        laid_out(rng.integers(-9, 10, shape).astype(dtype), layout)
        for shape, layout in zip([(R, n_in), (n_out, n_in)], how)
    )
    before = rows.copy(), weight.copy()
    want = [[sum(a * b for a, b in zip(row, out)) for out in weight.tolist()] for row in rows.tolist()]
    with limits(FEW=few, MANY=many, PART=part, CACHED=piece):
        results = [multiply(rows, weight) for multiply in products]
    for got in results:
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, want)
        assert not np.shares_memory(got, rows) and not np.shares_memory(got, weight)
        got[:] = 0  # may be written to
    np.testing.assert_array_equal(rows, before[0])
    np.testing.assert_array_equal(weight, before[1])


@pytest.mark.parametrize(
    "few, many, used",
    [
        (0, 0, None),
        (5, 6, None),
        (5, 7, "_in_parts"),
        (0, 9, "_in_parts"),
        (6, 9, "_row_by_row"),
        (6, 6, "_row_by_row"),
    ],
)
def test_which_product_is_used(monkeypatch, few, many, used):
    """Up to FEW rows row by row, from MANY on at once, between them in parts; leading axes count as rows."""
    called = []
    for name in ("_row_by_row", "_in_parts"):
        monkeypatch.setattr(
            kernels, name, lambda rows, weight, name=name: called.append(name) or rows @ weight.T
        )
    x, weight, bias = np.arange(24.0).reshape(2, 3, 4), np.arange(20.0).reshape(5, 4), np.arange(5.0)
    with limits(FEW=few, MANY=many):
        got = kernels.matmul(x, weight, bias)
    np.testing.assert_array_equal(got, np.einsum("abi,oi->abo", x, weight) + bias)
    assert called == [used] * (used is not None)
    np.testing.assert_array_equal(bias, np.arange(5.0))


@dtypes
@pytest.mark.parametrize("R", [1, kernels.FEW, kernels.FEW + 1, kernels.MANY - 1, kernels.MANY])
@pytest.mark.parametrize("n_in", [kernels.PART - 1, kernels.PART, 2 * kernels.PART + 3])
def test_matmul_around_its_limits(dtype, R, n_in):
    rng = np.random.default_rng(R + n_in)
    rows, weight = (rng.integers(-9, 10, shape).astype(dtype) for shape in ((R, n_in), (6, n_in)))
    np.testing.assert_array_equal(kernels.matmul(rows, weight), rows.astype(int) @ weight.astype(int).T)


# Row-wise formulas


@dtypes
@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=3), block=st.integers(1, 12))
def test_blockwise(dtype, shape, block):
    """Each row is computed once, in blocks of rows that are small enough; the input stays as it was."""
    x, sizes = np.random.default_rng(block).standard_normal(shape).astype(dtype), []

    @kernels.blockwise
    def centered(x):
        sizes.append(x.size)
        return x - x.mean(axis=-1, keepdims=True)

    want, before = x - x.mean(axis=-1, keepdims=True), x.copy()
    with limits(BLOCK=block):
        got = centered(x)
    assert got.dtype == dtype and got.shape == x.shape and sum(sizes) == x.size
    assert max(sizes) <= max(2 * block, shape[-1])
    # not bit for bit: the last numbers of a vector may be computed by other instructions
    np.testing.assert_allclose(got, want, atol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(x, before)


@dtypes
@pytest.mark.parametrize("name", ["gelu", "quick_gelu", "softmax"])
def test_formulas_blockwise(dtype, name):
    x = np.random.default_rng(0).standard_normal((5, 7)).astype(dtype)
    want = getattr(ops, name)(x)
    with limits(BLOCK=4):
        got = getattr(ops, name)(x)
    np.testing.assert_allclose(got, want, rtol=4 * np.finfo(dtype).eps)
