"""Units of work: a run that is stopped anywhere goes on, and one image never costs another."""

import csv
import errno
import fcntl
import json
import os
import re
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from accelerate import Accelerator

from cfgen import load_checkpoint
from cfgen.data import ImageFolder, UnreadableImage, read_picture
from cfgen.engine import Engine, Settings, run_folder, units, worker
from cfgen.engine import run as engine_run
from cfgen.engine import table as results
from cfgen.engine.same import difference
from cfgen.engine.units import Rows, Units
from cfgen.engine.worker import Worker, no_room
from cfgen.plausibility import LPIPS

checkpoint_folder = tiny.checkpoint_folder
images = tiny.images
FAILED = "The image could not be explained; the others of the run are not affected. "


@pytest.fixture(scope="module")
def checkpoint(checkpoint_folder):
    return load_checkpoint(str(checkpoint_folder))


@pytest.fixture(scope="module")
def make(checkpoint):
    lpips, accelerator = LPIPS(), Accelerator(cpu=True)

    def make(**more):
        settings: dict[str, Any] = {"sweep": 3, "batch_size": 2} | more
        return Engine(checkpoint, Settings(**settings), accelerator, lpips)

    return make


@pytest.fixture(scope="module")
def items(images):
    return list(ImageFolder(images))


def load(item):
    return read_picture(item, channels=1, size=(32, 32))


@pytest.fixture(scope="module")
def whole(make, items, tmp_path_factory):
    """A run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole") / "out"
    make().run(items, load, out)
    return everything(out)


def table(out):
    with open(out / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def but(rows, *names):
    return [{k: v for k, v in row.items() if k not in names} for row in rows]


def everything(out):
    """The rows but for their seconds, and every byte of the cases."""
    rows = but(table(out), "seconds")
    cases = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("cases/**/*"))
        if path.is_file()
    }
    return rows, cases


def raises(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


class Killed(BaseException):
    """Ends a run as kill -9 does: nothing catches it."""


def stopped_at(monkeypatch, module, name, call):
    """Kill the run when a function is called for the ``call``-th time."""
    function, calls = getattr(module, name), []

    def killed(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            raise Killed
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, killed)


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (worker, "write_case", 1),  # nothing is there yet
        (worker, "write_case", 4),  # the second case of the second unit
        (units.os, "fsync", 1),  # the cases are there, their rows are not
        (units.os, "fsync", 3),
        (units.Path, "rename", 2),  # one of the two cases is there
        (engine_run, "write_results", 1),  # all units are whole, the table is not
        (engine_run, "write_record", 2),  # the table is there, run.json does not know
    ],
)
def test_a_run_that_was_killed_goes_on(
    module, name, call, make, items, whole, tmp_path, monkeypatch
):
    out, done = tmp_path / "out", []
    with monkeypatch.context() as patch:
        stopped_at(patch, module, name, call)
        with pytest.raises(Killed):
            make().run(items, load, out)
    assert json.loads((out / "run.json").read_text())["finished"] is False
    marks = len(Units(out, len(items), 2).done())
    assert (marks < 3) == (module is not engine_run)
    make().run(items, load, out, on_progress=done.append)
    assert done[0] == min(2 * marks, 5) and done[-1] == 5
    assert everything(out) == whole
    assert sorted(p.name for p in (out / "units").iterdir()) == [
        "0000000.jsonl",
        "0000001.jsonl",
        "0000002.jsonl",
    ]
    assert json.loads((out / "run.json").read_text())["finished"] is True


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("call", [1, 2])
def test_a_run_that_was_killed_as_it_began_goes_on(
    call, fresh, make, items, whole, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    if fresh:
        make().run(items[:2], load, out)
    with monkeypatch.context() as patch:
        if call == 1:
            stopped_at(patch, run_folder.Path, "replace", 1)  # of run.json, which is there in part
        else:
            stopped_at(patch, run_folder.Path, "mkdir", 2)
        with pytest.raises(Killed):
            make().run(items, load, out, fresh=fresh)
    make().run(items, load, out)
    assert everything(out) == whole


def test_what_is_whole_is_not_done_again(make, items, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    make().run(items, load, out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    monkeypatch.setattr(Worker, "unit", None)
    rows = make().run(items, load, out)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before
    assert len(rows) == 5 and rows[1]["file"] == "b/two.png"
    assert [row["file"] for row in rows[3:]] == ["b/tall.png", "five.tif"]


def test_a_run_that_is_told_to_stop_writes_what_is_done(make, items, whole, tmp_path):
    out, stop = tmp_path / "out", threading.Event()
    rows = make().run(items, load, out, on_progress=lambda n: n and stop.set(), stop=stop)
    assert [row["file"] for row in table(out)] == ["one.png", "b/two.png"]
    assert (len(rows), rows.images) == (2, 2)
    said = json.loads((out / "run.json").read_text())
    assert (said["finished"], said["done"], said["images"]) == (False, 2, 5)
    assert said["statuses"] == {"FLIPPED": 2}
    make().run(items, load, out)
    assert everything(out) == whole
    said = json.loads((out / "run.json").read_text())
    assert (said["finished"], said["done"], sum(said["statuses"].values())) == (True, 5, 5)


def test_a_run_goes_on_only_with_the_same(make, items, checkpoint, tmp_path):
    out = tmp_path / "out"
    make(sweep=0).run(items[:2], load, out, reading={"window": "40,400"})
    intro = f"expected to go on with the run in '{out}', got "
    end = "; --fresh starts over"
    with raises(f"{intro}confidence None there and 0.9 now{end}"):
        make(sweep=0, confidence=0.9).run(items[:2], load, out, reading={"window": "40,400"})
    with raises(f"{intro}window 40,400 there and None now{end}"):
        make(sweep=0).run(items[:2], load, out, reading={"window": None})
    with raises(f"{intro}number 2 there and 3 now{end}"):
        make(sweep=0).run(items[:3], load, out, reading={"window": "40,400"})
    with raises(f"{intro}other images now{end}"):
        make(sweep=0).run(items[1:3], load, out, reading={"window": "40,400"})
    engine = make(sweep=0)
    engine.checkpoint = replace(checkpoint, hashes={"model": "other"})
    with raises(f"{intro}other weights of the checkpoint now{end}"):
        engine.run(items[:2], load, out, reading={"window": "40,400"})
    said = json.loads((out / "run.json").read_text())
    said["asked"]["torch"] = "1.0"
    (out / "run.json").write_text(json.dumps(said))
    with raises(f"{intro}torch 1.0 there and {torch.__version__.split('+')[0]} now{end}"):
        make(sweep=0).run(items[:2], load, out, reading={"window": "40,400"})
    (out / "run.json").write_text("{}")  # of the version before
    with raises(f"{intro}a run of another version of cfgen there{end}"):
        make(sweep=0).run(items[:2], load, out)
    assert len(table(out)) == 2  # nothing was touched


def test_what_differs_is_said_by_its_name():
    assert difference({"a": {"b": 1}}, {"a": {"b": 1}}) == ""
    assert difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "b 1 there and 2 now"
    assert difference({"a": 1, "b": 2}, {"a": 1}) == "b 2 there and None now"
    assert difference({"device": "cpu"}, {"device": "cuda"}) == "device cpu there and cuda now"


def test_an_image_that_changed_is_noticed_and_a_copy_of_it_is_not(make, images, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("one.png", "five.tif"):
        (folder / name).write_bytes((images / name).read_bytes())
    found, out = list(ImageFolder(folder)), tmp_path / "out"
    make(sweep=0).run(found, load, out)
    data = (folder / "one.png").read_bytes()
    (folder / "one.png").unlink()
    (folder / "one.png").write_bytes(data)  # other times, the same bytes
    make(sweep=0).run(found, load, out)
    told = (folder / "one.png").stat()
    (folder / "one.png").write_bytes(data[:-1] + b"\0")
    os.utime(folder / "one.png", ns=(told.st_atime_ns, told.st_mtime_ns))
    with raises(
        f"expected to go on with the run in '{out}', got another image 'one.png' now; "
        "--fresh starts over"
    ):
        make(sweep=0).run(found, load, out)
    make(sweep=0).run(found, load, out, fresh=True)


def test_a_mask_that_changed_is_noticed(make, items, tmp_path):
    mask, out = tmp_path / "mask.png", tmp_path / "out"
    mask.write_bytes(b"one")
    item = replace(items[0], mask=mask)
    make(sweep=0).run([item], load, out)
    mask.write_bytes(b"two")
    with pytest.raises(ValueError, match="got another image 'one.png' now"):
        make(sweep=0).run([item], load, out)


def test_a_fresh_run_replaces_a_former_one_and_nothing_else(make, items, tmp_path):
    out = tmp_path / "deep" / "out"
    make(sweep=0).run(items[:2], load, out)
    (out / "index.html").write_text("former")
    (out / "notes.txt").write_text("mine")
    make(sweep=0).run(items[2:3], load, out, fresh=True)
    assert [p.name for p in (out / "cases").iterdir()] == [items[2].stem]
    names = ["cases", "events.jsonl", "notes.txt", "results.csv", "run.json", "units"]
    assert sorted(p.name for p in out.iterdir()) == names


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_is_no_run_is_left_alone(fresh, make, items, tmp_path):
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with raises(f"expected an empty folder or a former run for the output, got '{tmp_path}'"):
        make().run(items, load, tmp_path, fresh=fresh)
    with raises(f"expected a folder for the output, got the file '{tmp_path / 'file'}'"):
        make().run(items, load, tmp_path / "file", fresh=fresh)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cases", "file"]
    assert (tmp_path / "cases" / "mine.txt").read_text() == "mine"


def test_two_runs_are_not_at_work_in_one_folder(make, items, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    other = os.open(out / ".lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)
    with raises(f"expected no other run at work in '{out}', got one"):
        make(sweep=0).run(items[:1], load, out)
    os.close(other)  # as when its process ends, however that ends
    assert len(make(sweep=0).run(items[:1], load, out)) == 1
    assert not (out / ".lock").exists()


def test_processes_take_each_unit_once(tmp_path):
    shared = Units(tmp_path, 10, 3)
    shared.clear()
    first, second = shared.claimed([0, 1, 2, 3]), shared.claimed([0, 1, 2, 3])
    assert [next(first), next(second), next(second), next(first)] == [0, 1, 2, 3]
    assert [*first, *second] == []
    shared.clear()  # a claim ends with its run
    assert list(shared.claimed([0, 3])) == [0, 3]
    assert [list(shared.span(i)) for i in range(len(shared))] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8],
        [9],
    ]


def test_numbers_that_are_none_are_no_text(tmp_path):
    some = Units(tmp_path, 1, 1)
    some.clear()
    (tmp_path / "cases").mkdir()
    with some.begin(0) as folder:
        row = {"a": float("nan"), "b": float("inf"), "c": 0.1, "plausibility": "", "_d": 1}
        some.finish(0, folder, [row])
    text = some.path(0).read_text()
    assert text == '{"a": null, "b": null, "c": 0.1, "plausibility": "", "_d": 1}\n'
    (row,) = Rows(tmp_path)
    assert row["a"] != row["a"] and row["c"] == 0.1 and "_d" not in row


def test_reading_goes_on_beside_the_models(make, items, tmp_path, monkeypatch):
    threads, read, order = set(), threading.Event(), []
    engine, unit = make(sweep=0, batch_size=1), Worker.unit

    def seen(item):
        threads.add((threading.current_thread(), torch.get_num_threads()))
        order.append(item.file)
        if item.file == items[1].file:
            read.set()
        return load(item)

    def waits(self, loaded, folder):
        assert read.wait(30)  # the second is read while the first is explained
        assert len(order) <= len(done) + 3  # not all at once
        done.append(loaded[0].item.file)
        return unit(self, loaded, folder)

    done = []
    monkeypatch.setattr(Worker, "unit", waits)
    engine.run(items, seen, tmp_path / "out")
    assert done == [item.file for item in items]
    assert threading.main_thread() not in {thread for thread, _ in threads}
    assert {number for _, number in threads} == {1}


def failing(monkeypatch, name, bad, error):
    """Let a step of the worker fail where the image is the bad one."""
    function = getattr(Worker, name)

    def broken(self, *args):
        if bad(*args):
            raise error
        return function(self, *args)

    monkeypatch.setattr(Worker, name, broken)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RuntimeError("sizes\n  differ"), "RuntimeError: sizes differ"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (AssertionError("x" * 300), "AssertionError: " + "x" * 200),
    ],
)
def test_an_image_that_cannot_be_explained_costs_no_other(
    error, why, make, items, whole, tmp_path, monkeypatch
):
    x = load(items[1]).x
    failing(monkeypatch, "explain", lambda xs, masks: any(torch.equal(x, y) for y in xs), error)
    out = tmp_path / "out"
    make().run(items, load, out)
    rows, cases = everything(out)
    assert [row["status"] for row in rows] == ["FLIPPED", "FAILED", *["FLIPPED"] * 3]
    message = f"{FAILED}It stopped while it was explained: "
    assert rows[1]["message"] == f"{message}{why}."
    assert rows[1]["case"] == "two" and rows[1]["lam"] == ""
    assert not any(name.startswith("cases/two/") for name in cases)
    assert [row["batch"] for row in rows] == ["1", "", "2", "2", "1"]
    assert but(rows[2:], "plausibility_q") == but(whole[0][2:], "plausibility_q")


def test_an_image_that_cannot_be_measured_or_written_costs_no_other(
    make, items, tmp_path, monkeypatch
):
    x = load(items[1]).x
    with monkeypatch.context() as patch:
        bad = lambda cf: any(torch.equal(x, y) for y in cf.x)  # noqa: E731
        failing(patch, "measure", bad, ValueError("no measure"))
        rows = list(make(sweep=0).run(items[:2], load, tmp_path / "measured"))
    assert [row["status"] for row in rows] == ["FLIPPED", "FAILED"]
    assert rows[1]["message"].endswith("while it was explained: ValueError: no measure.")
    write = worker.write_case

    def broken(cf, folder, *args, **kwargs):
        write(cf, folder, *args, **kwargs)
        if folder.name == "two":
            raise ValueError("Doe^John")  # an error of a medical file may quote its header

    monkeypatch.setattr(worker, "write_case", broken)
    rows = list(make(sweep=0).run(items[:2], load, tmp_path / "written"))
    assert [row["status"] for row in rows] == ["FLIPPED", "FAILED"]
    assert rows[1]["message"] == (f"{FAILED}It stopped while it was written: ValueError.")
    assert [p.name for p in (tmp_path / "written" / "cases").iterdir()] == ["one"]


def test_whatever_a_reader_raises_is_the_row_of_its_image(make, items, tmp_path):
    def broken(item):
        if item is items[0]:
            raise KeyError("Doe^John")
        if item is items[1]:
            raise UnreadableImage("no such file")
        return load(item)

    def broken_mask(item):
        raise OverflowError("Doe^John") if item is items[2] else UnreadableImage("no such file")

    out = tmp_path / "out"
    rows = list(make(sweep=0).run(items[:4], broken, out, load_mask=broken_mask))
    assert [row["status"] for row in rows] == ["UNREADABLE", "UNREADABLE", "FLIPPED", "FLIPPED"]
    assert [row["message"] for row in rows] == [
        "the reader stopped with KeyError",
        "no such file",
        "The mask could not be read: the reader stopped with OverflowError.",
        "The mask could not be read: no such file.",
    ]
    assert not [p for p in out.rglob("*") if p.is_file() and b"Doe" in p.read_bytes()]


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of memory."), MemoryError("no memory")], ids=type
)
def test_memory_that_runs_out_halves_the_batch(error, make, items, whole, tmp_path, monkeypatch):
    sizes, explain = [], Worker.explain

    def small(self, x, masks):
        sizes.append(len(x))
        if len(x) > 2:
            raise error
        return explain(self, x, masks)

    monkeypatch.setattr(Worker, "explain", small)
    out = tmp_path / "out"
    make(batch_size=5).run(items, load, out)
    assert sizes == [5, 2, 2, 1]
    assert [row["batch"] for row in table(out)] == ["2", "2", "2", "2", "1"]
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [(e["event"], e.get("batch")) for e in events] == [
        ("start", None),
        ("unit", 2),
        ("finished", None),
    ]
    rows, cases = everything(out)
    assert cases == whole[1]


def test_memory_that_is_never_enough_is_said(make, items, tmp_path, monkeypatch):
    failing(monkeypatch, "explain", lambda x, masks: True, MemoryError())
    (row,) = make(sweep=0).run(items[:1], load, tmp_path / "out")
    assert row["status"] == "FAILED"
    assert row["message"].endswith("It stopped while it was explained: memory ran out.")


def test_a_full_disk_stops_the_run_and_nothing_half_written_counts(
    make, items, whole, tmp_path, monkeypatch
):
    out, write, cases = tmp_path / "out", worker.write_case, []

    def full(cf, folder, *args, **kwargs):
        write(cf, folder, *args, **kwargs)
        cases.append(folder)
        if len(cases) == 4:
            raise UnreadableImage("x_cf.dcm cannot be written") from OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "write_case", full)
        with pytest.raises(OSError) as error:
            make().run(items, load, out)
    assert no_room(error.value) and not no_room(OSError(errno.EACCES, "no"))
    assert [row["case"] for row in table(out)] == ["one", "two"]
    assert sorted(p.name for p in (out / "cases").iterdir()) == ["one", "two"]
    assert json.loads((out / "run.json").read_text())["done"] == 2
    make().run(items, load, out)
    assert everything(out) == whole


@pytest.mark.parametrize(
    ("keep", "files"),
    [
        ("rows", set()),
        ("pictures", {"x.png", "x_cf.png", "difference.png"}),
        (
            "all",
            {"x.png", "x_cf.png", "difference.png", "case.npz", "sweep.json"}
            | {f"sweep/{i:02d}.png" for i in range(3)},
        ),
    ],
)
def test_what_is_kept_of_a_case_is_a_choice(keep, files, make, items, whole, tmp_path):
    out = tmp_path / "out"
    make(keep=keep).run(items[:2], load, out)
    rows, cases = everything(out)
    assert but(rows, "plausibility_q") == but(whole[0][:2], "plausibility_q")
    for name in ("one", "two"):
        assert {p.split("/", 2)[2] for p in cases if p.startswith(f"cases/{name}/")} == files
        assert all(cases[f"cases/{name}/{f}"] == whole[1][f"cases/{name}/{f}"] for f in files)


def test_what_may_be_kept_is_named():
    with raises("expected to keep rows, pictures, all, got 'none'"):
        Settings(keep="none")


def test_the_secret_is_kept_for_its_owner_until_the_run_is_whole(make, items, tmp_path):
    out, secrets, stop = tmp_path / "out", [], threading.Event()

    def export(secret):
        secrets.append(secret)
        return lambda item, cf, row, folder: {}

    engine = make(sweep=0)
    engine.run(items, load, out, export=export, on_progress=lambda n: n and stop.set(), stop=stop)
    assert stat.S_IMODE((out / "secret").stat().st_mode) == 0o600
    engine.run(items, load, out, export=export)
    assert secrets[0] == secrets[1] and re.fullmatch("[0-9a-f]{32}", secrets[0])
    assert not (out / "secret").exists()
    engine.run(items, load, out, export=export, fresh=True)
    assert secrets[2] != secrets[0]


@pytest.mark.parametrize("most", [4, 5])
def test_more_rows_than_a_spreadsheet_opens_are_parquet_too(
    most, make, items, tmp_path, monkeypatch
):
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out"
    monkeypatch.setattr(units, "SPREADSHEET", most)
    monkeypatch.setattr(results, "GROUP", 2)
    odd = [replace(items[0], label="=1+1"), *items[1:]]

    def broken(item):
        return load(item) if item is not items[2] else 1 / 0

    rows = list(make(sweep=0).run(odd, broken, out))
    assert (out / "results.parquet").is_file() == (most == 4)
    if most == 4:
        told = parquet.read_table(out / "results.parquet").to_pylist()
        for row, values in zip(rows, told, strict=True):
            none = {k: None if v == "" or v != v else v for k, v in row.items()}
            assert values == pytest.approx(none)
        assert told[0]["label"] == "=1+1" and told[2]["lam"] is None
        assert isinstance(told[0]["evals"], int)


def test_without_pyarrow_an_event_says_what_is_missing(make, items, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "SPREADSHEET", 0)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    make(sweep=0).run(items[:1], load, tmp_path / "out")
    events = (tmp_path / "out" / "events.jsonl").read_text()
    assert "results.parquet needs pip install 'cfgen[parquet]'" in events
    assert not (tmp_path / "out" / "results.parquet").exists()


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root may mount a small disk"
)
def test_a_small_disk_that_fills_up(make, items, whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk])
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        with pytest.raises(OSError) as error:
            make().run(items, load, disk / "out")
        assert no_room(error.value)
        assert len(Units(disk / "out", len(items), 2).done()) < 3
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        make().run(items, load, disk / "out")
        assert everything(disk / "out") == whole
    finally:
        subprocess.run(["umount", disk], check=True)


def test_events_tell_of_units_as_they_are_done(make, items, tmp_path):
    out = tmp_path / "out"
    make(sweep=0).run(items, load, out)
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events] == ["start", "unit", "unit", "unit", "finished"]
    assert [e["images"] for e in events[1:-1]] == [2, 2, 1]
    assert [e["statuses"] for e in events[1:-1]] == [{"FLIPPED": 2}, {"FLIPPED": 2}, {"FLIPPED": 1}]
    assert all(a["time"] <= b["time"] for a, b in zip(events, events[1:], strict=False))
    assert all(e["reading"] > 0 and e["waited"] >= 0 for e in events[1:-1])


def test_a_worker_can_be_sent_to_another_process(make, items, tmp_path):
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    from cfgen.engine.cluster import parts_of

    engine = make(sweep=0)
    mine = Worker(engine.checkpoint, engine.settings, engine.accelerator, engine.lpips, load)
    sent = cloudpickle.loads(cloudpickle.dumps(parts_of(mine)))
    theirs = Worker(accelerator=engine.accelerator, **sent)
    rows = [w.unit([w.read(items[0])], tmp_path / str(i)) for i, w in enumerate((mine, theirs))]
    assert [row["lam"] for row in rows[0]] == [row["lam"] for row in rows[1]]
    assert Path(tmp_path / "1" / "one" / "x_cf.png").is_file()
