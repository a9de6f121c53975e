"""Work on a Dask cluster of processes on this machine, some of which are killed midway."""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import DEVNULL

import pytest
from threadpoolctl import threadpool_limits

import minivideococa as mvc
from minivideococa import cli, cluster
from minivideococa.cluster import Cluster, map_in_order
from minivideococa.demo import CLIPS
from minivideococa.evaluation import Entry, evaluate, write_manifest
from minivideococa.library import Clip

distributed = pytest.importorskip("distributed")
TREE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A cluster of four processes with one thread each. Tests kill three of them, which are not replaced."""
    import dask

    command = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-nanny", "--nthreads", "1"]
    command += ["--no-dashboard", "--local-directory", str(tmp_path_factory.mktemp("dask"))]
    environment = os.environ | {"PYTHONPATH": str(TREE), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    # how long a dead worker is called before its results are computed again: 30 seconds by default
    patience = dask.config.set({"distributed.comm.timeouts.connect": "3s"})
    options = {"dashboard_address": None, "silence_logs": logging.CRITICAL}
    with patience, distributed.LocalCluster(n_workers=0, **options) as local:
        command.append(local.scheduler_address)
        local.processes = [subprocess.Popen(command, env=environment, stderr=DEVNULL) for _ in range(4)]
        with distributed.Client(local) as client:
            client.wait_for_workers(4, timeout=150)
        yield local
        for process in local.processes:
            process.kill()
            process.wait()


@pytest.fixture(autouse=True)
def one_blas_thread():
    with threadpool_limits(1, "blas"):
        yield


def kill_a_worker(local):
    process = local.processes.pop()
    process.kill()
    process.wait()


# Any work


@pytest.mark.slow
def test_results_are_in_order_and_the_model_is_loaded_once_a_worker(local, tmp_path):
    def load():
        (tmp_path / f"{os.getpid()}-{time.time_ns()}").touch()
        return "model"

    def slower_at_first(loaded, item):
        time.sleep(0.2 if item == 0 else 0.01)
        return loaded, item, os.getpid()

    found = list(map_in_order(Cluster(local.scheduler_address, load), slower_at_first, range(30)))
    assert [result[:2] for result in found] == [("model", i) for i in range(30)]
    assert len({pid for *_, pid in found}) == len(list(tmp_path.iterdir())) > 1


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_repeats_nothing(local, tmp_path):
    def work(_, item):
        with open(tmp_path / str(item), "a") as file:
            file.write("computed\n")
        time.sleep(0.05)
        return item

    found = []
    for item in map_in_order(Cluster(local.scheduler_address, dict), work, range(40)):
        found.append(item)
        if len(found) == 5:
            kill_a_worker(local)
    assert found == list(range(40))
    again = sum(len((tmp_path / str(item)).read_text().split()) - 1 for item in range(40))
    assert again > 0  # what the worker was at, and what it had not yet handed over
    assert not local.scheduler.tasks  # nothing is left behind


def test_no_more_than_a_few_items_are_ahead(local, monkeypatch):
    monkeypatch.setattr(cluster, "AHEAD", 3)
    taken = []
    items = (taken.append(i) or i for i in range(6))
    results = map_in_order(Cluster(local.scheduler_address, dict), lambda _, i: time.sleep(0.1) or i, items)
    assert next(results) == 0 and taken == [0, 1, 2]
    assert list(results) == list(range(1, 6))


def test_a_result_does_not_wait_for_items_that_take_long(local):
    """`index` reads each file to the end before it hands it out."""

    found = []

    def items():
        while not found:
            yield 1
            time.sleep(0.01)

    results = map_in_order(Cluster(local.scheduler_address, dict), lambda _, item: item, items())
    found.append(next(results))
    assert len([*found, *results]) < cluster.AHEAD


def test_errors_of_the_work_are_raised(local):
    def fail(_, item):
        raise ValueError("one line")

    def unloadable():
        raise OSError("no weights")

    address = local.scheduler_address
    with pytest.raises(ValueError, match="^one line$"):
        list(map_in_order(Cluster(address, dict), fail, [1]))
    with pytest.raises(OSError, match="^no weights$"):
        list(map_in_order(Cluster(address, unloadable), fail, [1]))


def test_each_warning_of_the_workers_is_shown_once_a_run(local):
    def load():
        warnings.warn("the model is odd", stacklevel=2)

    def warn(_, item):
        warnings.warn(f"item {item % 2} is odd", stacklevel=2)

    for i in range(2):  # the same workers
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            list(map_in_order(Cluster(local.scheduler_address, load), warn, range(6)))
        texts = [str(warning.message) for warning in caught]
        if i == 0:  # a worker that had no item yet may load the model in the second run
            assert texts.pop(0) == "the model is odd"
        assert sorted({*texts} - {"the model is odd"}) == ["item 0 is odd", "item 1 is odd"]
        assert len({*texts}) == len(texts)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "foo://host:1"])
def test_an_address_without_a_scheduler_is_an_error(address, monkeypatch, capfd):
    monkeypatch.setattr(cluster, "TIMEOUT", 0.2)
    with pytest.raises((OSError, ValueError), match=f"^{address}: no Dask scheduler [^\n]*8786$"):
        list(map_in_order(Cluster(address, dict), max, [1]))
    assert "Traceback" not in capfd.readouterr().err


def test_a_scheduler_that_never_answers_is_an_error(monkeypatch, capfd):
    monkeypatch.setattr(cluster, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(OSError, match=f"^{address}: no Dask scheduler [^\n]*within 0.1 s[^\n]*8786$"):
            list(map_in_order(Cluster(address, dict), max, [1]))
    assert "Traceback" not in capfd.readouterr().err


# evaluate


def entries(folder):
    """The demo's clips with everything to ask about, and one that is no video."""
    (folder / "broken.gif").write_bytes(b"no clip")
    clips = [*sorted(CLIPS.glob("*.gif")), folder / "broken.gif"]
    return [Entry(clip, ("a red circle", "a star"), ("star",), "there is a", "red star") for clip in clips]


@contextmanager
def counted(total, unit, then=lambda: None, counts=None):
    def update(count, note=""):
        counts[unit] = counts.get(unit, 0) + count
        if unit == "videos" and counts[unit] == 1:
            then()

    yield update


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:left out")
def test_evaluate_has_the_same_result_with_a_worker_killed(local, tmp_path):
    given, model, counts = entries(tmp_path), mvc.load(), {}
    options = {"num_frames": 2, "train": given[:2], "beams": 1}
    alone = evaluate(model, given, **options)
    spread = evaluate(
        model,
        given,
        **options,
        cluster=Cluster(local.scheduler_address, mvc.load),
        progress=partial(counted, then=partial(kill_a_worker, local), counts=counts),
    )
    assert spread == alone  # every number to the bit
    assert counts["videos"] == len(given) == 6 and counts["training videos"] == 2


@pytest.mark.slow
def test_workers_encode_and_generate_and_fill_the_cache(local, tmp_path, monkeypatch):
    given, model = entries(tmp_path)[:3], mvc.load()
    alone = evaluate(model, given, num_frames=1, beams=1)

    def not_here(*_, **__):
        raise AssertionError("not on the cluster")

    monkeypatch.setattr(mvc.VideoCoCa, "encode_video", not_here)
    monkeypatch.setattr("minivideococa.evaluation.tasks.caption.caption_batch", not_here)
    there, options = Cluster(local.scheduler_address, mvc.load), {"num_frames": 1, "beams": 1}
    assert evaluate(model, given, **options, cluster=there) == alone
    options["cache"] = tmp_path / "cache"
    assert evaluate(model, given, **options, cluster=there) == alone
    assert evaluate(model, given, **options) == alone  # from the cache


@pytest.mark.slow
def test_a_worker_with_another_model_or_version_is_an_error(local, tmp_path, monkeypatch):
    given, address = entries(tmp_path)[:1], local.scheduler_address
    with pytest.raises(ValueError, match="^a worker loads other weights than this process[^\n]*$"):
        evaluate(mvc.load(), given, cluster=Cluster(address, partial(mvc.load, tuned="questions")))
    monkeypatch.setattr("minivideococa.cluster.__version__", "9.9")
    with pytest.raises(ValueError, match=r"^a worker has minivideococa [^\n]*not 9\.9[^\n]*$"):
        evaluate(mvc.load(), given, cluster=Cluster(address, mvc.load))


@pytest.mark.slow
def test_the_command_on_a_cluster_prints_what_it_prints_alone(local, tmp_path, capsys, monkeypatch):
    write_manifest(tmp_path / "m.jsonl", entries(tmp_path))
    monkeypatch.chdir(tmp_path)  # the workers are elsewhere
    command = ["evaluate", "m.jsonl", "--frames", "1", "--beams", "1", "--json", "--no-cache"]
    printed = []
    for more in [], ["--scheduler", local.scheduler_address]:
        assert cli.main([*command, *more]) == 3
        printed.append(capsys.readouterr())
    assert printed[0] == printed[1]
    assert "broken.gif" in printed[0].err and json.loads(printed[0].out)["videos"] == 5


# index


def files_in(folder, pattern="[!.]*"):
    return {path.name: path.read_bytes() for path in Path(folder).glob(pattern)}


def parts_of_clips(folder):
    """24 parts of the demo's clips, a copy of one, in it twice, and two copies of what is no video."""
    clips = [Clip(str(path), t, t + 0.4) for t in (0, 0.4, 0.8, 1.2) for path in sorted(CLIPS.glob("*.gif"))]
    for name in "broken.gif", "broken too.gif":
        (folder / name).write_bytes(b"no clip")
    copy = shutil.copy(clips[0].path, folder)
    return [*clips[:3], Clip(copy, 0, 0.4), folder / "broken.gif", folder / "broken too.gif", *clips[3:]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*only 1 different frame")
def test_index_has_the_same_library_with_a_worker_killed(local, tmp_path):
    clips, model, counts = parts_of_clips(tmp_path), mvc.load(), {}
    alone = mvc.index(model, clips, tmp_path / "alone", num_frames=2)
    spread = mvc.index(
        model,
        clips,
        tmp_path / "spread",
        num_frames=2,
        cluster=Cluster(local.scheduler_address, mvc.load),
        progress=partial(counted, then=partial(kill_a_worker, local), counts=counts),
    )
    assert spread == alone and spread["copies"] == 1 and len(spread["unreadable"]) == 2
    assert files_in(tmp_path / "spread") == files_in(tmp_path / "alone")  # to the bit, in the same order
    assert counts == {"videos": len(clips)}


@pytest.mark.slow
def test_index_encodes_on_the_cluster_and_goes_on_after_an_interruption(local, tmp_path, monkeypatch):
    clips, model = parts_of_clips(tmp_path), mvc.load()
    options = {"num_frames": 1, "cluster": Cluster(local.scheduler_address, mvc.load)}

    def interrupt():
        raise KeyboardInterrupt

    def not_here(*_, **__):
        raise AssertionError("not on the cluster")

    alone = mvc.index(model, clips, tmp_path / "alone", num_frames=1)
    monkeypatch.setattr("minivideococa.library.build.encode_clip", not_here)
    with pytest.raises(KeyboardInterrupt):
        mvc.index(
            model, clips, tmp_path / "spread", progress=partial(counted, then=interrupt, counts={}), **options
        )
    spread = mvc.index(model, clips, tmp_path / "spread", **options)
    assert spread["known"] == 1 and spread["added"] == alone["added"] - 1
    [written], [expected] = (files_in(tmp_path / x, "shard-*").values() for x in ("spread", "alone"))
    assert written == expected


@pytest.mark.slow
def test_index_refuses_a_worker_with_another_model(local, tmp_path):
    model, there = mvc.load(), Cluster(local.scheduler_address, partial(mvc.load, dtype="float64"))
    with pytest.raises(ValueError, match="^a worker loads other weights than this process[^\n]*$"):
        mvc.index(model, [CLIPS / "pair.gif"], tmp_path / "library", cluster=there)


@pytest.mark.slow
def test_the_command_index_on_a_cluster_prints_what_it_prints_alone(local, tmp_path, capsys, monkeypatch):
    shutil.copytree(CLIPS, tmp_path / "clips")
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no clip")
    monkeypatch.chdir(tmp_path)  # the workers are elsewhere
    monkeypatch.setattr("minivideococa.cache.SETTLED", -1)
    printed = []
    for more in [], ["--scheduler", local.scheduler_address]:
        assert cli.main(["index", "clips", "-o", "library", "--frames", "1", *more]) == 3
        printed.append((*capsys.readouterr(), files_in("library")))
        shutil.rmtree("library")
    assert printed[0] == printed[1] and "broken.mp4" in printed[0][1]


@pytest.mark.parametrize("command", [["evaluate", "m.jsonl"], ["index", "m.jsonl", "-o", "library"]])
def test_without_the_extra_one_line_says_what_to_install(tmp_path, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    write_manifest("m.jsonl", entries(tmp_path))
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert cli.main([*command, "--scheduler", "tcp://host:8786"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and 'pip install "minivideococa[cluster]"' in err


def test_an_item_that_kills_every_worker_is_an_error(local, monkeypatch):
    monkeypatch.setattr(local.scheduler, "allowed_failures", 0)
    with pytest.raises(ValueError, match="^tcp://[^\n]*worker after worker died[^\n]*$"):
        list(map_in_order(Cluster(local.scheduler_address, dict), lambda *_: os._exit(1), [1]))
