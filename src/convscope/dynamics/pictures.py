"""What the page shows of a data set's modes: pictures, spectra, and curves of their learning."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from convscope.core.fourier import signed_frequencies
from convscope.dynamics.classes import pairwise
from convscope.dynamics.setting import Prediction, Setting, spaced
from convscope.dynamics.structure import DatasetStructure
from convscope.dynamics.trajectory import Trajectory

MOST_PICTURES = 12  # modes
MOST_CLASSES = 40  # of which the table of pairs is shown

Shown = dict[str, np.ndarray]


def pictures_of(structure: DatasetStructure, classes: int, setting: Setting) -> Shown:
    """Returns the first modes and their spectra, class vectors, growth rates, and how apart pairs of classes are.

    Args:
        structure: of the data set.
        classes: number of names.
        setting: for the unit of the growth rates: e-folds per step.
    """
    few = structure.modes[:MOST_PICTURES]
    vectors = torch.zeros(len(few), classes, dtype=torch.float64)
    vectors[:, : structure.class_vectors.shape[1]] = structure.class_vectors[:MOST_PICTURES]
    rate = structure.growth_rates / setting.steps(torch.ones(1)).item()
    found = {
        "modes": few.numpy(),
        "spectra": centred_spectra(structure.spectra[:MOST_PICTURES]).numpy(),
        "growth": centred_spectra(rate).numpy(),
        "class_vectors": vectors.numpy(),
    }
    if has_pairs(structure) and classes <= MOST_CLASSES:
        contrasts = pairwise(structure)
        apart = torch.full((classes, classes), torch.nan, dtype=torch.float64)
        a, b = contrasts.classes.T
        apart[a, b] = apart[b, a] = contrasts.effective_singular_values
        found["pairs"] = apart.numpy()
    return found


def has_pairs(structure: DatasetStructure) -> bool:
    """Returns whether there are several pairs of classes, but not too many to look at each."""
    return 2 < int((structure.counts > 0).sum()) <= MOST_CLASSES


def centred_spectra(spectra: Tensor) -> Tensor:
    """Returns numbers of each frequency [..., h, w] in rising order of signed frequencies, 0 near the middle."""
    h, w = spectra.shape[-2:]
    ky, kx = signed_frequencies(h, w).view(h, w, 2).unbind(-1)
    return spectra[..., ky[:, 0].argsort(), :][..., kx[0].argsort()]


def curves_of(structure: DatasetStructure, prediction: Prediction, setting: Setting) -> Shown:
    """Returns mode strengths over singular values at steps of SGD, those of the linear CNN and of the dense network."""
    found = {}
    for name, trajectory in (("", prediction.cnn), ("dense_", prediction.dense)):
        if trajectory is not None:
            times, strengths = sampled(trajectory, structure.singular_values)
            found[f"{name}steps"] = setting.steps(times).numpy()
            found[f"{name}strengths"] = strengths[:, :MOST_PICTURES].numpy()
    return found


def sampled(trajectory: Trajectory, singular_values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns times, evenly spaced in their logarithm, and mode strengths over singular values [T, m] there."""
    times = spaced(trajectory)
    times = times[times <= trajectory.times[-1]]
    if trajectory.method == "stages":  # strengths jump
        place = torch.searchsorted(trajectory.times, times, right=True) - 1
        return times, trajectory.mode_strengths[place] / singular_values
    at, own = times.numpy(), trajectory.times.numpy()
    columns = [np.interp(at, own, column.numpy()) for column in trajectory.mode_strengths.T]
    return times, torch.from_numpy(np.stack(columns, 1)) / singular_values
