"""The experiment on edges: a metric that sees them is found, brightness is not."""

import json

import torch

from convscope.papers import beaglehole2023_edges as edges
from convscope.papers.beaglehole2023_edges import CENTRED, UNTRAINED, WHOLE, Seen, measured

SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=torch.float64)
EDGES = sum(torch.outer(k.flatten(), k.flatten()) for k in (SOBEL, SOBEL.T))


def squares(n=5, size=14):
    """Bright squares of different places and values on grey."""
    x = torch.full((n, 1, size, size), 0.5)
    for i in range(n):
        x[i, :, 2 + i : 8 + i, 3 : 9 + i // 2] += 0.1 * (i + 1)
    return x


def rows_of(metric, **others):
    rows, lines = measured(Seen("planted", squares(), metric, others), draws=30)
    json.dumps(lines, allow_nan=False)
    assert [line["patches"] for line in lines] == [WHOLE, CENTRED]
    return {row.quantity: row for row in rows}


def test_a_metric_of_edges_holds_the_claim():
    rows = rows_of(EDGES, **{UNTRAINED: [torch.eye(9, dtype=torch.float64)]})
    assert len(rows) == 2 * 3
    for patches in (WHOLE, CENTRED):
        own = rows[f"planted, {patches}: correlation of their lengths in the AGOP with edges"]
        assert own.ours.value > 0.99
        assert own.verdict == "claim holds"
        assert set(own.baselines) == {UNTRAINED, "identity", edges.TURNED}
    title = f"planted, {WHOLE}: correlation of their lengths in the AGOP with edges"
    gain = rows[f"{title}, less that in the untrained twins' AGOPs"]
    assert gain.verdict == "claim holds"


def test_a_metric_of_brightness_fails_it_with_the_reason():
    rows = rows_of(torch.ones(9, 9, dtype=torch.float64) + 1e-3 * torch.eye(9, dtype=torch.float64))
    own = rows[f"planted, {WHOLE}: correlation of their lengths in the AGOP with edges"]
    assert own.verdict == "claim fails"
    assert own.reason.startswith("100 % of the trace measures how bright a patch is")
    assert len(rows) == 2 * 2
