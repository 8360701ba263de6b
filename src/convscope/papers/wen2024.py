"""Experiments on Wen & Jacot, "Which Frequencies do CNNs Need? Emergent Bottleneck Structure" (ICML 2024)."""

from __future__ import annotations

from convscope.papers.registry import Experiment
from convscope.papers.wen2024_controls import classification, controls
from convscope.papers.wen2024_digits import depth, digit_autoencoder
from convscope.papers.wen2024_known import bump, known_rank, shape_and_pattern
from convscope.papers.wen2024_parts import interpretation
from convscope.papers.wen2024_pretrained import compression, pretrained
from convscope.papers.wen2024_sampling import down_sampling
from convscope.papers.wen2024_stability import learning_rate

TITLE = (
    "Wen & Jacot, “Which Frequencies do CNNs Need? Emergent Bottleneck Structure in Feature Learning” (ICML 2024, "
    "arXiv 2402.08010)"
)
COMPARED_WITH = "theory"  # of the paper's own numbers, one could be read
_UNREAD = (
    "The paper's theorems, figures and settings could not be read. What stands under “theory” is derived here, "
    "“reference” is what another implementation measured before, and only the three counts of the digit autoencoder "
    "are the paper's."
)
_COST = f"Abstract: the parameter norm of a function “scales as depth times the CBN rank”. {_UNREAD}"
_KEPT = f"Abstract: the middle is “supported only along a few frequencies and channels”. {_UNREAD}"
_SAMPLED = f"Abstract: the structure “motivates the common practice of down-sampling”. {_UNREAD}"
_TASKS = f"Experiments on four tasks “with different depths and ridge parameters”. {_UNREAD}"

EXPERIMENTS = (
    Experiment(
        "wen2024",
        "known-rank",
        "Does a network that learns a projection keep its frequencies alone, at a cost of depth times their number?",
        _COST,
        (),
        {"smoke": "seconds", "cpu": "about 5 minutes on one core", "paper": "an hour on two cores"},
        known_rank,
    ),
    Experiment(
        "wen2024",
        "digit-autoencoder",
        "Which frequencies does a deep autoencoder of the digit 0 keep?",
        "Experiment on MNIST's digit 0: “the networks keeps 3 constant freq. along with 4 degree 1 freq. and 1 degree "
        f"two freq.” --data mnist=FOLDER takes the user's files; without, scikit-learn's digits stand in. {_UNREAD}",
        (),
        {
            "smoke": "seconds",
            "cpu": "about 5 minutes on one core; with MNIST much longer",
            "paper": "hours on two cores",
        },
        digit_autoencoder,
    ),
    Experiment(
        "wen2024",
        "shape-and-pattern",
        "Does an autoencoder of products keep the factors, where a linear one has to keep the products?",
        _TASKS,
        (),
        {"smoke": "seconds", "cpu": "about 2 minutes on one core", "paper": "half an hour on two cores"},
        shape_and_pattern,
    ),
    Experiment(
        "wen2024",
        "moving-bump",
        "Does a network that continues a motion keep the next position, and not position and speed?",
        _TASKS,
        (),
        {"smoke": "seconds", "cpu": "about 3 minutes on one core", "paper": "half an hour on two cores"},
        bump,
    ),
    Experiment(
        "wen2024",
        "classifier",
        "How does a classifier with global pooling narrow from layer to layer?",
        _TASKS,
        (),
        {"smoke": "seconds", "cpu": "about 5 minutes on one core", "paper": "half an hour on two cores"},
        classification,
    ),
    Experiment(
        "wen2024",
        "depth",
        "How do rank and cost change with depth at one loss, and with the penalty at one depth?",
        _COST,
        (),
        {
            "smoke": "seconds",
            "cpu": "about 7 minutes on one core after known-rank and digit-autoencoder",
            "paper": "hours on two cores",
        },
        depth,
    ),
    Experiment(
        "wen2024",
        "learning-rate",
        "Does gradient descent with large steps end in narrow activations, and with small ones not?",
        "Abstract: a network of nearly the least norm has the structure in its weights and, “if stable under large "
        f"learning rate”, in its activations. {_UNREAD}",
        (),
        {"smoke": "seconds", "cpu": "about 4 minutes on one core", "paper": "hours on one core"},
        learning_rate,
    ),
    Experiment(
        "wen2024",
        "controls",
        "Does the score tell networks with a bottleneck from those without?",
        _KEPT,
        (),
        {
            "smoke": "seconds",
            "cpu": "about 1 minute on one core after depth and moving-bump",
            "paper": "hours on two cores",
        },
        controls,
    ),
    Experiment(
        "wen2024",
        "down-sampling",
        "Can the layers inside a bottleneck run on fewer pixels?",
        _SAMPLED,
        (),
        {"smoke": "seconds", "cpu": "seconds after known-rank and shape-and-pattern", "paper": "an hour on two cores"},
        down_sampling,
    ),
    Experiment(
        "wen2024",
        "pretrained",
        "Which frequencies and channels do published networks keep, in their weights and in their activations?",
        _KEPT,
        ("weights", "cifar10", "imagenet"),
        {"smoke": "seconds", "cpu": "about 5 minutes on one core", "paper": "an hour on two cores"},
        pretrained,
    ),
    Experiment(
        "wen2024",
        "interpretation",
        "How well do linear maps and kept directions describe a residual network?",
        _KEPT,
        ("weights", "cifar10"),
        {"smoke": "seconds", "cpu": "about 5 minutes on one core", "paper": "an hour on two cores"},
        interpretation,
    ),
    Experiment(
        "wen2024",
        "compression",
        "How much of published networks can be left out within a tolerance of 0.01?",
        _SAMPLED,
        ("weights", "cifar10", "imagenet"),
        {"smoke": "seconds", "cpu": "about 5 minutes on one core", "paper": "ten minutes on two cores"},
        compression,
    ),
)
