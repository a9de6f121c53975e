"""The operations against the standard library, high precision and plain loops."""

import math

import numpy as np
import pytest
from floats import dtypes, exactly, units
from hypothesis import given
from hypothesis import strategies as st

from minivideococa.model import kernels, ops
from minivideococa.model.transformer import mlp

# activations


def gelu_in_full(x):
    return x * math.erfc(-x / math.sqrt(2)) / 2  # erfc: no cancellation where x is far below 0


def quick_gelu_in_full(x):
    return x / (1 + math.exp(-1.702 * x)) if x > -400 else 0.0


@dtypes
@pytest.mark.parametrize("name", ["gelu", "quick_gelu"])
def test_activations(name, dtype):
    x = np.linspace(-30, 30, 12_001).astype(dtype)
    got = getattr(ops, name)(x)
    want = exactly({"gelu": gelu_in_full, "quick_gelu": quick_gelu_in_full}[name], x)
    assert got.dtype == dtype
    # 1 + erf cancels below 0: what is left there is an error of some eps of |x|, not of the result
    assert (np.abs(got - want) <= 5 * np.finfo(dtype).eps * np.abs(x)).all()
    positive = x > 0
    assert units(got[positive], want[positive], dtype).max() <= 8


@dtypes
@pytest.mark.parametrize("name", ["gelu", "quick_gelu"])
def test_activations_far_out(name, dtype):
    """Large x stays, large -x becomes 0 but for the rounding of erf, and nobody is warned of an overflow."""
    big, eps = np.array([1e4, 1e30], dtype), np.finfo(dtype).eps
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_allclose(getattr(ops, name)(big), big, rtol=4 * eps)
        assert (np.abs(getattr(ops, name)(-big)) <= 5 * eps * big).all()


def test_the_configuration_picks_the_activation():
    x = np.linspace(-3, 3, 7)
    identity = {name: {"weight": np.eye(7), "bias": np.zeros(7)} for name in ("c_fc", "c_proj")}
    np.testing.assert_array_equal(mlp(x, identity, True), ops.quick_gelu(x))
    np.testing.assert_array_equal(mlp(x, identity, False), ops.gelu(x))
    assert np.abs(ops.gelu(x) - ops.quick_gelu(x)).max() > 0.01


# linear, norm, unit length


@dtypes
def test_linear_multiplies_from_the_right_transposed(dtype):
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.standard_normal(s).astype(dtype) for s in [(2, 3, 5), (4, 5), (4,)])
    want = np.array(
        [
            [[sum(row[i] * out[i] for i in range(5)) for out in weight.astype(float)] for row in rows]
            for rows in x.astype(float)
        ]
    )
    for got, expected in [(ops.linear(x, weight), want), (ops.linear(x, weight, bias), want + bias)]:
        assert got.dtype == dtype and got.shape == (2, 3, 4)
        np.testing.assert_allclose(got, expected, atol=20 * np.finfo(dtype).eps)


@dtypes
def test_layer_norm(dtype):
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((3, 4, 9)) * 5 + 2).astype(dtype)
    weight, bias = rng.standard_normal((2, 9)).astype(dtype)
    want = np.empty(x.shape)
    for index in np.ndindex(3, 4):
        row = [float(v) for v in x[index]]
        mean = math.fsum(row) / 9
        variance = math.fsum((v - mean) ** 2 for v in row) / 9
        want[index] = [(v - mean) / math.sqrt(variance + 1e-5) * w + b for v, w, b in zip(row, weight, bias)]
    got = ops.layer_norm(x, weight, bias)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, atol=20 * np.finfo(dtype).eps)


@dtypes
def test_layer_norm_adds_eps_to_the_variance(dtype):
    x = (np.array([[-1, 1, -1, 1]]) * 1e-3).astype(dtype)  # a variance of 1e-6, a tenth of eps
    one, zero = np.ones(4, dtype), np.zeros(4, dtype)
    np.testing.assert_allclose(ops.layer_norm(x, one, zero), np.sign(x) / math.sqrt(11), rtol=1e-5)
    np.testing.assert_allclose(ops.layer_norm(x, one, zero, eps=3e-6), np.sign(x) / 2, rtol=1e-5)
    np.testing.assert_array_equal(ops.layer_norm(np.full((2, 4), 7, dtype), one, zero), np.zeros((2, 4)))


@dtypes
def test_layer_norm_far_from_zero(dtype):
    """The variance is that of the differences from the mean; E[x^2] - E[x]^2 would lose all digits here."""
    offset = dtype(1 / np.finfo(dtype).eps / 64)
    x = offset + np.arange(8, dtype=dtype)
    one, zero = np.ones(8, dtype), np.zeros(8, dtype)
    want = (np.arange(8) - 3.5) / math.sqrt(5.25 + 1e-5)
    np.testing.assert_allclose(ops.layer_norm(x, one, zero), want, rtol=0.05)


@dtypes
def test_unit_length(dtype):
    x = np.random.default_rng(2).standard_normal((3, 2, 6)).astype(dtype)
    got = ops.normalize(x)
    assert got.dtype == dtype
    for index in np.ndindex(3, 2):
        length = math.sqrt(math.fsum(float(v) ** 2 for v in x[index]))
        np.testing.assert_allclose(got[index], x[index].astype(float) / length, rtol=8 * np.finfo(dtype).eps)


# softmax


@dtypes
@given(data=st.data())
def test_softmax(dtype, data):
    row = st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3)
    x = np.array(data.draw(st.lists(row, min_size=1, max_size=4)), dtype)
    got = ops.softmax(x)
    assert got.dtype == dtype and got.shape == x.shape
    for row, p in zip(x.astype(float), got):
        top = max(row)
        powers = [math.exp(v - top) for v in row]
        # the float32 difference v - top is off by up to eps * 2e4 / 2: that much relative error, and no more
        tolerance = np.finfo(dtype).eps * (8 + 2 * np.abs(row).max())
        want = np.array(powers) / math.fsum(powers)
        np.testing.assert_allclose(p, want, rtol=tolerance, atol=np.finfo(dtype).tiny)
        assert abs(math.fsum(float(v) for v in p) - 1) <= 4 * np.finfo(dtype).eps


@dtypes
def test_softmax_of_huge_numbers(dtype):
    big = np.finfo(dtype).max / 4
    with np.errstate(over="raise", invalid="raise"):
        np.testing.assert_array_equal(ops.softmax(np.array([big, big, -big], dtype)), [0.5, 0.5, 0])
        np.testing.assert_array_equal(ops.softmax(np.array([-big, -big], dtype)), [0.5, 0.5])


@dtypes
def test_softmax_with_minus_infinity(dtype):
    got = ops.softmax(np.array([[0, -np.inf, 0], [-np.inf, 5, -np.inf]], dtype))
    np.testing.assert_array_equal(got, np.array([[0.5, 0, 0.5], [0, 1, 0]], dtype))


def test_softmax_leaves_its_input_alone():
    x = np.array([1.0, 2.0, 3.0])
    ops.softmax(x)
    np.testing.assert_array_equal(x, [1, 2, 3])


@dtypes
@given(data=st.data())
def test_log_softmax(dtype, data):
    row = st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3)
    x = np.array(data.draw(st.lists(row, min_size=1, max_size=4)), dtype)
    before, got = x.copy(), ops.log_softmax(x)
    assert got.dtype == dtype and got.shape == x.shape and not np.shares_memory(got, x)
    np.testing.assert_array_equal(x, before)
    for row, logs in zip(x.astype(float), got):
        top = max(row)
        want = row - top - math.log(math.fsum(math.exp(v - top) for v in row))
        np.testing.assert_allclose(logs, want, rtol=0, atol=np.finfo(dtype).eps * (4 + 2 * np.abs(row).max()))


@dtypes
def test_log_softmax_far_out(dtype):
    """Where softmax is 0 there are still digits; of -inf it is -inf; huge numbers do not overflow."""
    big = np.finfo(dtype).max / 4
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        np.testing.assert_array_equal(ops.log_softmax(np.array([0, -1e4], dtype)), [0, -1e4])
        np.testing.assert_array_equal(
            ops.log_softmax(np.array([[0, -np.inf], [-np.inf, 5]], dtype)), [[0, -np.inf], [-np.inf, 0]]
        )
        halves = ops.log_softmax(np.array([big, big], dtype))
        np.testing.assert_allclose(halves, [-math.log(2)] * 2, rtol=1e-6)


# attention


def attention_parameters(rng, width, context_width, dtype=np.float64, joined=False):
    """Weights under PyTorch's names; the same as a list of query, key, value weights, and their biases."""
    weights = [rng.standard_normal((width, n)).astype(dtype) for n in (width, context_width, context_width)]
    biases = rng.standard_normal((3, width)).astype(dtype)
    out = {
        "weight": rng.standard_normal((width, width)).astype(dtype),
        "bias": rng.standard_normal(width).astype(dtype),
    }
    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    parts = {"in_proj_weight": np.concatenate(weights)} if joined else dict(zip(names, weights))
    return parts | {"in_proj_bias": biases.ravel(), "out_proj": out}, weights, biases


def attend(x, context, p, heads, mask=None):
    """Attention of x to a context, both as they are."""
    return ops.attention(x, *ops.keys_and_values(context, p, heads), p, heads, mask)


def naive_attention(x, context, weights, biases, out, heads, visible):
    """One query, head and key at a time: x [L, E], context [M, C], visible(head, query, key) -> [L, E]."""
    (wq, wk, wv), (bq, bk, bv) = weights, biases
    size = len(wq) // heads
    result = []
    for i, asking in enumerate(x):
        together = []
        for head in range(heads):
            rows = slice(head * size, (head + 1) * size)
            q = wq[rows] @ asking + bq[rows]
            keys = [j for j in range(len(context)) if visible(head, i, j)]
            powers = [math.exp(q @ (wk[rows] @ context[j] + bk[rows]) / math.sqrt(size)) for j in keys]
            heard = sum(p * (wv[rows] @ context[j] + bv[rows]) for p, j in zip(powers, keys))
            together += list(heard / sum(powers))
        result.append(out["weight"] @ np.array(together) + out["bias"])
    return np.array(result)


@pytest.mark.parametrize(
    "heads, width, context_width, joined",
    [(1, 4, 4, True), (2, 6, 6, True), (3, 6, 5, False), (2, 4, 7, False), (4, 4, 4, True), (6, 6, 1, False)],
)
def test_attention(heads, width, context_width, joined):
    rng = np.random.default_rng(heads * 100 + width)
    p, weights, biases = attention_parameters(rng, width, context_width, joined=joined)
    x, context = rng.standard_normal((3, width)), rng.standard_normal((5, context_width))
    got = attend(x, context, p, heads)
    want = naive_attention(x, context, weights, biases, p["out_proj"], heads, lambda h, i, j: True)
    assert got.shape == (3, width)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5), (1, 3, 5), (2, 3, 5), (2, 1, 1, 5), (2, 2, 1, 3, 5)])
def test_attention_with_a_mask(shape):
    """A mask is broadcast to [..., heads, L, M], leading axes included."""
    rng = np.random.default_rng(len(shape))
    p, weights, biases = attention_parameters(rng, 4, 4, joined=True)
    leading = shape[:-3] if len(shape) > 3 else ()
    x, context = rng.standard_normal((*leading, 3, 4)), rng.standard_normal((*leading, 5, 4))
    mask = rng.random(shape) < 0.5
    mask[..., 0] = True  # everybody sees something
    got = attend(x, context, p, 2, mask)
    full = np.broadcast_to(mask, (*leading, 2, 3, 5))
    for index in np.ndindex(*leading):
        want = naive_attention(
            x[index],
            context[index],
            weights,
            biases,
            p["out_proj"],
            2,
            lambda h, i, j: full[(*index, h, i, j)],
        )
        np.testing.assert_allclose(got[index], want, rtol=1e-12, atol=1e-12)


def test_attention_of_many_to_one_context():
    """Leading axes broadcast: a batch of queries may share a context, and the other way round."""
    rng = np.random.default_rng(9)
    p, _, _ = attention_parameters(rng, 4, 5)
    x, context = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 6, 5))
    np.testing.assert_allclose(
        attend(x, context[0], p, 2), [attend(row, context[0], p, 2) for row in x], rtol=1e-12
    )
    np.testing.assert_allclose(
        attend(x[0], context, p, 2), [attend(x[0], one, p, 2) for one in context], rtol=1e-12
    )


@dtypes
def test_attention_takes_large_scores(dtype):
    """Scores of 1e6: the softmax must not overflow, and the best key takes all."""
    eye, zero = np.eye(2, dtype=dtype), np.zeros(2, dtype)
    p = {
        "in_proj_weight": np.concatenate([eye] * 3),
        "in_proj_bias": np.zeros(6, dtype),
        "out_proj": {"weight": eye, "bias": zero},
    }
    x = np.array([[1e3, 0], [0, 1e3]], dtype)
    with np.errstate(over="raise", invalid="raise"):
        np.testing.assert_array_equal(attend(x, x, p, 1), x)
        # and a key that is hidden stays so, however badly the visible one fits
        x = np.array([[1e3, 0], [-1e3, 0]], dtype)
        np.testing.assert_array_equal(attend(x, x, p, 1, ~np.eye(2, dtype=bool)), x[::-1])


@dtypes
def test_heads_are_slices_of_the_width(dtype):
    x = np.arange(2 * 3 * 6, dtype=dtype).reshape(2, 3, 6)
    heads = ops.split_heads(x, 2)
    assert heads.shape == (2, 2, 3, 3)
    np.testing.assert_array_equal(heads[1, 0, 2], x[1, 2, :3])
    np.testing.assert_array_equal(heads[1, 1, 2], x[1, 2, 3:])
    np.testing.assert_array_equal(ops.merge_heads(heads), x)


@dtypes
def test_the_dtype_stays(dtype):
    """No operation computes in another dtype than its input's: scalars must not raise float32 to float64."""
    rng = np.random.default_rng(3)
    x, weight, bias = (rng.standard_normal(s).astype(dtype) for s in [(3, 4), (4, 4), (4,)])
    p, _, _ = attention_parameters(rng, 4, 4, dtype, joined=True)
    separate, _, _ = attention_parameters(rng, 4, 4, dtype)
    results = [
        ops.linear(x, weight, bias),
        ops.layer_norm(x, bias, bias),
        kernels.erf(x),
        ops.gelu(x),
        ops.quick_gelu(x),
        ops.softmax(x),
        ops.log_softmax(x),
        ops.normalize(x),
        attend(x, x, p, 2),
        attend(x, x, separate, 2),
        attend(x, x, p, 2, np.tri(3, dtype=bool)),
    ]
    assert {r.dtype for r in results} == {np.dtype(dtype)}
