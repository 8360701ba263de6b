"""How far S, the second moment of the gradients at a convolution's output, is from a multiple of the identity.

Where it is one, the patch AGOP ``W^T S W`` is proportional to the neural feature matrix ``W^T W`` whatever W is.
"""

from __future__ import annotations

import torch
from torch import Tensor


def evenness(gram: Tensor) -> float:
    """Returns how even the eigenvalues of S are: tr(S)^2 / (k tr(S^2)), in (0, 1].

    1 where S is a multiple of the identity, 1 / k where it has one direction.

    Args:
        gram: [g, k, k], S; with several groups the mean over them.

    Example:
        >>> evenness(torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0]))[None])
        0.5
    """
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)
    return float((trace.square() / (gram.shape[1] * gram.square().sum((1, 2)))).mean())


def strongest_filter_share(weight: Tensor, gram: Tensor) -> float:
    """Returns how large the gradients are along the strongest direction of the filters, 1 as in the mean direction.

    u^T S u / (tr(S) / k) with u the leading left singular vector of W: the combination of output channels in which the
    filters' weights are largest. Above 1 the gradients are large where the filters are, and the AGOP has the neural
    feature matrix's strongest direction more than by chance; below 1 less.

    Args:
        weight: [g, k, d], W.
        gram: [g, k, k], S; with several groups the mean over them.

    Example:
        >>> weight, gram = torch.diag(torch.tensor([2.0, 1.0]))[None], torch.diag(torch.tensor([3.0, 1.0]))[None]
        >>> strongest_filter_share(weight, gram)
        1.5
    """
    u = torch.linalg.svd(weight, full_matrices=False).U[..., :1]
    mean = gram.diagonal(dim1=1, dim2=2).mean(1)
    return float(((u.mT @ gram @ u)[:, 0, 0] / mean).mean())
