"""Opening images: every kind of file, the order and the shares, sizes and labels."""

import gzip
import pickle
import struct
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs.hostile import good_picture, pixels
from PIL import Image
from torch.utils.data import TensorDataset

from convscope.core.batches import mix
from convscope.core.errors import ConvscopeError
from convscope.inputs.arrays import ArrayStore
from convscope.inputs.images import open_images
from convscope.inputs.stores import StoredSource, crop_and_resize, fit


def read(source, batch_size=5, **share):
    """Returns index -> (image, label) and the numbers of consumed images."""
    found, consumed = {}, []
    for done, batch in source.batches(batch_size, **share):
        consumed.append(done)
        for k, i in enumerate(batch.index.tolist()):
            assert i not in found
            found[i] = (batch.images[k], None if batch.labels is None else int(batch.labels[k]))
    return found, consumed


def check(source, images, labels=None, tolerance=1e-6):
    """Compares a source with images [n, h, w, c] in 0..255 and labels, by their place."""
    found, _ = read(source)
    assert sorted(found) == list(range(len(images)))
    for i, (image, label) in found.items():
        assert image.dtype == torch.float32
        expected = torch.from_numpy(images[i].astype(np.float64) / 255).permute(2, 0, 1).float()
        assert torch.allclose(image, expected, atol=tolerance)
        assert label == (None if labels is None else labels[i])


X = pixels(11)
Y = np.arange(11) % 3


@pytest.mark.parametrize(
    ("change", "scale"),
    [
        (lambda x: x, 1),
        (lambda x: x.transpose(0, 3, 1, 2), 1),
        (lambda x: x.astype(np.float32) / 255, 1),
        (lambda x: x.astype(np.float64), 1),
        (lambda x: x.astype(np.int64), 1),
        (lambda x: x.astype(np.uint16) * 257, 1),
        (np.asfortranarray, 1),
        (lambda x: x.astype(">i4"), 1),
    ],
    ids=["nhwc", "nchw", "float01", "float255", "int64", "uint16", "fortran", "big-endian"],
)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_arrays_of_any_layout(tmp_path, change, scale, ending):
    file = tmp_path / f"x.{ending}"
    if ending == "npy":
        np.save(file, change(X))
        check(open_images(str(file)), X)
    else:
        np.savez_compressed(file, x_train=change(X), y_train=Y, x_test=change(X)[:2], y_test=Y[:2])
        source = open_images(str(file))
        check(source, X, Y)
        assert source.classes == ("0", "1", "2")
        assert source.shape == (3, 8, 8)
        assert any("x_train" in note for note in source.notes)


def test_gray_arrays_and_several_files(tmp_path):
    for k in range(2):
        np.savez(tmp_path / f"part_{k}.npz", images=X[k::2, ..., 0], labels=Y[k::2])
    order = np.concatenate([np.arange(11)[k::2] for k in range(2)])
    source = open_images(f"{tmp_path}/part_*.npz")
    check(source, X[order][..., :1], Y[order])
    assert source.shape == (1, 8, 8)
    same = open_images(",".join(str(tmp_path / f"part_{k}.npz") for k in range(2)))
    assert same.fingerprint == source.fingerprint


def test_class_names_by_class_and_by_image(tmp_path):
    np.savez(tmp_path / "a.npz", images=X, labels=Y, names=np.array(["cat", "dog", "cow"]))
    assert open_images(str(tmp_path / "a.npz")).classes == ("cat", "dog", "cow")
    labels = 2 * np.arange(11)
    np.savez(tmp_path / "b.npz", images=X, labels=labels, names=np.array([f"n{k}" for k in range(11)]))
    assert open_images(str(tmp_path / "b.npz")).classes[:4] == ("n0", "1", "n1", "3")


def test_groups_share_a_fold(tmp_path):
    groups = np.array([7, 7, 9, 9, 9, 1, 1, 1, 1, 2, 2])
    np.savez(tmp_path / "a.npz", images=X, groups=groups)
    folds = {}
    for _, batch in open_images(str(tmp_path / "a.npz")).batches(4):
        for i, fold in zip(batch.index.tolist(), batch.fold.tolist(), strict=True):
            assert folds.setdefault(groups[i], fold) == fold
    assert len(set(folds.values())) == 4


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape) + array.tobytes()


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_with_labels_beside(tmp_path, zipped):
    end, pack = (".gz", gzip.compress) if zipped else ("", bytes)
    (tmp_path / f"train-images-idx3-ubyte{end}").write_bytes(pack(idx(X[..., 0])))
    (tmp_path / f"train-labels-idx1-ubyte{end}").write_bytes(pack(idx(Y.astype(np.uint8))))
    (tmp_path / f"t10k-images-idx3-ubyte{end}").write_bytes(pack(idx(X[:2, ..., 0])))
    check(open_images(str(tmp_path / f"train-images-idx3-ubyte{end}")), X[..., :1], Y)
    folder = open_images(str(tmp_path))
    check(folder, X[..., :1], Y)
    assert any("train-images" in note for note in folder.notes)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_cifar_batches(tmp_path, protocol):
    images = pixels(10, 32, 32)
    rows = images.transpose(0, 3, 1, 2).reshape(10, 3072)
    for k in range(2):
        content = {b"data": rows[5 * k : 5 * k + 5], b"labels": [int(v) for v in range(5)]}
        (tmp_path / f"data_batch_{k + 1}").write_bytes(pickle.dumps(content, protocol))
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcde")}, protocol))
    source = open_images(str(tmp_path))
    check(source, images, list(range(5)) * 2)
    assert source.classes == tuple("abcde")
    check(open_images(str(tmp_path / "data_batch_2")), images[5:], list(range(5)))


def test_cifar_100_folder(tmp_path):
    images = pixels(4, 32, 32)
    rows = images.transpose(0, 3, 1, 2).reshape(4, 3072)
    (tmp_path / "train").write_bytes(
        pickle.dumps({"data": rows, "fine_labels": [3, 1, 0, 2], "coarse_labels": [0] * 4})
    )
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": list("wxyz"), "coarse_label_names": ["c"]}))
    source = open_images(str(tmp_path))
    check(source, images, [3, 1, 0, 2])
    assert source.classes == tuple("wxyz")


def folder_of(root, classes=("cat", "dog"), each=4, loose=0):
    names = []
    for c in classes:
        for k in range(each):
            names.append(
                good_picture(root / c / "deeper" / f"{k}.png" if k else root / c / f"{k}.PNG", seed=len(names))
            )
    for k in range(loose):
        names.append(good_picture(root / f"z{k}.png", seed=len(names)))
    return names


def test_folder_gives_labels_by_sub_folder(tmp_path):
    folder_of(tmp_path, loose=2)
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"")
    source = open_images(str(tmp_path))
    assert source.n == 10
    assert source.classes == ("cat", "dog")
    found, _ = read(source)
    assert [found[i][1] for i in range(10)] == [0] * 4 + [1] * 4 + [-1] * 2
    assert any("2 images directly in the folder" in note for note in source.notes)
    assert any("1 files of other kinds" in note for note in source.notes)


def test_folder_without_classes_is_unlabelled(tmp_path):
    folder_of(tmp_path, classes=(), loose=3)
    source = open_images(str(tmp_path))
    assert source.classes is None
    assert all(label is None for _, label in read(source)[0].values())


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_pictures_are_listed_and_counted(tmp_path, workers):
    folder_of(tmp_path)
    (tmp_path / "cat" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "dog" / "cut.png").write_bytes((tmp_path / "dog" / "0.PNG").read_bytes()[:60])
    source = open_images(str(tmp_path))
    state = torch.random.get_rng_state()
    found, consumed = read(source, 3, workers=workers)
    assert torch.equal(state, torch.random.get_rng_state())
    assert len(found) == 8
    assert consumed[-1] == source.n == 10
    assert {skip.what for skip in source.unreadable} == {"cat/broken.png", "dog/cut.png"}
    again, _ = read(source, 4, workers=workers)
    assert len(source.unreadable) == 2, "a second reading reports nothing twice"
    assert all(torch.equal(found[i][0], again[i][0]) for i in found)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 40),
    limit=st.integers(1, 50),
    world=st.integers(1, 5),
    batch=st.integers(1, 9),
    start=st.integers(0, 10),
)
def test_shares_partition_the_images_and_resume_anywhere(n, limit, world, batch, start):
    images = np.zeros((n, 2, 2, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(n)

    def source():
        return StoredSource(ArrayStore("x", images), limit=limit)

    shares = [read(source(), batch, rank=r, world=world)[0] for r in range(world)]
    together = [i for share in shares for i in share]
    assert len(together) == len(set(together)) == min(n, limit)
    chosen = mix(4, torch.arange(n)).argsort()[:limit].tolist()
    assert set(together) == set(chosen)
    for r, share in enumerate(shares):
        order = list(share)
        assert order == chosen[r::world]
        rest, consumed = read(source(), batch, start=start, rank=r, world=world)
        assert list(rest) == order[start:]
        if rest:
            assert consumed[-1] == len(order)


def test_limit_is_a_random_choice_of_the_folder(tmp_path):
    folder_of(tmp_path, classes=tuple("abcdef"), each=10)
    source = open_images(str(tmp_path), limit=20)
    labels = {label for _, label in read(source)[0].values()}
    assert source.n == 20
    assert len(labels) >= 5


def test_fingerprint_follows_content_and_options(tmp_path):
    np.save(tmp_path / "x.npy", X)
    first = open_images(str(tmp_path / "x.npy")).fingerprint
    assert first == open_images(str(tmp_path / "x.npy")).fingerprint
    assert first != open_images(str(tmp_path / "x.npy"), limit=5).fingerprint
    assert first != open_images(str(tmp_path / "x.npy"), gray=True).fingerprint
    changed = X.copy()
    changed[5, 5, 5] ^= 1
    np.save(tmp_path / "x.npy", changed)
    assert first != open_images(str(tmp_path / "x.npy")).fingerprint
    folder_of(tmp_path / "f")
    before = open_images(str(tmp_path / "f")).fingerprint
    good_picture(tmp_path / "f" / "cat" / "new.png")
    assert before != open_images(str(tmp_path / "f")).fingerprint


def test_several_sizes_are_brought_to_one(tmp_path):
    for k, size in enumerate(((10, 20), (12, 12), (40, 14))):
        good_picture(tmp_path / f"{k}.png", size, k)
    assert open_images(str(tmp_path)).shape == (3, 12, 12)
    assert open_images(str(tmp_path), suggested=(6, 8)).shape == (3, 6, 8)
    source = open_images(str(tmp_path), size=9, gray=True)
    assert source.shape == (1, 9, 9)
    assert {image.shape for image, _ in read(source)[0].values()} == {(1, 9, 9)}
    assert any("10x20 to 40x14" in note for note in source.notes)


def test_one_size_is_left_alone_unless_asked(tmp_path):
    for k in range(3):
        good_picture(tmp_path / f"{k}.png", (10, 20), k)
    assert open_images(str(tmp_path), suggested=(6, 6)).shape == (3, 10, 20)
    assert open_images(str(tmp_path), size=6).shape == (3, 6, 6)


def test_crop_and_resize_is_centred_and_keeps_constants():
    x = torch.zeros(1, 1, 6, 14, dtype=torch.float64)
    x[..., 4:10] = 1
    assert torch.equal(crop_and_resize(x, (6, 6)), torch.ones(1, 1, 6, 6, dtype=torch.float64))
    assert torch.allclose(crop_and_resize(x, (3, 3)), torch.ones(1, 1, 3, 3, dtype=torch.float64))
    # Mirroring commutes with it.
    y = torch.rand(2, 3, 20, 32, dtype=torch.float64)
    assert torch.allclose(crop_and_resize(y, (8, 8)).flip(3), crop_and_resize(y.flip(3), (8, 8)), atol=1e-12)
    assert fit(torch.rand(1, 1, 3000), (3, 4, 4)).shape == (3, 4, 4)


def test_16_bit_pictures_keep_their_precision(tmp_path):
    values = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000 + 7).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    found, _ = read(open_images(str(tmp_path)))
    assert torch.allclose(found[0][0][0].double(), torch.from_numpy(values / 65535.0), atol=1e-7)


def test_exif_orientation_and_transparency(tmp_path):
    picture = Image.fromarray(pixels(1, 6, 10)[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "a.png", exif=exif)
    source = open_images(str(tmp_path))
    assert source.shape == (3, 10, 6)
    expected = torch.from_numpy(np.rot90(np.asarray(picture), -1).copy()).permute(2, 0, 1) / 255
    assert torch.allclose(read(source)[0][0][0], expected)
    rgba = np.concatenate([pixels(1, 6, 10)[0], np.zeros((6, 10, 1), np.uint8)], 2)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert torch.allclose(
        read(open_images(str(tmp_path)))[0][0][0], torch.from_numpy(rgba[..., :3]).permute(2, 0, 1) / 255
    )


def test_loader_gives_a_data_set_or_batches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_loaders.py").write_text(
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "x, y = torch.rand(7, 3, 4, 4), torch.arange(7) % 3\n"
        "def dataset(): return TensorDataset(x, y)\n"
        "def batches(): return [(x[:4], y[:4]), (x[4:], y[4:])]\n"
        "def broken(): raise KeyError('two\\nlines')\n"
    )
    source = open_images("my_loaders:dataset", limit=5)
    assert (source.n, source.shape, source.classes, source.sharded) == (5, (3, 4, 4), ("0", "1", "2"), True)
    assert len(read(source)[0]) == 5
    source = open_images("my_loaders:batches")
    assert (source.sharded, source.classes) == (False, ("0", "1", "2"))
    assert len(read(source, 3)[0]) == 7
    with pytest.raises(ConvscopeError, match=r"my_loaders:broken\(\) failed \(KeyError"):
        open_images("my_loaders:broken")
    with pytest.raises(ConvscopeError, match="leave out limit"):
        open_images("my_loaders:batches", limit=3)


def test_data_set_of_pictures_is_read_by_number():
    class Pictures(torch.utils.data.Dataset):
        classes = ("a", "b")

        def __len__(self):
            return 6

        def __getitem__(self, i):
            if i == 4:
                raise OSError("disk on fire")
            return Image.fromarray(X[i]), i % 2

    from convscope.inputs.datasets import as_source

    source = as_source(Pictures(), "mine")
    found, consumed = read(source)
    assert consumed[-1] == 6
    assert source.classes == ("a", "b")
    assert [s.what for s in source.unreadable] == ["image 4"]
    assert "disk on fire" in source.unreadable[0].reason
    assert all(found[i][1] == i % 2 for i in found)


def test_classes_are_none_where_a_data_set_does_not_tell_their_number():
    class Silent(torch.utils.data.Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, i):
            return {"image": torch.zeros(3, 2, 2), "label": i}

    from convscope.inputs.datasets import as_source

    source = as_source(Silent())
    assert source.classes is None
    assert [label for _, (_, label) in sorted(read(source)[0].items())] == [0, 1, 2, 3, 4]
    assert as_source(TensorDataset(torch.zeros(4, 3, 2, 2), torch.tensor([0, 5, 1, 2]))).classes[-1] == "5"


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": -3}, {"size": 0}])
def test_wrong_arguments(tmp_path, options):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ValueError, match="must be at least 1"):
        open_images(str(tmp_path / "x.npy"), **options)


@pytest.mark.parametrize("ending", ["bmp", "gif", "jpg", "png", "ppm", "tiff", "webp"])
def test_every_kind_of_picture_is_opened(tmp_path, ending):
    Image.fromarray(pixels(1, 8, 9)[0]).save(tmp_path / f"a.{ending}")
    found, _ = read(open_images(str(tmp_path)))
    assert found[0][0].shape == (3, 8, 9)
