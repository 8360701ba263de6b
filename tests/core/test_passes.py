import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sources import ArraySource
from zoo import build

from convscope.core.accumulate import Folded, Sums, jackknife
from convscope.core.batches import Batch, mix
from convscope.core.errors import ConvscopeError
from convscope.core.kept import Kept
from convscope.core.network import Network
from convscope.core.passes import Pass
from convscope.core.streams import EachOutput, Gradient, Images, Input, Output, Probes, RandomLabels


class Mean(Sums):
    def update(self, x, batch):
        self.add("sum", x.double().sum(0))
        self.add("n", torch.tensor(len(batch)))

    def compute(self):
        return self.sums["sum"] / self.sums["n"]


def source(n=150, **kwargs):
    g = torch.Generator().manual_seed(0)
    return ArraySource(torch.rand(n, 3, 12, 12, generator=g), torch.randint(0, 4, (n,), generator=g), **kwargs)


def slots_of(p, network):
    return {
        "images": p.feed(Images(size=(6, 6), gray=True), Mean),
        "input": p.feed(Input(network, "conv2"), Mean),
        "output": p.feed(Output(network, "down"), Mean),
        "gradient": p.feed(Gradient(network, "conv1", RandomLabels(1)), Mean),
        "some": p.feed(Gradient(network, "down", RandomLabels(2), images=40), Mean),
        "kept": p.feed(Images(), lambda: Kept(20), folded=False),
    }


def results(slots):
    out = {name: slot.value() for name, slot in slots.items() if name != "kept"}
    return out | {"kept": slots["kept"].value().x, "index": slots["kept"].value().index}


def run(**kwargs):
    torch.manual_seed(0)
    network = Network("net", build("residual").double())
    data = source()
    p = Pass(data, {"model": network}, **kwargs)
    slots = slots_of(p, network)
    coverage = p.run()
    return results(slots), coverage, slots


def close(a, b, tolerance):
    return all(torch.allclose(a[k].double(), b[k].double(), rtol=tolerance, atol=tolerance) for k in a)


def test_one_pass_feeds_all_and_equals_a_plain_loop():
    values, coverage, _ = run()
    data = source()
    assert coverage.images == 150
    assert coverage.complete
    assert torch.allclose(values["images"], Images((6, 6), True)(data.images).double().mean(0))
    module = build("residual").double().eval()
    x = data.images.double()
    y = torch.relu(module.norm(module.conv1(x)))
    assert torch.allclose(values["input"], y.mean(0), rtol=1e-12)
    assert torch.allclose(values["output"], module.down(module.conv2(y) + y).mean(0), rtol=1e-12)


def test_any_batching_gives_the_same_sums():
    whole, *_ = run(batch_size=64)
    for batch_size in (1, 7, 150):
        assert close(whole, run(batch_size=batch_size)[0], 1e-12)


def test_kept_images_are_those_with_the_smallest_hashes():
    values, *_ = run()
    data = source()
    expected = torch.argsort(mix(5, torch.arange(150)))[:20].sort().values
    assert torch.equal(values["index"], expected)
    assert torch.equal(values["kept"], data.images[expected])


def test_the_jackknife_over_folds_matches_the_textbook_for_a_mean():
    values = torch.randn(400, 1, 1, 1, generator=torch.Generator().manual_seed(2))
    p = Pass(ArraySource(values))
    slot = p.feed(Images(), Mean)
    p.run()
    number = slot.estimate(lambda m: float(m[0, 0, 0]))
    assert number.value == pytest.approx(float(values.double().mean()), rel=1e-12)
    assert number.spread == pytest.approx(float(values.std() / 20), rel=0.6)
    assert jackknife(1.0, [1.0], [3]) is None


def test_groups_share_a_fold():
    groups = torch.arange(60) // 10
    batch = Batch.of(torch.zeros(60, 1, 2, 2), None, torch.arange(60), groups)
    for g in range(6):
        assert len(set(batch.fold[groups == g].tolist())) == 1


def test_bad_images_are_left_out_and_listed():
    data = source(bad=[3, 100])
    data.images[70, 0, 0, 0] = float("nan")
    p = Pass(data)
    slot = p.feed(Images(), Mean)
    coverage = p.run()
    assert coverage.images == 147
    assert {s.what for s in coverage.unreadable} == {"image 3", "image 100", "image 70"}
    good = [i for i in range(150) if i not in {3, 70, 100}]
    assert torch.allclose(slot.value(), data.images[good].double().mean(0))


def test_nothing_readable_is_an_error_that_says_why():
    with pytest.raises(ConvscopeError, match=r"no readable image \(150 cannot be read; the first: bad\)"):
        Pass(source(bad=range(150)))


def test_folds_shrink_to_fit_memory_and_then_the_spread_is_not_computed():
    data = source()
    one = 12 * 12 * 3 * 8 + 8
    for memory, folds in [(10 * one, 10), (9 * one, 4), (4 * one, 4), (3 * one, 1)]:
        p = Pass(data, max_memory=memory)
        slot = p.feed(Images(), Mean)
        coverage = p.run()
        assert coverage.folds == folds
        number = slot.estimate(lambda m: float(m.mean()))
        assert (number.spread is None) == (folds == 1)
        assert any("not computed" in note for note in coverage.notes) == (folds == 1)


def fold_run(max_memory):
    """Returns the folds of one small slot, two large and one that has none, with the coverage of their pass."""
    network = Network("net", build("residual"))
    p = Pass(source(), {"model": network}, max_memory=max_memory)
    small = p.feed(Images(size=(2, 2), gray=True), Mean, label="small")
    large = [p.feed(Output(network, name), Mean, label="large") for name in ("conv1", "conv2")]
    p.feed(Images(), Mean, folded=False)
    coverage = p.run()
    for slot in (small, *large):
        assert len(slot.leave_one_out()) == (slot.folds if slot.folds > 1 else 0)
    return [slot.folds for slot in (small, *large)], coverage


def test_only_the_largest_sums_lose_their_folds():
    # Bytes: float64 sums and a counter.
    whole, small = 12 * 12 * 3 * 8 + 8, 4 * 8 + 8
    large = build("residual").conv1(source().images[:1]).numel() * 8 + 8
    for memory, folds in [
        (whole + 10 * small + 20 * large, [10, 10, 10]),
        (whole + 10 * small + 20 * large - 1, [10, 4, 4]),
        (whole + 10 * small + 8 * large, [10, 4, 4]),
        (whole + 10 * small + 8 * large - 1, [10, 1, 1]),
        (whole + 10 * small + 2 * large - 1, [4, 1, 1]),
        (0, [1, 1, 1]),
    ]:
        found, coverage = fold_run(memory)
        assert found == folds
        assert coverage.folds == max(folds)
        lost = [note for note in coverage.notes if "not computed" in note]
        expected = (
            [] if folds[1] > 1 else ["large of conv1, conv2"] if folds[0] > 1 else ["small; large of conv1, conv2"]
        )
        assert lost == [
            f"Spreads were not computed for {what}: the sums of several folds would not fit into memory."
            for what in expected
        ]


def test_sums_may_ask_for_fewer_folds_and_then_all_as_large_get_no_more():
    network = Network("net", build("residual"))
    p = Pass(source(), {"model": network})
    few = p.feed(Output(network, "conv1"), Mean, folds=5)
    many = p.feed(Images(), Mean)
    as_large = p.feed(Output(network, "conv2"), Mean)
    p.run()
    assert [slot.folds for slot in (few, many, as_large)] == [5, 10, 5]
    assert len(few.leave_one_out()) == 5
    tight = Pass(source(), {"model": network}, max_memory=few.value().numel() * 8 * 4 + 32)
    slot = tight.feed(Output(network, "conv1"), Mean, folds=5)
    tight.run()
    assert slot.folds == 4


def test_a_checkpoint_with_other_folds_is_refused(tmp_path, monkeypatch):
    network = Network("net", build("residual"))
    file = tmp_path / "pass.checkpoint"

    def half_run(max_memory, resume):
        p = Pass(source(), {"model": network}, batch_size=32, max_memory=max_memory, checkpoint_seconds=0)
        p.feed(Images(size=(2, 2), gray=True), Mean)
        p.feed(Output(network, "conv1"), Mean)
        return p.run(file, resume=resume)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_args, **_kwargs: None)
        half_run(2**30, False)
    with pytest.raises(ConvscopeError, match="belongs to another run"):
        half_run(10**4, True)
    assert half_run(2**30, True).resumed == 150


def test_a_checkpoint_of_other_vectors_sent_back_is_refused(tmp_path, monkeypatch):
    network = Network("net", build("residual"))
    file = tmp_path / "pass.checkpoint"

    def half_run(cotangent, resume):
        p = Pass(source(), {"model": network}, batch_size=32, checkpoint_seconds=0)
        p.feed(Gradient(network, "conv1", cotangent), Mean)
        return p.run(file, resume=resume)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_args, **_kwargs: None)
        half_run(Probes(1, seed=0), False)
    for other in (Probes(1, seed=1), Probes(1, 0, "probabilities"), EachOutput()):
        with pytest.raises(ConvscopeError, match="belongs to another run"):
            half_run(other, True)
    assert half_run(Probes(1, seed=0), True).resumed == 150


def test_a_failing_stream_does_not_stop_the_others():
    network = Network("net", build("residual"))
    p = Pass(source(), {"model": network})
    bad = p.feed(Input(network, "nowhere"), Mean)
    good = p.feed(Images(), Mean)
    p.run()
    good.value()
    with pytest.raises(ConvscopeError, match="nowhere"):
        bad.value()


def child(tmp_path, mode, kill=-1, world=1, rank=0, port=0):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    if world > 1:
        environment |= {
            "RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)
        }  # fmt: skip
    command = [sys.executable, str(Path(__file__).parents[1] / "pass_child.py"), str(tmp_path), mode, str(kill)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finished(process):
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


@pytest.mark.parametrize(
    ("kill", "images"),
    [(1, 64), (4, 150), pytest.param(2, 96, marks=pytest.mark.slow), pytest.param(3, 128, marks=pytest.mark.slow)],
)
def test_a_killed_pass_resumes_at_its_checkpoint_to_the_same_numbers(tmp_path, kill, images):
    assert finished(child(tmp_path, "whole"))[0] == 0
    whole = torch.load(tmp_path / "whole.pt")
    code, errors = finished(child(tmp_path, "killed", kill))
    assert code == -signal.SIGKILL, errors
    code, errors = finished(child(tmp_path, "resumed"))
    assert code == 0, errors
    resumed = torch.load(tmp_path / "resumed.pt")
    assert resumed.pop("was_resumed") == images
    assert close(whole, resumed, 1e-12)
    assert not list(tmp_path.glob("*.checkpoint*"))


def free_port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize(
    ("world", "mode", "tolerance"),
    [
        (2, "whole", 1e-12),
        (3, "tiny", 1e-12),
        (2, "float32", 1e-5),
        pytest.param(3, "whole", 1e-12, marks=pytest.mark.slow),
        pytest.param(3, "float32", 1e-5, marks=pytest.mark.slow),
    ],
)
def test_processes_agree_with_one(tmp_path, world, mode, tolerance):
    assert finished(child(tmp_path, mode))[0] == 0
    one = torch.load(tmp_path / f"{mode}.pt")
    port = free_port()
    started = [child(tmp_path, mode, world=world, rank=r, port=port) for r in range(world)]
    for process in started:
        code, errors = finished(process)
        assert code == 0, errors
    assert close(one, torch.load(tmp_path / f"{mode}.pt"), tolerance)


def test_interrupting_uses_what_was_read_and_can_resume(tmp_path):
    file = tmp_path / "a.checkpoint"
    whole, *_ = run()

    def make(interrupt):
        network = Network("net", build("residual").double())
        data = source()
        p = Pass(data, {"model": network}, batch_size=16)
        slots = slots_of(p, network)
        if interrupt:
            original = slots["images"].make

            class Interrupting(Mean):
                def update(self, x, batch):
                    super().update(x, batch)
                    if 90 in batch.index:
                        os.kill(os.getpid(), signal.SIGINT)

            assert original is Mean
            slots["images"].make = Interrupting
            slots["images"].label = "Mean"
            Interrupting.__name__ = "Mean"
        return p, slots

    p, slots = make(True)
    coverage = p.run(file)
    assert not coverage.complete
    assert coverage.images == 96
    assert "Interrupted after 96 of 150 images" in coverage.notes[-1]
    assert torch.allclose(slots["images"].value(), Images((6, 6), True)(source().images[:96]).double().mean(0))
    p, slots = make(False)
    coverage = p.run(file, resume=True)
    assert coverage.resumed == 96
    assert coverage.complete
    assert close(whole, results(slots), 1e-12)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    file = tmp_path / "a.checkpoint"
    file.write_bytes(b"not a checkpoint")
    p = Pass(source())
    p.feed(Images(), Mean)
    with pytest.raises(ConvscopeError, match="cannot be read"):
        p.run(file, resume=True)
    torch.save({"a": 1}, file)
    with pytest.raises(ConvscopeError, match="no checkpoint of convscope"):
        p.run(file, resume=True)
    torch.save({"fingerprint": "other"}, file)
    with pytest.raises(ConvscopeError, match="belongs to another run"):
        p.run(file, resume=True)


def test_folded_state_survives_a_round_trip():
    data = source()
    batch = Batch.of(data.images, None, torch.arange(150))
    a = Folded(Mean, 5)
    a.update(batch.images, batch)
    b = Folded(Mean, 5)
    b.load_state_dict(a.state_dict())
    assert b.counts == a.counts
    assert torch.equal(a.compute(), b.compute())
    assert len(b.leave_one_out()) == 5
