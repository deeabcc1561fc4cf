"""Where units of work run: in this process, or in those of Accelerate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from time import perf_counter

import torch
from accelerate import Accelerator

from cfgen.data import Item
from cfgen.engine.run_folder import log
from cfgen.engine.units import Units
from cfgen.engine.worker import Loaded, Worker

READERS = 2
"""Threads that read images beside the models."""

AHEAD = 2
"""Units that are read while one is explained."""

OnUnit = Callable[[int], None]


class Where(ABC):
    """Runs units; which one runs where changes no row and no picture.

    Attributes:
        device: Kind of device that the models are on.
    """

    device: str

    @abstractmethod
    def run(
        self,
        worker: Worker,
        items: Sequence[Item],
        units: Units,
        todo: Sequence[int],
        stop: Event,
        on_unit: OnUnit,
    ) -> None:
        """Do units and mark them as done.

        Args:
            worker: Does one.
            items: The images of the run.
            units: The units of the run folder.
            todo: Which of them are to be done.
            stop: Set when no further unit is to be begun.
            on_unit: Called with the number of each unit that is done, in one process.
        """


class Processes(Where):
    """This process, or all of Accelerate's: each takes the next unit that nobody has taken.

    Args:
        accelerator: Knows the processes. Their machines share the run folder.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.device = accelerator.device.type

    def run(
        self,
        worker: Worker,
        items: Sequence[Item],
        units: Units,
        todo: Sequence[int],
        stop: Event,
        on_unit: OnUnit,
    ) -> None:
        """Do units here until none is left."""
        several = self.accelerator.num_processes > 1
        numbers = units.claimed(todo) if several else iter(todo)
        for number in stream(worker, items, units, numbers, stop):
            on_unit(number)
        self.accelerator.wait_for_everyone()


def stream(
    worker: Worker, items: Sequence[Item], units: Units, numbers: Iterable[int], stop: Event
) -> Iterator[int]:
    """Do units one after another, while the images of the next ones are read; yields each."""
    waiting: deque[tuple[int, list[Future[Loaded]]]] = deque()
    left = iter(numbers)
    with ThreadPoolExecutor(READERS, initializer=torch.set_num_threads, initargs=(1,)) as readers:

        def read_ahead() -> None:
            while len(waiting) < AHEAD and (number := next(left, None)) is not None:
                reads = [readers.submit(worker.read, items[i]) for i in units.span(number)]
                waiting.append((number, reads))

        try:
            read_ahead()
            while waiting and not stop.is_set():
                number, reads = waiting.popleft()
                read_ahead()
                do(worker, units, number, reads)
                yield number
        finally:
            readers.shutdown(cancel_futures=True)


def do(worker: Worker, units: Units, number: int, reads: Sequence[Future[Loaded]]) -> None:
    """Do one unit whose images are being read, and mark it as done."""
    start = perf_counter()
    loaded = [read.result() for read in reads]
    waited = perf_counter() - start
    with units.begin(number) as folder:
        rows = worker.unit(loaded, folder)
        units.finish(number, folder, rows)
    log(
        units.out,
        "unit",
        unit=number,
        images=len(loaded),
        statuses=dict(Counter(row["status"] for row in rows)),
        batch=worker.size,
        seconds=round(perf_counter() - start, 3),
        reading=round(sum(one.seconds for one in loaded), 3),
        waited=round(waited, 3),
    )


def accelerator_of(device: str, precision: str) -> Accelerator:
    """Accelerate's choice of device, or the one asked for.

    Raises:
        ValueError: The device or the precision is not to be had here.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
        "auto": True,
    }
    if not there[device]:
        names = ", ".join(name for name, found in there.items() if found)
        raise ValueError(f"expected a device of {names}, got '{device}'")
    # Accelerate shares work between processes on a CPU only if it is told that it is one.
    on_cpu = device == "cpu" or not (there["cuda"] or there["mps"])
    return Accelerator(cpu=on_cpu, mixed_precision=precision)
