"""First layers of networks trained for the experiments of Chowers & Weiss (2023)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.papers.data import LabelledImages
from convscope.papers.kept import Scores, learn, once
from convscope.training.loop import LabelKind, Snapshots, State, relabel
from convscope.training.networks import CifarResNet, SmallVGG


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a trained network, the images apart.

    Attributes:
        labels: "true" or "permuted" (those of the data, given to other images).
        seed: of the initial weights, the order of images and the permutation of labels.
        epochs: number of times that every image is visited.
        widths: filters of each stage of the network, the first layer's first; of a "resnet", of its first layer alone.
        lr: SGD's step size; constant, without momentum and weight decay, as in the paper's code.
        batch_size: images a step.
        component: index of the principal component along which every patch is scaled, or None.
        factor: alpha, the scaling of that component's coefficient; 1 changes nothing.
        network: "vgg" (``SmallVGG``) or "resnet" (``CifarResNet`` with one block a stage: eight layers).
    """

    labels: LabelKind
    seed: int
    epochs: int
    widths: tuple[int, ...] = (32, 48, 96)
    lr: float = 0.05
    batch_size: int = 50
    component: int | None = None
    factor: float = 1.0
    network: Literal["vgg", "resnet"] = "vgg"

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values; the kind of network only where it is not VGG's, which kept files do not name."""
        values = asdict(self)
        return values if self.network != "vgg" else {k: v for k, v in values.items() if k != "network"}


@dataclass(frozen=True)
class TrainedLayer:
    """A first layer's way through a training.

    Attributes:
        recipe: how it was trained.
        weights: {epochs completed: [k, c, 3, 3]}; 0 is the initial weight, the largest the final one.
        scores: how well its network learned.
    """

    recipe: Recipe
    weights: dict[int, Tensor]
    scores: Scores

    @property
    def initial(self) -> Tensor:
        """The weights [k, c, 3, 3] before training."""
        return self.weights[0]

    @property
    def final(self) -> Tensor:
        """The weights [k, c, 3, 3] after training."""
        return self.weights[max(self.weights)]

    @property
    def change(self) -> float:
        """Norm of the weights' change during training over that of the initial weights."""
        return float((self.final - self.initial).norm() / self.initial.norm())


class ScaledPatches(nn.Conv2d):
    """A convolution that sees every patch with one principal component's coefficient scaled.

    Chowers & Weiss (2023), appendix D.2: each patch P becomes ``P + (alpha - 1) <P, u> u``. The paper writes the
    changed patches side by side into a larger image and gives the convolution a stride of its kernel. With
    ``T = I + (alpha - 1) u u^T`` symmetric, filter w on patch T P responds as filter T w on patch P, so the same
    function, and the same gradient for w, follows from the unchanged images.

    Args:
        conv: the convolution whose weights, padding and stride to take over.
        direction: [d], u, of unit length, in the order of ``weight.flatten(1)``.
        factor: alpha.
    """

    change: Tensor

    def __init__(self, conv: nn.Conv2d, direction: Tensor, factor: float) -> None:
        kernel, stride, padding = (tuple(getattr(conv, name)) for name in ("kernel_size", "stride", "padding"))
        super().__init__(conv.in_channels, conv.out_channels, kernel, stride, padding, bias=False)
        self.weight = conv.weight
        u = direction.to(conv.weight)
        self.register_buffer("change", torch.eye(len(u)) + (factor - 1) * torch.outer(u, u), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the responses [n, k, h', w'] to the changed patches of images [n, c, h, w]."""
        filters = (self.weight.flatten(1) @ self.change).view_as(self.weight)
        return F.conv2d(images, filters, None, self.stride, self.padding)


def untrained(recipe: Recipe, data: LabelledImages) -> nn.Module:
    """Returns the network of a recipe for some images, its weights drawn from the global random state."""
    classes, (channels, size) = int(data.labels.max()) + 1, data.images.shape[1:3]
    if recipe.network == "resnet":
        return CifarResNet(1, classes, channels, recipe.widths[0])
    return SmallVGG(classes, channels, recipe.widths, size)


@dataclass
class Trainer:
    """Trains networks on one data set, and reads back those that it has trained before.

    Attributes:
        train: images to learn.
        test: images for the test accuracy.
        directions: float64 [d, d], columns are the principal components of the training patches.
        folder: where trained layers are kept between calls, or None: only in memory.
        progress: whether to show progress bars.
        memory: the first layers of the recipes asked for so far.
    """

    train: LabelledImages
    test: LabelledImages
    directions: Tensor
    folder: Path | None = None
    progress: bool = True
    memory: dict[Recipe, TrainedLayer] = field(default_factory=dict)

    def __call__(self, recipe: Recipe) -> TrainedLayer:
        """Returns the trained first layer of a recipe.

        Raises:
            KeyboardInterrupt: when the training is interrupted.
        """
        if recipe not in self.memory:
            data = [self.train.fingerprint, self.test.fingerprint]
            tensors, scores = once(self.folder, data, recipe.to_json(), partial(self._train, recipe))
            weights = {int(epoch): tensors[epoch] for epoch in sorted(tensors, key=int)}
            self.memory[recipe] = TrainedLayer(recipe, weights, scores)
        return self.memory[recipe]

    def _train(self, recipe: Recipe) -> tuple[State, Scores]:
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            network = untrained(recipe, self.train)
        if recipe.component is not None:
            assert isinstance(network, SmallVGG), "patches are scaled in networks of VGG's kind"
            plain = network.features[0]
            assert isinstance(plain, nn.Conv2d)
            network.features[0] = ScaledPatches(plain, self.directions[:, recipe.component], recipe.factor)
        first = next(f"{name}.weight" for name, m in network.named_modules() if isinstance(m, nn.Conv2d))
        marks = [0, *(2**i for i in range(recipe.epochs.bit_length()) if 2**i < recipe.epochs), recipe.epochs]
        snapshots = Snapshots([first], marks)
        title = f"{recipe.network}, {recipe.labels} labels, seed {recipe.seed}"
        if recipe.component is not None:
            title += f", component {recipe.component} x {recipe.factor:g}"
        _, scores = learn(
            network,
            self.train.images,
            relabel(self.train.labels, recipe.labels, recipe.seed),
            self.test,
            epochs=recipe.epochs,
            lr=recipe.lr,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            progress=title if self.progress else False,
            callbacks=[snapshots],
        )
        return {str(epoch): state[first].contiguous() for epoch, state in snapshots.kept.items()}, scores
