"""Experiments on Pinson et al., "Linear CNNs discover the statistical structure of the dataset" (ICML 2023)."""

from __future__ import annotations

from convscope.papers.pinson2023_linear import times
from convscope.papers.pinson2023_overlap import overlap
from convscope.papers.pinson2023_relu import frequencies, order, spectra
from convscope.papers.pinson2023_shortcuts import shortcuts
from convscope.papers.pinson2023_speeds import speeds
from convscope.papers.pinson2023_stages import stages
from convscope.papers.pinson2023_swap import swap
from convscope.papers.pinson2023_training import colours, kernels
from convscope.papers.pinson2023_transient import transient
from convscope.papers.registry import Experiment

TITLE = (
    "Pinson, Lenaerts & Ginis, “Linear CNNs discover the statistical structure of the dataset using only the most "
    "dominant frequencies” (ICML 2023, arXiv 2303.02034)"
)
COMPARED_WITH = "theory"  # the paper's own numbers could not be read
_UNREAD = (
    "The paper's body could not be read, and no number here is the paper's: what stands under “theory” is what the "
    "theory implies, and “reference” is what another implementation of it measured before."
)
_DISCOVERY = (
    "Abstract: linear CNNs “discover the statistical structure of the dataset with non-linear, ordered, stage-like "
    f"transitions”. {_UNREAD}"
)
_DOMINANT = (
    "Abstract: they do so “using only the dominant frequencies of the different structural parts present in the "
    f"dataset”. {_UNREAD}"
)
_INTERPLAY = (
    "Abstract: “the speed of discovery changes depending on the relationship between the dataset and the "
    f"convolutional network structure”. {_UNREAD}"
)
_PRACTICE = f"Abstract: experiments “show how our theory relates to deep, non-linear CNNs used in practice”. {_UNREAD}"
_SHORTCUT = f"Abstract: the theory helps explain shortcut learning. {_UNREAD}"
_TEXTURE = f"Abstract: the theory helps explain CNNs' “tendency to rely on texture instead of shape”. {_UNREAD}"

EXPERIMENTS = (
    Experiment(
        "pinson2023",
        "times",
        "Are times and order in which a linear CNN learns the modes of a data set predicted without integrating?",
        _DISCOVERY,
        ("cifar10",),
        {"smoke": "seconds", "cpu": "3 to 12 minutes on one core", "paper": "an hour on one core"},
        times,
    ),
    Experiment(
        "pinson2023",
        "stages",
        "Do modes wait for longer than they rise, and only from small initial weights?",
        _DISCOVERY,
        (),
        {"smoke": "seconds", "cpu": "about 2 minutes on one core", "paper": "half an hour on one core"},
        stages,
    ),
    Experiment(
        "pinson2023",
        "speeds",
        "How much faster does a linear CNN learn a mode than a fully connected network?",
        _INTERPLAY,
        ("cifar10",),
        {"smoke": "seconds", "cpu": "about 2 minutes on one core", "paper": "an hour on one core"},
        speeds,
    ),
    Experiment(
        "pinson2023",
        "overlap",
        "Do the convolution's own singular directions come to lie over the modes as these are learned?",
        _INTERPLAY,
        ("cifar10",),
        {"smoke": "seconds", "cpu": "about 3 minutes on one core", "paper": "hours on one core"},
        overlap,
    ),
    Experiment(
        "pinson2023",
        "transient",
        "Does a linear CNN learn a mode by its dominant frequencies alone, and for how long?",
        _DOMINANT,
        (),
        {"smoke": "seconds", "cpu": "about 2 minutes on one core", "paper": "an hour on one core"},
        transient,
    ),
    Experiment(
        "pinson2023",
        "colours",
        "Are the stages of colour images, one for each frequency and direction of colours, those of the dynamics?",
        _DISCOVERY,
        ("cifar10",),
        {"smoke": "under 15 seconds on one core", "cpu": "3 to 7 minutes on one core", "paper": "an hour on one core"},
        colours,
    ),
    Experiment(
        "pinson2023",
        "kernels",
        "Do kernels smaller than the image, with circular and with zero padding, grow as fast as the patches say?",
        _INTERPLAY,
        ("cifar10",),
        {"smoke": "seconds", "cpu": "about 2 minutes on one core", "paper": "about 2 minutes on one core"},
        kernels,
    ),
    Experiment(
        "pinson2023",
        "order",
        "Does a CNN with ReLUs learn the modes of its data in the order that the linear theory gives?",
        _PRACTICE,
        ("cifar10",),
        {"smoke": "seconds", "cpu": "1 to 4 minutes on one core", "paper": "hours on one core"},
        order,
    ),
    Experiment(
        "pinson2023",
        "spectra",
        "Does a CNN with ReLUs learn late modes by fewer frequencies than a fully connected network?",
        _PRACTICE,
        ("cifar10",),
        {"smoke": "seconds", "cpu": "about 3 minutes on one core", "paper": "a day on one core"},
        spectra,
    ),
    Experiment(
        "pinson2023",
        "frequencies",
        "Does a trained CNN rest on the frequencies that dominate its data's structure?",
        _PRACTICE,
        ("cifar10",),
        {"smoke": "seconds", "cpu": "2 to 4 minutes on one core", "paper": "hours on one core"},
        frequencies,
    ),
    Experiment(
        "pinson2023",
        "swap",
        "Do networks go by the amplitudes of images, their texture, or by their phases, their shape?",
        _TEXTURE,
        ("cifar10",),
        {"smoke": "seconds", "cpu": "about 3 minutes on one core", "paper": "hours on one core"},
        swap,
    ),
    Experiment(
        "pinson2023",
        "shortcuts",
        "Is a frequency planted in one class found before training, used by a network, and gone once it is notched?",
        _SHORTCUT,
        ("cifar10",),
        {"smoke": "seconds", "cpu": "3 to 5 minutes on one core", "paper": "hours on one core"},
        shortcuts,
    ),
)
