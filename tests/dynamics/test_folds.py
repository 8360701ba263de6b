"""Error bars of modes."""

from dataclasses import replace

import numpy as np
import torch

from convscope.core.accumulate import jackknife
from convscope.dynamics.collect import dataset_structure
from convscope.dynamics.folds import keep_classes, matched, spreads


def data(n=80, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(n, 1, 6, 5, generator=generator, dtype=torch.float64), torch.arange(n) % 4
    images[labels == 1, :, :3] += 2
    images[labels == 2, :, :, :2] += 1
    images[labels == 3, :, ::2] += 0.5
    return images, labels


def test_modes_in_another_order_and_of_other_signs_are_found_again():
    whole = dataset_structure([data()])
    order = torch.tensor([2, 0, 1])
    other = replace(
        whole,
        singular_values=whole.singular_values[order],
        modes=-whole.modes[order],
        class_vectors=-whole.class_vectors[order],
    )
    assert matched(whole, other).tolist() == order.argsort().tolist()
    assert matched(whole, replace(other, modes=other.modes[:2], class_vectors=other.class_vectors[:2])).tolist() == [
        1,
        -1,
        0,
    ]


def test_spreads_are_the_jackknife_of_matched_modes():
    images, labels = data()
    whole = dataset_structure([(images, labels)])
    parts = torch.arange(len(images)).split(20)
    folds = []
    for part in parts:
        keep = torch.ones(len(images), dtype=torch.bool)
        keep[part] = False
        folds.append((len(part), dataset_structure([(images[keep], labels[keep])])))
    found = spreads(whole, folds, lambda s: s.singular_values)
    for mode in range(3):
        best = [int((s.modes.flatten(1) @ whole.modes[mode].flatten()).abs().argmax()) for _, s in folds]
        without = [float(s.singular_values[i]) for (_, s), i in zip(folds, best, strict=True)]
        expected = jackknife(float(whole.singular_values[mode]), without, [20.0] * 4)
        np.testing.assert_allclose(found[mode], expected)


def test_without_folds_nothing_is_known():
    whole = dataset_structure([data()])
    assert np.isnan(spreads(whole, (), lambda s: s.singular_values)).all()
    assert keep_classes(whole, ())


def test_a_fold_that_takes_a_class_away_is_noticed():
    images, labels = data()
    whole = dataset_structure([(images, labels)])
    keep = labels != 1
    assert not keep_classes(whole, [(20, dataset_structure([(images[keep], labels[keep])]))])
