"""Slow twins of the comparison of feature matrices: whole d x d matrices, one group at a time."""

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Matrix = NDArray[np.float64]
NULL_SHARE = 1e-12


def nfm_blocks(weight: Tensor) -> list[Matrix]:
    """Returns W^T W of each group."""
    return [w.T @ w for w in weight.double().numpy()]


def agop_blocks(weight: Tensor, gram: Tensor, power: float = 1.0) -> list[Matrix]:
    """Returns (W^T S W)^power of each group, on the range of the matrix."""
    pairs = zip(weight.double().numpy(), gram.double().numpy(), strict=True)
    return [dense_power(w.T @ s @ w, power) for w, s in pairs]


def dense_power(matrix: Matrix, power: float) -> Matrix:
    """Returns sum_i lam_i^power v_i v_i^T over the eigenvalues that are not zero."""
    values, vectors = np.linalg.eigh(matrix)
    total = np.zeros_like(matrix)
    for value, v in zip(values, vectors.T, strict=True):
        if value > NULL_SHARE * max(values[-1], 0.0):
            total += value**power * np.outer(v, v)
    return total


def block_correlation(left: list[Matrix], right: list[Matrix], kind: str) -> float:
    """Returns the Pearson or cosine correlation of the entries of two lists of blocks; NaN where one is flat."""
    x, y = (np.concatenate([block.ravel() for block in blocks]) for blocks in (left, right))
    lengths = math.sqrt(x @ x), math.sqrt(y @ y)
    if kind == "pearson":
        x, y = x - x.mean(), y - y.mean()
    norms = math.sqrt(x @ x), math.sqrt(y @ y)
    if any(norm <= 1e-12 * length for norm, length in zip(norms, lengths, strict=True)):
        return math.nan
    return float(x @ y / (norms[0] * norms[1]))


def overlap_of_blocks(left: list[Matrix], right: list[Matrix], r: int) -> float:
    """Returns mean over blocks of tr(P Q) / r, with P and Q the projections on the leading r eigenvectors."""
    overlaps = []
    for a, b in zip(left, right, strict=True):
        p, q = (np.linalg.eigh(m)[1][:, ::-1][:, :r] for m in (a, b))
        overlaps.append(np.trace(p @ p.T @ q @ q.T) / r)
    return float(np.mean(overlaps))
