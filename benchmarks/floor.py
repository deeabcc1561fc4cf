"""The floor of a counterfactual: its passes times the time of one pass in the full batch.

What a direction and a search ask for is given; everything above that is overhead: passes in blocks
(the first encoding and decoding and the verdict, so that a saved case replays exactly), passes of
the few samples that are left at the end, and bookkeeping. A search that is down to as many samples
as a block has is taken for one.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from contract import clock, spread
from runs import needed, posed
from torch import Tensor

from cfgen import Direction, Flip, Problem, explain
from cfgen.checkpoints import Checkpoint
from cfgen.explain import likely_other
from cfgen.problem import BLOCK

Log = dict[tuple[str, int, int], list[float]]
"""Seconds of every call, by kind of pass, number of rows and how many of them are no copies."""


@contextmanager
def logged(owner: Any, name: str, kind: str, log: Log) -> Iterator[None]:
    """Log the calls of a method of an object, whose first argument are the rows."""
    inner = getattr(owner, name)

    def call(rows: Tensor, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = inner(rows, *args, **kwargs)
        seconds = time.perf_counter() - start
        log[kind, len(rows), needed(rows)].append(seconds)
        return result

    setattr(owner, name, call)
    try:
        yield
    finally:
        delattr(owner, name)


@contextmanager
def logged_gradients(log: Log) -> Iterator[None]:
    """Log Problem.grad as a whole; what its forward passes logged meanwhile is dropped."""
    inner = Problem.grad

    def call(problem: Problem, z: Tensor, *rows_and_view: Any) -> Any:
        before = {key: len(seconds) for key, seconds in log.items()}
        start = time.perf_counter()
        result = inner(problem, z, *rows_and_view)
        seconds = time.perf_counter() - start
        for key in log:
            del log[key][before.get(key, 0) :]
        log["gradient", len(z), len(z)].append(seconds)
        return result

    Problem.grad = call  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Problem.grad = inner


def breakdown(
    checkpoint: Checkpoint, direction: Direction, x: Tensor, repeats: int
) -> dict[str, Any]:
    """One direction on images x (B, C, H, W) in one batch: seconds, floor and where the rest goes.

    Returns:
        ``seconds``, the ``passes`` and ``floor`` (seconds) by kind, ``ratio`` of both, and the
        seconds over the floor: of passes in blocks, of those in other batches, of those in the
        full batch, and of everything that is no pass (``rest``).
    """
    pair, f, prior = checkpoint.generator, checkpoint.classifier, checkpoint.prior
    with torch.no_grad():
        target = likely_other(f(x))

    def once() -> Any:
        return explain(posed(checkpoint, direction, target, x), direction)

    seconds, _ = clock(once, repeats)
    log: Log = defaultdict(list)
    with (
        logged(pair, "encode", "encode", log),
        logged(pair, "decode", "decode", log),
        logged(f, "forward", "classify", log),
        logged_gradients(log),
    ):
        if prior is None:
            whole, _ = clock(once, 1)
        else:
            with logged(prior.unet, "forward", "prior", log):
                whole, _ = clock(once, 1)
    # A log of what a gradient did inside may be empty.
    log = {key: spent for key, spent in log.items() if spent}
    best = unit_costs(checkpoint, x, repeats, {kind for kind, *_ in log})
    passes: dict[str, int] = defaultdict(int)
    over = {"blocks": 0.0, "smaller batches": 0.0, "full batches": 0.0}
    for (kind, rows, own), spent in log.items():
        passes[kind] += own * len(spent)
        place = "full batches" if rows == len(x) else "smaller batches"
        over["blocks" if rows == BLOCK else place] += sum(spent) - own * len(spent) * best[kind]
    lowest = {kind: count * best[kind] for kind, count in passes.items()}
    floor = sum(lowest.values())
    spent_in_passes = sum(sum(spent) for spent in log.values())
    return {
        "seconds": spread(seconds),
        "passes": dict(passes),
        "floor": {kind: round(value, 4) for kind, value in lowest.items()},
        "ratio": round(whole[0] / floor, 4),
        "over the floor": {k: round(v, 4) for k, v in over.items()}
        | {"rest": round(whole[0] - spent_in_passes, 4)},
    }


def unit_costs(
    checkpoint: Checkpoint, x: Tensor, repeats: int, kinds: set[str]
) -> dict[str, float]:
    """Seconds of one pass of one sample of each kind, in the full batch: the fastest seen."""
    pair, f, prior = checkpoint.generator, checkpoint.classifier, checkpoint.prior
    with torch.no_grad():
        problem = Problem(pair, f, Flip(likely_other(f(x))), x)
    z, sigma = problem.z, torch.full((len(x),), 0.5)
    calls: dict[str, Callable[[], Any]] = {
        "encode": lambda: pair.encode(x),
        "decode": lambda: pair.decode(z),
        "classify": lambda: f(x),
        "gradient": lambda: problem.grad(z),
    }
    if prior is not None:
        labels = torch.zeros(len(x), dtype=torch.int64)
        calls["prior"] = lambda: prior.velocity(z, sigma, labels)  # type: ignore[attr-defined]
    costs = {}
    for kind in kinds:
        # A gradient needs no such context, and makes its own.
        with torch.no_grad():
            calls[kind]()
            costs[kind] = min(clock(calls[kind], repeats)[0]) / len(x)
    return costs
