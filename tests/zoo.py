"""Small networks that are awkward to analyse, each with the names of the convolutions that a tap must find."""

import torch
import torch.nn.functional as F
from torch import nn


def residual():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(6)
            self.conv2 = nn.Conv2d(6, 6, 3, padding=1, groups=2)
            self.down = nn.Conv2d(6, 6, 1, stride=2)
            self.head = nn.Linear(6, 4)
            self.relu = nn.ReLU(inplace=True)
            self.dropout = nn.Dropout(0.5)

        def forward(self, x):
            y = self.relu(self.norm(self.conv1(x)))
            y = self.relu(self.down(self.conv2(y) + y))
            return self.head(self.dropout(y.mean((2, 3))))

    return Residual()


def functional():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(5, 3, 3, 3) / 5)
            self.head = nn.Linear(5, 4)

        def forward(self, x):
            return self.head(F.conv2d(x, self.kernel, padding=1).relu_().mean((2, 3)))

    return Functional()


def standardised():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            w = self.weight
            w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
            return F.conv2d(x, w, self.bias, self.stride, self.padding)

    return nn.Sequential(Standardised(3, 5, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(4))


def parametrised():
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 5, 3, padding="same"))
    return nn.Sequential(conv, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))


def shared():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.block = nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.Linear(4, 4)

        def forward(self, x):
            x = self.stem(x)
            for _ in range(3):
                x = torch.relu_(self.block(x))
            return {"features": x, "logits": self.head(x.mean((2, 3)))}

    return Shared()


def bordered():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding=2, padding_mode="circular", stride=2, dilation=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 4),
    )


def frozen():
    module = residual()
    module.requires_grad_(False)
    return module


def traced():
    return torch.fx.symbolic_trace(bordered())


def exported():
    many = {"input": {0: torch.export.Dim("n")}}
    return torch.export.export(bordered().eval(), (torch.zeros(2, 3, 12, 12),), dynamic_shapes=many).module()


def compiled():
    return torch.compile(residual())


def auxiliary():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = residual()

        def forward(self, x):
            scores = self.body(x)
            return x, scores, scores * 2

    return Auxiliary()


ZOO = {
    "residual": (residual, ["conv1", "conv2", "down"]),
    "functional": (functional, ["kernel"]),
    "standardised": (standardised, ["0"]),
    "parametrised": (parametrised, ["0"]),
    "shared": (shared, ["stem", "block"]),
    "bordered": (bordered, ["0", "2"]),
    "frozen": (frozen, ["conv1", "conv2", "down"]),
    "traced": (traced, ["0", "2"]),
    "exported": (exported, ["0", "2"]),
    "compiled": (compiled, ["conv1", "conv2", "down"]),
    "auxiliary": (auxiliary, ["body.conv1", "body.conv2", "body.down"]),
}


def build(name):
    torch.manual_seed(0)
    module = ZOO[name][0]()
    if name == "standardised":
        module(torch.zeros(1, 3, 12, 12))
    return module
