"""Units of work on a Ray cluster: actors hold the models, and a lost one is replaced."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from threading import Event
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError

from cfgen.data import Item
from cfgen.engine.units import Units
from cfgen.engine.where import AHEAD, READERS, OnUnit, Where, accelerator_of, do
from cfgen.engine.worker import Loaded, Worker

LOST = 3
"""Times in a row that an actor may be lost over one unit."""


def start() -> Mapping[str, float]:
    """Join the cluster that Ray's own convention names, or start one here; its resources."""
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    return ray.cluster_resources()


@ray.remote(max_restarts=0)
class Actor:
    """One worker, on one device.

    Args:
        parts: Of the worker, all but its accelerator.
        device: "cuda" or "cpu".
        precision: Mixed precision.
        threads: Of torch; Ray would set one.
    """

    def __init__(self, parts: dict[str, Any], device: str, precision: str, threads: int) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        torch.set_num_threads(threads)
        accelerator = accelerator_of(device, precision)
        parts["checkpoint"].to(accelerator.device)
        parts["lpips"].to(accelerator.device)
        self.worker = Worker(accelerator=accelerator, **parts)
        self.readers = ThreadPoolExecutor(READERS, initializer=torch.set_num_threads, initargs=(1,))
        self.reads: dict[int, list[Future[Loaded]]] = {}

    def read(self, number: int, items: Sequence[Item]) -> None:
        """Begin to read a unit's images."""
        self.reads[number] = [self.readers.submit(self.worker.read, item) for item in items]

    def do(self, units: Units, number: int) -> int:
        """Do a unit whose images are being read.

        Raises:
            FileNotFoundError: This machine does not see the run folder.
        """
        if not units.folder.is_dir():
            raise FileNotFoundError("expected the run folder on every machine of the cluster")
        do(self.worker, units, number, self.reads.pop(number))
        return number


def parts_of(worker: Worker) -> dict[str, Any]:
    """What another process makes a worker of, with an accelerator of its own."""
    parts = {part.name: getattr(worker, part.name) for part in fields(worker)}
    del parts["accelerator"]
    return parts


class Ray(Where):
    """A Ray cluster: the units of an actor that is lost are done again by another.

    The address is Ray's own affair (``RAY_ADDRESS``); where there is none, Ray starts on this
    machine. Its machines share the run folder and the images. Each actor takes one GPU, or on a
    cluster without any as many cores as torch uses threads here.

    Args:
        actors: How many; None for as many as the cluster has room for.
        device: "cpu", or "auto" for the cluster's GPUs where it has some.
    """

    def __init__(self, actors: int | None = None, device: str = "auto") -> None:
        self.actors = actors
        self.device = "cuda" if device in ("auto", "cuda") and start().get("GPU") else "cpu"

    def run(
        self,
        worker: Worker,
        items: Sequence[Item],
        units: Units,
        todo: Sequence[int],
        stop: Event,
        on_unit: OnUnit,
    ) -> None:
        """Do units on the cluster until none is left.

        Raises:
            RuntimeError: An actor was lost again and again over the same unit.
        """
        threads, there = torch.get_num_threads(), start()
        gpu = self.device == "cuda"
        room = int(there.get("GPU", 0)) if gpu else int(there.get("CPU", 1)) // threads
        count = min(self.actors or max(room, 1), len(todo))
        needs: Any = {"num_gpus": 1, "num_cpus": 1} if gpu else {"num_cpus": threads}
        units = Units(units.out.resolve(), units.images, units.size)
        precision = worker.accelerator.mixed_precision
        sent = ray.put(parts_of(worker))

        def new() -> Any:
            return Actor.options(**needs).remote(sent, self.device, precision, threads)  # type: ignore

        left, lost = deque(todo), dict.fromkeys(todo, 0)
        at_work: dict[
            Any, tuple[Any, int]
        ] = {}  # what an actor will hand over: by whom, which unit
        queues: list[tuple[Any, deque[int]]] = [(new(), deque()) for _ in range(count)]

        def feed(actor: Any, queue: deque[int]) -> None:
            """Let an actor read ahead, and do what it has read."""
            while len(queue) < AHEAD and left and not stop.is_set():
                number = left.popleft()
                queue.append(number)
                actor.read.remote(number, [items[i] for i in units.span(number)])
                at_work[actor.do.remote(units, number)] = (actor, number)

        for actor, queue in queues:
            feed(actor, queue)
        while at_work:
            (ready, *_), _ = ray.wait(list(at_work), num_returns=1)
            actor, number = at_work.pop(ready)
            place = next(i for i, (other, _) in enumerate(queues) if other is actor)
            try:
                on_unit(ray.get(ready))
                queues[place][1].remove(number)
            except RayActorError as error:
                lost[number] += 1
                if lost[number] > LOST:
                    raise RuntimeError(
                        f"expected unit {number} to be done, lost {LOST} actors"
                    ) from (error)
                mine = [ref for ref, (other, _) in at_work.items() if other is actor]
                again = [number, *(at_work.pop(ref)[1] for ref in mine)]
                left.extendleft(reversed(again))
                queues[place] = (new(), deque())
            feed(*queues[place])
        for actor, _ in queues:
            ray.kill(actor)
