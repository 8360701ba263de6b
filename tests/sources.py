"""Images in memory, as a source that a pass can read."""

import torch

from convscope.core.batches import Batch


class ArraySource:
    sharded = True

    def __init__(self, images, labels=None, groups=None, fingerprint="array", bad=()):
        self.images, self.labels, self.groups, self.bad = images, labels, groups, set(bad)
        self.name, self.fingerprint, self.n = "an array", fingerprint, len(images)
        self.classes = None if labels is None else tuple(str(i) for i in range(int(labels.max()) + 1))
        self.unreadable, self.notes = [], []

    def batches(self, batch_size, *, start=0, rank=0, world=1, workers=0):
        from convscope.core.results import Skip

        own = torch.arange(rank, self.n, world)
        for at in range(start, len(own), batch_size):
            index = own[at : at + batch_size]
            for i in index.tolist():
                if i in self.bad:
                    self.unreadable.append(Skip(f"image {i}", "bad"))
            good = index[[i not in self.bad for i in index.tolist()]]
            labels = None if self.labels is None else self.labels[good]
            groups = None if self.groups is None else self.groups[good]
            yield min(at + batch_size, len(own)), Batch.of(self.images[good], labels, good, groups)
