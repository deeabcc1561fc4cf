"""``cfgen explain``, the main job: images, a checkpoint, counterfactuals, and their page."""

from __future__ import annotations

import argparse
import secrets
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfgen.cli.options import Usage, add_images, add_medical, add_where, program

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

PLACES = ("images", "labels", "out", "checkpoint")  # arguments that may hold a path


EPILOG = """\
examples:
  %(prog)s
      explain eight synthetic patients of the checkpoint brain-flair
  %(prog)s --images scans --target healthy --out runs/scans
      explain every image of a folder towards one class
  %(prog)s --images scans --split test --confidence 0.9
      the rows of scans/labels.csv with split test, until the target is 90 %% probable
  %(prog)s --images scans --window 40,400 --dicom
      DICOM files, or NIfTI volumes slice by slice; counterfactuals in their format as well
  accelerate launch --num_processes 2 run_cf.py --images scans
      the same in two processes (without GPUs: accelerate launch --multi_gpu ...)
  cfgen --help
      the other commands: the page of a run again, a reader study of it

patient data: DICOM and NIfTI files are shown as case-0001, ... in reading order; nothing of their
names, headers and paths reaches OUT or the screen (--keep-ids shows them). PNG, JPEG, TIFF, BMP and
NPY files keep the names that their owner gave them.

exit status: 0 all images read, 1 some could not be read (see results.csv), 2 wrong usage
"""


def add(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """The command and its options."""
    p: argparse.ArgumentParser = commands.add_parser(
        "explain",
        prog=program(),
        help="counterfactuals of images, and the page that shows them (the main job)",
        description="Find the smallest plausible change to an image that changes a model's mind.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_images(p)
    add_medical(p)
    how = p.add_argument_group("how")
    how.add_argument(
        "--checkpoint",
        metavar="NAME_OR_FOLDER",
        default="brain-flair",
        help="the models (default: %(default)s)",
    )
    how.add_argument(
        "--target",
        metavar="CLASS",
        help="class to explain towards (default: the most likely other class of each image)",
    )
    how.add_argument(
        "--direction",
        metavar="NAME",
        help="gradient, natural_gradient, minimal_norm (the smallest step), translation or guided "
        "(believable ones, by the prior); default: guided where the checkpoint has a prior, else "
        "minimal_norm",
    )
    how.add_argument(
        "--diverse",
        metavar="K",
        type=int,
        default=1,
        help="counterfactuals of each image, at right angles to each other in latent space; one "
        "row and one case each, column alternative (default: %(default)s)",
    )
    how.add_argument(
        "--region",
        choices=("lesion", "outside"),
        help="change the lesion of the mask in labels.csv only, or the rest only; an image without "
        "a mask is not changed, and its row says so (default: everywhere)",
    )
    how.add_argument(
        "--region-margin",
        metavar="N",
        type=int,
        default=0,
        help="make the lesion larger by N pixels of the model's image (default: %(default)s)",
    )
    how.add_argument(
        "--hold",
        metavar="NAME[,NAME]",
        help="findings of a multi-label classifier whose probability must not move by 0.1 or more",
    )
    how.add_argument(
        "--detail",
        choices=("keep", "drop"),
        default="keep",
        help="keep what the autoencoder cannot reconstruct, or drop it (default: %(default)s)",
    )
    how.add_argument(
        "--confidence",
        metavar="P",
        type=float,
        help="probability that the target must reach (default: the flip itself, which is 0.5 with "
        "two classes)",
    )
    how.add_argument(
        "--lpips",
        choices=("st-alex", "alex", "vgg", "squeeze"),
        default="st-alex",
        help="trunk of the perceptual distance; st-alex needs no download (default: %(default)s)",
    )
    how.add_argument("--seed", type=int, default=0, help="seed of what is random (default: 0)")
    add_where(p)
    return p


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


def run(args: argparse.Namespace) -> int:
    """Explain every image and write the page; returns the exit status.

    Raises:
        Usage: An option, a file or the checkpoint is wrong.
    """
    from accelerate.utils import broadcast_object_list
    from tqdm import tqdm

    from cfgen.checkpoints import load_checkpoint
    from cfgen.data import ImageFolder, Item, Picture, read_item_mask, read_picture
    from cfgen.data.export import Export, Identity
    from cfgen.data.folder import parse_slices
    from cfgen.data.synthetic import synthetic_patients
    from cfgen.data.window import parse_window
    from cfgen.engine import Engine, Settings
    from cfgen.engine.run_folder import fresh_folder
    from cfgen.gallery import write_gallery
    from cfgen.plausibility import LPIPS

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
        raise Usage(str(error)) from error

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
