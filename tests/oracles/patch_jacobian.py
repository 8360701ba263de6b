"""The AGOP over patches by its definition: patches are formed, and every output is differentiated by them."""

import torch
import torch.nn.functional as F

from convscope.core.taps import logits


def _pairs(x):
    return (x, x) if isinstance(x, int) else tuple(x)


def patch_agop(module, images, of="logits", *, centred=False, outputs=None):
    """Returns, in the order of first calls, [g, d, d] float64: the mean over images of the sum over outputs,
    positions and calls of the outer product of an output's gradient with respect to a patch.

    Layers are told apart by their weights. Centred: each gradient less its mean over images, for one output, call and
    position. Outputs: the numbers of those to sum over; None for all.
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
    for o in range(scores.shape[1]) if outputs is None else outputs:
        rows = [[] for _ in seen]
        for i in range(len(images)):
            gradients = torch.autograd.grad(scores[i, o], [p for _, _, p in seen], retain_graph=True, allow_unused=True)
            for row, (_, groups, patches), gradient in zip(rows, seen, gradients, strict=True):
                g = torch.zeros_like(patches[i]) if gradient is None else gradient[i]
                row.append(g.unflatten(0, (groups, -1)).double())
        for (w, _, _), row in zip(seen, rows, strict=True):
            k = next(j for j, other in enumerate(weights) if other is w)
            mean = sum(row) / len(row) if centred else torch.zeros_like(row[0])
            for g in row:
                totals[k] = totals[k] + (g - mean) @ (g - mean).mT / len(images)
    return totals
