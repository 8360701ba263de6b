"""Networks trained on CIFAR-10, and how their filters and gradients agree before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from convscope.ansatz.agop import PatchAgop
from convscope.ansatz.measure import patch_agop
from convscope.core.network import Network
from convscope.papers.data import LabelledImages
from convscope.papers.kept import Scores, learn, once
from convscope.training.initialise import calibrate_
from convscope.training.loop import Optimiser, State
from convscope.training.networks import MyrtleMax, SmallVGG, small_resnet

#: Name to what makes the network from the number of filters of its first stage.
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "four convolutions": lambda width: MyrtleMax(width=width),
    "VGG with batch norm": lambda width: SmallVGG(10, 3, (width, width, width)),
    "residual network": lambda width: small_resnet(width=width),
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a trained network, the images apart."""

    network: str
    seed: int
    epochs: int
    width: int
    batch_size: int
    optimiser: Optimiser = "adam"
    lr: float = 1e-3
    momentum: float = 0.0


@dataclass(frozen=True)
class TrainedNetwork:
    """A network before and after its training.

    Attributes:
        initial: with the weights before.
        final: with the weights after.
        scores: how well it learned.
    """

    initial: nn.Module
    final: nn.Module
    scores: Scores


@dataclass(frozen=True)
class BeforeAndAfter:
    """The patch AGOP of each convolution of a trained network, by layer.

    Attributes:
        recipe: how it was trained.
        scores: how well it learned.
        before: with the weights before training.
        after: with those after it, and what they were before.
    """

    recipe: Recipe
    scores: Scores
    before: Mapping[str, PatchAgop]
    after: Mapping[str, PatchAgop]


def untrained(recipe: Recipe) -> nn.Module:
    """Returns the network before training: normal weights of variance 2 / fan-in (He et al. 2015)."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        network = NETWORKS[recipe.network](recipe.width)
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight)
    return network


def trained(
    recipe: Recipe, images: LabelledImages, test: LabelledImages, folder: Path | None, progress: bool
) -> TrainedNetwork:
    """Returns a network trained on images; one that a folder keeps is read back.

    Args:
        recipe: how to train it.
        images: to learn.
        test: for the test accuracy.
        folder: where trained networks are kept between calls, or None.
        progress: whether to show a progress bar.

    Raises:
        KeyboardInterrupt: when the training is interrupted.
    """
    data = [images.fingerprint, test.fingerprint]
    state, scores = once(folder, data, asdict(recipe), partial(_train, recipe, images, test, progress))
    initial, final = untrained(recipe), untrained(recipe)
    final.load_state_dict(state)
    return TrainedNetwork(initial.eval(), final.eval(), scores)


def _train(recipe: Recipe, images: LabelledImages, test: LabelledImages, progress: bool) -> tuple[State, Scores]:
    return learn(
        untrained(recipe),
        images.images,
        images.labels,
        test,
        epochs=recipe.epochs,
        lr=recipe.lr,
        momentum=recipe.momentum,
        batch_size=recipe.batch_size,
        optimiser=recipe.optimiser,
        seed=recipe.seed,
        progress=f"{recipe.network}, seed {recipe.seed}" if progress else False,
    )


def measured(
    recipes: Sequence[Recipe],
    images: LabelledImages,
    test: LabelledImages,
    count: int,
    folder: Path | None,
    progress: bool,
) -> list[BeforeAndAfter]:
    """Returns what is measured in each trained network; batch norms before training are calibrated on the images.

    Args:
        recipes: how to train them.
        images: to learn.
        test: for the test accuracy.
        count: the AGOP is taken at the first so many training images, of each output in turn.
        folder: where trained networks are kept between calls, or None.
        progress: whether to show progress bars.
    """
    found = []
    few = images.images[:count]
    for recipe in recipes:
        network = trained(recipe, images, test, folder, progress)
        calibrate_(Network(recipe.network, network.initial), few)
        batches = torch.split(few, 50)
        before = patch_agop(network.initial, batches, exact=True, progress=progress)
        after = patch_agop(network.final, batches, exact=True, init=network.initial, progress=progress)
        found.append(BeforeAndAfter(recipe, network.scores, before, after))
    return found
