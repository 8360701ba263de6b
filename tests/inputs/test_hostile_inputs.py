"""Hostile inputs at the doors: opening and reading them gives a result or a one-line error, and runs nothing."""

import os
import warnings
from collections import Counter

import pytest
import torch
from inputs.hostile import MARKER, Hostile, catalogue

from convscope.core.errors import ConvscopeError
from convscope.inputs.images import open_images
from convscope.inputs.networks import open_network

CATALOGUE = catalogue()
# What only the command line can judge: option syntax, output files, saved pages, images without a patch.
_DOORS = [h for h in CATALOGUE if h.kind not in {"bad-option", "broken-page", "odd-comparison", "too-small-images"}]


def test_catalogue_is_large_enough():
    sizes = Counter(h.kind for h in CATALOGUE)
    assert len(sizes) >= 25
    assert min(sizes.values()) >= 10, sizes
    assert sum(sizes.values()) >= 300
    assert len({str(h) for h in CATALOGUE}) == len(CATALOGUE)


@pytest.mark.parametrize("hostile", _DOORS, ids=str)
def test_ends_in_a_result_or_one_line(hostile: Hostile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = hostile.make(tmp_path)
    options = dict(zip(command.options[::2], command.options[1::2], strict=False))
    state = torch.random.get_rng_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _open(command, options)
        failed = False
    except ConvscopeError as error:
        failed = True
        text = str(error)
        assert "\n" not in text
        assert text.isprintable()
        assert len(text) < 1000 + 5 * max(map(len, (*command.models, command.images or "")))
        text.encode("utf-8")
    assert not (tmp_path / MARKER).exists(), "code was run"
    assert torch.equal(state, torch.random.get_rng_state())
    if hostile.fails is not None:
        assert failed == hostile.fails


def _open(command, options) -> None:
    if command.images is not None:
        source = open_images(command.images)
        read = [batch for _, batch in source.batches(4)]
        images = torch.cat([batch.images for batch in read])
        assert source.n is None or len(images) + len(source.unreadable) == source.n
        if not len(images):
            raise ConvscopeError("no readable image")
        for skip in source.unreadable:
            assert skip.what.isprintable()
            assert skip.reason.isprintable()
            assert skip.reason
            os.fsencode(skip.what)
        for name in source.classes or ():
            name.encode("utf-8")
    for model in command.models:
        opened = open_network(
            model, init=options.get("--init"), padding=int(options["--padding"]) if "--padding" in options else None
        )
        bound = opened.bound(images)
        assert torch.isfinite(bound.network.prepare(images[:2].double())).all()
