"""``cfgen explain``, the main job: images, a checkpoint, counterfactuals, and their page."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cfgen.cli.options import Usage, add_images, add_medical, add_where, program, usage
from cfgen.directions import DIRECTIONS, PRIOR_GUIDED

if TYPE_CHECKING:
    from cfgen.engine import Engine
    from cfgen.engine.images import Images
    from cfgen.engine.where import Where

PLACES = ("images", "labels", "out", "checkpoint")  # arguments that may hold a path
INTERRUPTED = 130  # as a shell has it for Ctrl-C


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

a run that was stopped goes on with the same command; --fresh starts over. Ctrl-C ends it after the
images in hand, with the table and the page of what is done.

exit status: 0 all images explained, 1 some could not be read or explained (see results.csv) or the
disk is full, 2 wrong usage, 130 stopped by Ctrl-C
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
        help=f"{', '.join(DIRECTIONS)} (minimal_norm is the smallest step, "
        f"{' and '.join(PRIOR_GUIDED)} are believable ones, by the prior); default: guided where "
        "the checkpoint has a prior, else minimal_norm",
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


def prepared(args: argparse.Namespace) -> tuple[Engine, Images, Where]:
    """The engine, the images and where it runs, as they are asked for.

    Raises:
        ValueError: An option, a file or the checkpoint is wrong.
    """
    from cfgen.checkpoints import load_checkpoint
    from cfgen.engine import Engine, Settings
    from cfgen.engine.images import Images
    from cfgen.engine.where import Processes, accelerator_of
    from cfgen.plausibility import LPIPS

    if args.batch_size != "auto" and not args.batch_size.isdigit():
        raise ValueError(f"expected a batch size of auto or a number, got '{args.batch_size}'")
    if args.on == "ray":
        from cfgen.engine.cluster import Ray

        where: Where = Ray(args.actors, args.device)
        accelerator = accelerator_of("cpu", args.precision)
    elif args.actors is not None:
        raise ValueError("expected --on ray with --actors, got none")
    else:
        accelerator = accelerator_of(args.device, args.precision)
        where = Processes(accelerator)
    # A CPU gains nothing from more, and small batches are shared more evenly.
    auto = 4 if where.device == "cpu" else 32
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
        keep=args.keep,
    )
    if args.images is None and args.region:
        raise ValueError("expected --images with --labels, --split, --dicom or --region, got none")
    if args.dicom and args.keep == "rows":
        raise ValueError("expected --keep pictures or all with --dicom, got rows")
    images = Images(
        folder=args.images,
        labels=args.labels,
        split=args.split,
        limit=args.limit,
        stretch=args.stretch,
        window=args.window,
        axis=args.axis,
        volume=args.volume,
        slices=args.slices,
        dicom=args.dicom,
        keep_ids=args.keep_ids,
        max_pixels=args.max_pixels,
    )
    engine = Engine(checkpoint, settings, accelerator, LPIPS(args.lpips).to(accelerator.device))
    return engine, images, where


def run(args: argparse.Namespace) -> int:
    """Explain every image and write the page; returns the exit status.

    Raises:
        Usage: An option, a file or the checkpoint is wrong.
    """
    from cfgen.cli.terminal import interruptible, progress, table
    from cfgen.engine.check import check
    from cfgen.engine.worker import no_room
    from cfgen.gallery import write_gallery

    with usage("ray"):
        engine, images, where = prepared(args)
        opened = images.open(engine.checkpoint, args.seed)
        if args.region and not any(item.mask for item in opened.items):
            raise ValueError("expected masks in labels.csv with --region, got none")
        asked = engine.asked(opened.items, images.reading(), where)
        device = engine.accelerator.device
        warnings = check(engine.checkpoint, opened.items, opened.load, device)
        out = engine.place(args.out, asked, args.fresh)
    main = engine.accelerator.is_main_process
    if main:
        for line in (*warnings, opened.skipped):
            print(line, end="\n" if line else "", flush=True)
    if main and args.out is None and out.name != "out":
        print(f"Another run is in out, so this one goes to {out}.", flush=True)
    try:
        with (
            interruptible() as stop,
            progress(len(opened.items), main) as on_progress,
        ):
            rows = engine.run(
                opened.items,
                opened.load,
                out,
                on_progress=on_progress,
                # A run folder is handed on: it says nothing about the machine it was made on.
                record={
                    "synthetic": args.images is None,
                    "arguments": {k: v for k, v in vars(args).items() if k not in PLACES},
                    "warnings": warnings,
                    "skipped": opened.skipped,
                },
                export=opened.export,
                load_mask=opened.load_mask,
                reading=images.reading(),
                fresh=args.fresh,
                where=where,
                stop=stop,
            )
        if main:
            print(table(rows))
            print(f"Open {write_gallery(out, args.single_file)}")
    except ValueError as error:
        raise Usage(str(error)) from error
    except OSError as error:
        if not no_room(error):
            raise
        print(f"The disk of '{out}' is full. What is done is whole; the same command goes on.")
        return 1
    if engine.accelerator.num_processes > 1:
        engine.accelerator.end_training()
    statuses = {row["status"] for row in rows}
    if stop.is_set() and (done := rows.images) < len(opened.items):
        if main:
            print(f"Stopped after {done} of {len(opened.items)} images; the same command goes on.")
        return INTERRUPTED
    return 1 if statuses & {"UNREADABLE", "FAILED"} else 0
