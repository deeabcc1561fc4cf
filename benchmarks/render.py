"""Tables and plots of all committed results, from their JSON files.

What was measured with other files than those of the checkpoint that lies here says so.

    pip install -e ".[bench]"
    python benchmarks/render.py

Writes benchmarks/results/README.md with every table, frontier.svg (LPIPS of the change against the
oracle's agreement) and scaling.svg (counterfactuals a second).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

from cfgen.checkpoints import hashes_of  # noqa: E402

RESULTS = Path(__file__).parent / "results"
CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "brain-flair"
TITLES = {
    "peers": "λ and passes against the best known",
    "speed": "Counterfactuals a second",
    "frontier": "Smallest against believable",
    "seconds": "Seconds a slice, alone on the machine",
    "plausibility": "Plausibility",
    "lgg": "The smallest flips",
    "everywhere": "Digits and a plane, for everybody",
    "gallery": "The page",
    "stops": "Runs that are stopped, and where they run",
}
HEAD = """# Results

Rendered by `python benchmarks/render.py` from the JSON files in this folder; do not edit. [How each
was measured](../README.md). A range in brackets is the smallest and the largest of the repeats.
"""
AXES = {"batches": "batch", "sizes": "side", "processes": "processes"}
RATE = "counterfactuals a second"


def cell(value: Any) -> str:
    """One value of a table; the median and the range of what was repeated."""
    if value is None or value != value:
        return "–"
    if isinstance(value, dict) and "median" in value:
        once = value.get("repeats") == 1
        return f"{value['median']:g}" + ("" if once else f" ({value['least']:g}–{value['most']:g})")
    if isinstance(value, dict):
        return ", ".join(f"{k} {cell(v)}" for k, v in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table, with every key that any of them has."""
    keys = list(dict.fromkeys(k for row in rows for k in row))
    lines = ["| " + " | ".join(keys) + " |", "|" + " --- |" * len(keys)]
    lines += ["| " + " | ".join(cell(row.get(k, "")) for k in keys) + " |" for row in rows]
    return "\n".join(lines)


def tables(record: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Every list of rows in a record with the keys that lead to it, and what is said beside it."""
    for key, value in record.items():
        if isinstance(value, dict):
            yield from tables(value, (*path, key))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            where = path if key in ("rows", "results") else (*path, key)
            # What is said of the whole file stands once, above.
            yield (
                ", ".join(where),
                "\n\n".join(filter(None, [beside(record) if path else "", table(value)])),
            )


def beside(record: dict[str, Any]) -> str:
    """Seed, data, device and versions, and which peers are missing, in one line of text."""
    said = {k: v for k, v in record.items() if isinstance(v, (str, int, float))}
    said |= record.get("versions", {})
    missing = record.get("missing", {})
    said |= {f"missing {name}": f"`{how}`" for name, how in missing.items()}
    text = "; ".join(f"{k} {v}" for k, v in said.items())
    return f"{text}; **of an earlier checkpoint**" if earlier(record) else text


def earlier(record: dict[str, Any]) -> bool:
    """Whether a file of the checkpoint that a record was measured with has changed since."""
    files = record.get("checkpoint")
    return bool(files) and not files.items() <= hashes_of(CHECKPOINT).items()


def frontier(record: dict[str, Any], path: Path) -> None:
    """Plot mean LPIPS (x) against the oracle's agreement (y), a point a direction and confidence.

    Methods to the upper left are smaller and more believable; the share that flips
    stands in the legend, for one that flips little keeps the easy slices.
    """
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    names = list(dict.fromkeys(row["direction"] for row in record["directions"]))
    for row in record["directions"]:
        colour = f"C{names.index(row['direction'])}"
        hollow = "none" if row["confidence"] < 0.9 else colour
        x, y = row["LPIPS"], row["oracle agrees"]
        text = f"{row['direction']}, {row['confidence']:g}: {row['flipped']:.0%} flip"
        axes.scatter(x, y, edgecolors=colour, facecolors=hollow, label=text)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    axes.set(xlabel="mean LPIPS of the change (smaller is less)", ylabel="oracle agrees")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def scaling(record: dict[str, Any], path: Path) -> None:
    """Plot counterfactuals a second (y) against batch, side of the image and processes (x)."""
    panels = [name for name in AXES if name in record]
    figure, grid = plt.subplots(
        1, len(panels), figsize=(3.2 * len(panels), 3), layout="constrained", squeeze=False
    )
    for axes, name in zip(grid[0], panels, strict=True):
        rows, key = record[name]["rows"], AXES[name]
        for method in dict.fromkeys(row["method"] for row in rows):
            points = [(row[key], row[RATE]) for row in rows if row["method"] == method]
            axes.plot(*zip(*points, strict=True), marker="o", label=method)
        axes.set_xscale("log", base=2)
        ticks = sorted({row[key] for row in rows})
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set(xlabel={"side": "side of the image, pixels"}.get(key, key))
        axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel(RATE)
    grid[0][0].legend(frameon=False, fontsize=8)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure as SVG; the same figure gives the same file."""
    with plt.rc_context({"svg.hashsalt": "cfgen", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def render(results: Path, out: Path) -> None:
    """Render the JSON files of a folder into README.md, frontier.svg and scaling.svg in another.

    Args:
        results: Folder of the JSON files.
        out: Folder to write.
    """
    records = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    order = [*TITLES, *sorted(records.keys() - TITLES.keys())]
    text = [HEAD]
    for name in (name for name in order if name in records):
        record = records[name]
        text.append(
            f"## {TITLES.get(name, name)}\n\n[{name}.json]({name}.json). {beside(record)}\n"
        )
        plot = None
        if name == "frontier" and record.get("directions"):
            frontier(record, out / (plot := "frontier.svg"))
        elif name == "speed" and record.keys() & AXES.keys():
            scaling(record, out / (plot := "scaling.svg"))
        if plot:
            text.append(f"![{TITLES[name]}]({plot})\n")
        for heading, body in tables(record):
            text += [f"### {heading}\n"] if heading else []
            text.append(f"{body}\n")
    (out / "README.md").write_text("\n".join(text), encoding="utf-8")


def main() -> None:
    """Command line of this script."""
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    p.add_argument("--out", type=Path, help="folder to write; by default the same")
    args = p.parse_args()
    render(args.results, args.out or args.results)


if __name__ == "__main__":
    main()
