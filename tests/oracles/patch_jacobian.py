"""The AGOP over patches by its definition: patches are formed, and every output is differentiated by them."""

import torch
import torch.nn.functional as F

from convscope.core.taps import logits


def _pairs(x):
    return (x, x) if isinstance(x, int) else tuple(x)


def patch_agop(module, images, of="logits"):
    """Returns, in the order of first calls, [g, d, d] float64: the mean over images of the sum over outputs,
    positions and calls of the outer product of an output's gradient with respect to a patch.

    Layers are told apart by their weights.
    """
    seen = []
    original = F.conv2d

    def conv2d(x, w, bias=None, stride=1, padding=0, dilation=1, groups=1):
        (q, r), stride, dilation = w.shape[2:], _pairs(stride), _pairs(dilation)
        if isinstance(padding, str):
            total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, (q, r), strict=True)]
            pad = (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)
        else:
            a, b = _pairs(padding)
            pad = (b, b, a, a)
        x = F.pad(x, pad)
        patches = F.unfold(x, (q, r), dilation, 0, stride)  # [n, c * q * r, positions]
        if not patches.requires_grad:
            patches.requires_grad_()
        seen.append((w, groups, patches))
        rows = (x.shape[2] - dilation[0] * (q - 1) - 1) // stride[0] + 1
        p = patches.unflatten(1, (groups, -1))
        y = torch.einsum("gkd,ngdp->ngkp", w.flatten(1).unflatten(0, (groups, -1)), p).flatten(1, 2)
        y = y.unflatten(2, (rows, -1))
        return y if bias is None else y + bias[:, None, None]

    F.conv2d = conv2d
    try:
        scores = logits(module(images), len(images))
    finally:
        F.conv2d = original
    if of == "probabilities":
        scores = scores.softmax(1)
    weights = list({id(w): w for w, _, _ in seen}.values())
    totals = [0.0] * len(weights)
    for i in range(len(images)):
        for o in range(scores.shape[1]):
            gradients = torch.autograd.grad(scores[i, o], [p for _, _, p in seen], retain_graph=True, allow_unused=True)
            for (w, groups, patches), gradient in zip(seen, gradients, strict=True):
                k = next(j for j, other in enumerate(weights) if other is w)
                g = torch.zeros_like(patches[i]) if gradient is None else gradient[i]
                g = g.unflatten(0, (groups, -1)).double()
                totals[k] = totals[k] + g @ g.mT / len(images)
    return totals
