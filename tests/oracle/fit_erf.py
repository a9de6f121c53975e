"""Fits the coefficients `ERF` of the package: erf(x) / x as a quotient P(u) / Q(u) of polynomials in u = x^2.

    python tests/oracle/fit_erf.py           # needs mpmath; some seconds

The fit minimizes the largest relative error on [0, limit]; at the limit erf rounds to 1. P - Q erf(x) / x is
linear in the coefficients, so each round is a least-squares problem. Each round has new weights: the last Q,
which makes the residual the relative error, and Lawson's weights, which grow where that error is large,
until all peaks are equal.
"""

from __future__ import annotations

import mpmath as mp

FITS = {"float32": (3.95, 5), "float64": (5.9, 12)}  # limit, degree of P and Q
Coefficients = tuple[float, ...]


def fit(limit: float, degree: int, rounds: int = 12) -> tuple[Coefficients, Coefficients, float]:
    """Return P and Q, highest power first, Q ending in 1, and the largest relative error before rounding."""
    with mp.workdps(60):
        n = 8 * (degree + 1)
        xs = [mp.mpf(limit) * (1 - mp.cos(mp.pi * (i + mp.mpf(0.5)) / n)) / 2 for i in range(n)]
        us, target = [x * x for x in xs], [mp.erf(x) / x for x in xs]
        powers = mp.matrix([[(u / mp.mpf(limit) ** 2) ** j for j in range(degree + 1)] for u in us])
        by_q, by_error = [mp.mpf(1)] * n, [mp.mpf(1)] * n
        best = mp.inf
        for _ in range(rounds):
            rows, right = mp.matrix(n, 2 * degree + 1), mp.matrix(n, 1)
            for i in range(n):
                weight = mp.sqrt(by_error[i]) * by_q[i]
                right[i] = weight
                for j in range(degree + 1):
                    rows[i, j] = weight * powers[i, j] / target[i]
                    if j > 0:
                        rows[i, degree + j] = -weight * powers[i, j]
            solution = list(mp.qr_solve(rows, right)[0])
            p, q = (
                [c / mp.mpf(limit) ** (2 * j) for j, c in enumerate(part)][::-1]
                for part in (solution[: degree + 1], [1, *solution[degree + 1 :]])
            )
            errors = [abs(mp.polyval(p, u) / mp.polyval(q, u) / f - 1) for u, f in zip(us, target)]
            if max(errors) < best:
                best, result = max(errors), (p, q)
            by_q = [1 / abs(mp.polyval(q, u)) for u in us]
            by_error = [w * (e / max(errors) + mp.mpf("1e-3")) for w, e in zip(by_error, errors)]
        return *(tuple(map(float, part)) for part in result), float(best)


def main() -> None:
    for dtype, (limit, degree) in FITS.items():
        p, q, error = fit(limit, degree)
        print(f'np.dtype("{dtype}"): ({limit}, {p}, {q}),  # {error:.1e}')


if __name__ == "__main__":
    main()
