"""Prints the polynomial coefficients of k_elementwise.inc.c (needs mpmath; run by hand).

Each fit minimises the largest error on an interval with Lawson's iteratively re-weighted least squares
(C. L. Lawson, 1961), in float64, on Chebyshev points; the coefficients are then rounded to float32.
"""

import mpmath
import numpy as np


def minimax(function, low, high, degree, weight=lambda x: np.ones_like(x), points=2000):
    """Coefficients [degree + 1], lowest power first, that nearly minimise max |weight * (p - function)|."""
    nodes = np.cos(np.pi * (np.arange(points) + 0.5) / points)
    x = (low + high) / 2 + (high - low) / 2 * nodes
    y = np.array([float(function(mpmath.mpf(float(v)))) for v in x])
    scale = weight(x)
    chebyshev = np.polynomial.chebyshev.chebvander(nodes, degree)
    lawson = np.ones(points)
    for _ in range(300):
        root = np.sqrt(lawson) * scale
        fit, *_ = np.linalg.lstsq(chebyshev * root[:, None], y * root, rcond=None)
        error = np.abs(scale * (chebyshev @ fit - y))
        lawson *= error + 1e-300
        lawson /= lawson.sum()
    in_nodes = np.polynomial.chebyshev.cheb2poly(fit)
    in_x = np.polynomial.Polynomial(in_nodes)(
        np.polynomial.Polynomial([-(low + high) / (high - low), 2 / (high - low)])
    )
    return in_x.coef, error.max()


def show(name, coefficients, error):
    print(f"/* {name}: error {error:.2e} */")
    for power, value in enumerate(coefficients):
        print(f"    {np.float32(value):.9e}f, /* {power} */")


def main():
    mpmath.mp.prec = 120
    half_ln2 = float(mpmath.log(2) / 2) * 1.0001
    show(
        "exp: (exp(r) - 1 - r) / r^2",
        *minimax(
            lambda r: (mpmath.exp(r) - 1 - r) / r**2 if r else mpmath.mpf(1) / 2,
            -half_ln2,
            half_ln2,
            5,
            lambda r: r * r,
        ),
    )
    show(
        "tanh: (tanh(x) / x - 1) / x^2 in z = x^2",
        *minimax(
            lambda z: (mpmath.tanh(mpmath.sqrt(z)) / mpmath.sqrt(z) - 1) / z, 1e-9, 0.625**2, 5, lambda z: z
        ),
    )
    show(
        "erf: erf(x) / x in z = x^2, x <= 1",
        *minimax(lambda z: mpmath.erf(mpmath.sqrt(z)) / mpmath.sqrt(z), 1e-9, 1.0, 7),
    )
    show(
        "erf: -log(erfc(x)) in t = x - 2.5, 1 <= x <= 4",
        *minimax(
            lambda t: -mpmath.log(mpmath.erfc(t + 2.5)), -1.5, 1.5, 8, lambda t: np.exp(-((t + 2.5) ** 2))
        ),
    )


if __name__ == "__main__":
    main()
