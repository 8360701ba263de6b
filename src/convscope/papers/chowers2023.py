"""Experiments of Chowers & Weiss, "What do CNNs Learn in the First Layer and Why?" (ICML 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from convscope.papers.chowers2023_architectures import architectures, frozen
from convscope.papers.chowers2023_cifar10 import formula, random_labels, seeds, width
from convscope.papers.chowers2023_data import data_set, pairs
from convscope.papers.chowers2023_images import more_images, whitening
from convscope.papers.chowers2023_labels import average_patch, energy_labels, labels
from convscope.papers.chowers2023_networks import pretrained, trajectory
from convscope.papers.chowers2023_scaling import patch_scaling
from convscope.papers.registry import SCALES, Experiment, Outcome, Scale, Setup

TITLE = "Chowers & Weiss, “What do CNNs Learn in the First Layer and Why? A Linear Systems Perspective” (ICML 2023)"


def _experiment(
    name: str, shows: str, claim: str, cpu: str, run: Callable[[Setup], Outcome], data: tuple[str, ...] = ("cifar10",)
) -> Experiment:
    costs: Mapping[Scale, str] = {
        "smoke": "under 15 seconds on one core",
        "cpu": cpu,
        "paper": "hours on a GPU; networks of VGG's kind at the paper's width, images, step size and epochs",
    }
    return Experiment("chowers2023", name, shows, claim, data, costs, run)


_NO_TRAINING: Mapping[Scale, str] = dict.fromkeys(SCALES, "about a minute on one core; no training")

EXPERIMENTS = (
    _experiment(
        "seeds",
        "Do networks that differ only in their random start learn the same first-layer energy profile?",
        "Table 1: correlation 0.99 between seeds and −0.13 ± 0.18 with the initial profile (VGG11, CIFAR-10).",
        "about 5 minutes on one core (3 networks)",
        seeds,
    ),
    _experiment(
        "width",
        "Does the profile depend on the number of filters?",
        "Table 1: correlation 0.98 between first layers of other width (VGG11, CIFAR-10).",
        "about 6 minutes on one core (2 networks, beside the 3 of seeds)",
        width,
    ),
    _experiment(
        "images",
        "Do more images bring the values closer to those of the paper, which trains on all 50,000?",
        "Tables 1 and 3, figure 6: 0.99 between seeds, 0.94 ± 0.01 for the formula, about 0.2 at 10 pixels.",
        "about 7 minutes on one core (2 networks, beside the 3 of seeds)",
        more_images,
    ),
    _experiment(
        "random-labels",
        "Do networks trained on permuted labels learn the profile of those trained on the true ones?",
        "Table 2: correlation 0.90 ± 0.02 between true and permuted labels (VGG, CIFAR-10).",
        "about 5 minutes on one core (3 networks, beside the 3 of seeds)",
        random_labels,
    ),
    _experiment(
        "formula",
        "Does a formula with one free number predict the profile from the images, better than trivial curves do?",
        "Table 3: correlation 0.94 ± 0.01 with trained, 0.10 ± 0.15 with initial profiles (VGG11, CIFAR-10).",
        "about a minute on one core (no networks beside those of random-labels)",
        formula,
    ),
    _experiment(
        "patch-scaling",
        "When one component of every patch is scaled, does the profile follow the formula with the new eigenvalue?",
        "Appendix D.2, figures 8b and 18: the formula with the scaled eigenvalue fits such networks.",
        "about 7 minutes on one core (4 networks, beside the 6 of random-labels)",
        patch_scaling,
    ),
    _experiment(
        "whitening",
        "Do the learned filters decorrelate distant responses, as random filters do not?",
        "Figure 6: at 10 pixels above 0.5 for pixels and random filters, about 0.2 for learned ones, 0 for whitening.",
        "about a minute on one core (no networks beside those of seeds)",
        whitening,
    ),
    _experiment(
        "labels",
        "Does a class label say how patches lie along the principal components?",
        "Figure 5: correlations of labels with the components are all around 0 (CIFAR-10).",
        "under a minute on one core",
        labels,
    ),
    _experiment(
        "architectures",
        "Do residual, deeper and shallower networks learn the same profile?",
        "Table 1: correlation 0.87 between VGG11 and ResNet18 (CIFAR-10).",
        "about 10 minutes on one core (4 networks, beside the 3 of seeds)",
        architectures,
    ),
    _experiment(
        "pairs",
        "Does the formula follow networks that tell two classes apart?",
        "Table 3: correlations between 0.91 ± 0.02 and 0.96 ± 0.01 for five pairs of classes of CIFAR-10.",
        "about 5 minutes on one core (10 networks)",
        pairs,
    ),
    _experiment(
        "fashion-mnist",
        "Do the findings hold on gray pictures of clothes, a data set that the paper does not use?",
        "Sections 2 to 4: profiles agree between seeds and between true and permuted labels, and the formula fits.",
        "about 4 minutes on one core (6 networks)",
        data_set("fashion-mnist"),
        ("fashion-mnist",),
    ),
    _experiment(
        "cifar100",
        "Do the findings hold on CIFAR-100?",
        "Tables 1 and 2, figure 16: 0.97 between seeds, 0.98 between widths, 0.80 against ResNet18, 0.91 ± 0.01 "
        "between true and permuted labels, above 0.93 for the formula.",
        "about 10 minutes on one core (10 networks)",
        data_set("cifar100"),
        ("cifar100",),
    ),
    _experiment(
        "celeba",
        "Do the findings hold on faces?",
        "Tables 1 to 3: 0.99 between seeds, 0.98 between widths, 0.92 against ResNet18, 0.96 ± 0.03 between true and "
        "permuted labels, 0.96 ± 0.01 for the formula.",
        "about 10 minutes on one core (10 networks)",
        data_set("celeba"),
        ("celeba",),
    ),
    _experiment(
        "frozen",
        "Does it matter whether the first layer is learned at all?",
        "Figure 2, appendix F: with a random, frozen first layer accuracy and loss are nearly the same, the more so "
        "the deeper the network (no numbers are printed).",
        "about 6 minutes on one core (36 small networks)",
        frozen,
    ),
    _experiment(
        "energy-labels",
        "Do labels that are made from the patches' energy change the profile?",
        "Appendix D.1: the correlation of true and permuted labels falls, to about 0 for component 15.",
        "about 5 minutes on one core (3 networks, beside the 6 of random-labels)",
        energy_labels,
    ),
    _experiment(
        "average-patch",
        "Does the average patch tell beforehand whether the labels will matter?",
        "2022 version: where classes agree in their average patch, true and random labels give the same profile in "
        "expectation; in common data sets its correlation with the labels is very low.",
        "about 3 minutes on one core (5 networks, beside those of other experiments)",
        average_patch,
        ("cifar10", "fashion-mnist"),
    ),
    Experiment(
        "chowers2023",
        "pretrained",
        "Does the formula follow networks that others trained, on their own data?",
        "Table 3: correlation 0.90 ± 0.01 with five networks trained on ImageNet.",
        ("weights", "cifar10", "imagenet"),
        _NO_TRAINING,
        pretrained,
    ),
    Experiment(
        "chowers2023",
        "trajectory",
        "Does the fitted training time grow along the training of a network?",
        "Theorem 4.2: tau is learning rate times steps, so it cannot fall (no number is printed).",
        ("weights", "cifar10"),
        _NO_TRAINING,
        trajectory,
    ),
)
