"""The command line: what run_cf.py, ``cfgen`` and ``python -m cfgen`` call."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfgen.arguments import parser

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

PLACES = ("images", "labels", "out", "checkpoint")  # arguments that may hold a path


def accelerator_of(device: str, precision: str) -> Accelerator:
    """Accelerate's choice of device, or the one asked for.

    Raises:
        ValueError: The device or the precision is not to be had here.
    """
    import torch
    from accelerate import Accelerator

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


def table(rows: Sequence[dict[str, Any]], most: int = 20) -> str:
    """The first rows of the results as text.

    An oracle that gave the original the answer asked for, too, "did before".
    """
    from cfgen.gallery.words import agreed_before

    head = f"{'image':<32} {'source':>10} -> {'target':<10} {'status':<14} {'lambda':>7}"
    head += f" {'p before':>9} {'p after':>8} {'LPIPS':>7} {'oracle':>10}"
    lines = [head]
    for row in rows[:most]:

        def number(name: str, row: dict[str, Any] = row) -> str:
            value = row[name]
            return f"{value:.3f}" if isinstance(value, float) and value == value else "-"

        agrees = {1: "agrees", 0: "differs"}.get(row["oracle_agrees"], "-")
        if agrees == "agrees" and agreed_before(row):
            agrees = "did before"
        lines.append(
            f"{row['case'][-32:]:<32} {row['source']:>10} -> {row['target']:<10} "
            f"{row['status'][:14]:<14} {number('lam'):>7} {number('prob_before'):>9} "
            f"{number('prob_after'):>8} {number('lpips'):>7} {agrees:>10}"
        )
    if len(rows) > most:
        lines.append(f"... {len(rows) - most} more in results.csv")
    written = [row["dicom_flips"] for row in rows if row["dicom_flips"] != ""]
    if written:
        lines.append(f"{sum(written)} of {len(written)} DICOM or NIfTI files flip when read again")
    statuses = Counter(row["status"] for row in rows)
    lines.append(", ".join(f"{count} {name}" for name, count in statuses.most_common()))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status.

    Raises:
        SystemExit: The usage is wrong (2), or help was asked for (0).
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in ("study", "study-report"):
        from cfgen.study.cli import main as study

        return study(argv)
    options = parser()
    args = options.parse_args(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is ever fetched from a hub
    try:
        return _run(args)
    except _Usage as error:
        options.error(str(error))


class _Usage(Exception):
    """Something the user can put right."""


def _run(args: argparse.Namespace) -> int:
    from accelerate.utils import broadcast_object_list
    from tqdm import tqdm

    from cfgen.checkpoints import load_checkpoint
    from cfgen.data import ImageFolder, Item, Picture, read_item_mask, read_picture
    from cfgen.data.export import Export, Identity
    from cfgen.data.folder import parse_slices
    from cfgen.data.synthetic import synthetic_patients
    from cfgen.data.window import parse_window
    from cfgen.engine import Engine, Settings
    from cfgen.gallery import write_gallery
    from cfgen.plausibility import LPIPS
    from cfgen.run_folder import fresh_folder

    out = Path(args.out)
    try:
        if args.batch_size != "auto" and not args.batch_size.isdigit():
            raise ValueError(f"expected a batch size of auto or a number, got '{args.batch_size}'")
        accelerator = accelerator_of(args.device, args.precision)
        # A CPU gains nothing from more, and small batches are shared more evenly.
        auto = 4 if accelerator.device.type == "cpu" else 32
        checkpoint = load_checkpoint(args.checkpoint, accelerator.device)
        settings = Settings(
            target=args.target,
            direction=args.direction or Engine.believable(checkpoint),
            detail=args.detail == "keep",
            confidence=args.confidence,
            batch_size=auto if args.batch_size == "auto" else int(args.batch_size),
            sweep=args.sweep,
            seed=args.seed,
            diverse=args.diverse,
            region=args.region,
            region_margin=args.region_margin,
            hold=tuple(args.hold.split(",")) if args.hold else (),
        )
        if args.images is None and (args.labels or args.split or args.dicom or args.region):
            raise ValueError(
                "expected --images with --labels, --split, --dicom or --region, got none"
            )
        limits = parse_window(args.window) if args.window else None
        if args.limit is not None and args.limit < 1:
            raise ValueError(f"expected a limit of at least 1, got {args.limit}")
        engine = Engine(checkpoint, settings, accelerator, LPIPS(args.lpips).to(accelerator.device))
        drawn: dict[str, Tensor] = {}
        if args.images is not None:
            items: Sequence[Item] = ImageFolder(
                args.images,
                labels=args.labels,
                split=args.split,
                limit=args.limit,
                axis=args.axis,
                slices=parse_slices(args.slices) if args.slices else None,
                keep_ids=args.keep_ids,
            )
            if args.dicom and all(item.kind == "picture" for item in items):
                raise ValueError("expected DICOM or NIfTI files with --dicom, got none")
            if args.region and not any(item.mask for item in items):
                raise ValueError("expected masks in labels.csv with --region, got none")
        elif checkpoint.prior is not None:
            n = 8 if args.limit is None else args.limit
            items, drawn = synthetic_patients(checkpoint.prior, checkpoint.generator, n, args.seed)
        else:
            raise ValueError(f"expected --images: checkpoint '{checkpoint.name}' has no prior")
        if accelerator.is_main_process:
            fresh_folder(out)
    except (ValueError, OSError) as error:
        raise _Usage(str(error)) from error

    def load(item: Item) -> Picture:
        if args.images is None:
            return Picture(drawn[item.stem])
        return read_picture(
            item,
            channels=checkpoint.channels,
            size=checkpoint.size,
            keep_aspect=not args.stretch,
            limits=limits,
        )

    def load_mask(item: Item) -> Tensor | None:
        return read_item_mask(item, checkpoint.size, keep_aspect=not args.stretch)

    more: dict[str, Any] = {}
    if args.dicom:
        (secret,) = broadcast_object_list([secrets.token_hex(16)])
        identity = Identity(secret, keep=args.keep_ids)
        more["export"] = Export(checkpoint.name, identity, not args.stretch, limits)
    # A run folder is handed on: it says nothing about the machine it was made on.
    told = {k: v for k, v in vars(args).items() if k not in PLACES}
    main_process = accelerator.is_main_process
    share = len(engine.share(items))
    with tqdm(total=share, unit="image", disable=not main_process) as bar:

        def progress(done: int) -> None:
            bar.update(done - bar.n)

        rows = engine.run(
            items,
            load,
            out,
            on_progress=progress,
            record={"synthetic": args.images is None, "arguments": told},
            load_mask=load_mask,
            **more,
        )
    if main_process:
        print(table(rows))
        print(f"Open {write_gallery(out, args.single_file)}")
    if accelerator.num_processes > 1:
        accelerator.end_training()
    return 1 if any(row["status"] == "UNREADABLE" for row in rows) else 0
