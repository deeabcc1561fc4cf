"""Units on a Ray cluster of local processes: the rows and pictures of one process."""

import os

import pytest
import tiny
import torch
from accelerate import Accelerator
from test_units import everything, load

from cfgen import load_checkpoint
from cfgen.data import ImageFolder
from cfgen.engine import Engine, Settings
from cfgen.engine.where import Processes
from cfgen.plausibility import LPIPS

ray = pytest.importorskip("ray")
checkpoint_folder = tiny.checkpoint_folder
images = tiny.images


@pytest.fixture(scope="module")
def cluster():
    """A cluster of this machine, whose processes find the tests' modules."""
    from cfgen.engine import cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # beside other jobs it would wait for ever
        patch.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), os.path.dirname(__file__)]))
        yield cluster
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own
def test_a_cluster_writes_what_one_process_writes(cluster, checkpoint_folder, images, tmp_path):
    items = list(ImageFolder(images))
    checkpoint = load_checkpoint(str(checkpoint_folder))
    settings = Settings(sweep=3, batch_size=2, direction="guided")
    engine = Engine(checkpoint, settings, Accelerator(cpu=True), LPIPS())
    one, two = tmp_path / "one", tmp_path / "two"
    engine.run(items, load, one, where=Processes(engine.accelerator))
    died, done = tmp_path / "died", []

    def dies_once(item):
        if item.file == "b/three.npy" and not died.exists():
            died.touch()
            os._exit(1)  # as when its machine is lost
        return load(item)

    where = cluster.Ray(actors=2, device="cpu")
    assert where.device == "cpu"
    rows = engine.run(items, dies_once, two, where=where, on_progress=done.append)
    assert died.exists() and len(rows) == 5 and done[-1] == 5
    assert everything(two) == everything(one)
    assert torch.get_num_threads() == 1
