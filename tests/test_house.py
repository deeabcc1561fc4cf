"""The house: an image walks down through the imports and never back up."""

import ast
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1] / "cfgen"
# From the ground up: a room may import those that stand before it, and its own.
FLOORS: Sequence[str] = """
    _version criterion metrics generators priors classifiers problem directions searches result
    explain diverse plausibility checkpoints data engine gallery study training cli __main__
""".split()


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path):
    """The modules of cfgen that a file imports, those inside of functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cfgen"):
            if node.module == "cfgen":
                yield from (f"cfgen.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("cfgen"))


def test_every_import_goes_down():
    files = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]
    assert {room(path) for path in files} == set(FLOORS)
    for path in files:
        for name in imports(path):
            parts = name.split(".")
            assert len(parts) > 1, f"{path.name} imports the package's face"
            assert FLOORS.index(parts[1]) <= FLOORS.index(room(path)), f"{path.name}: {name}"


def test_no_circle_inside_a_room():
    graph: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(("cfgen", *path.relative_to(ROOT).with_suffix("").parts))
        if path.name != "__init__.py":
            graph[name] = set(imports(path))
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name not in done:
            for other in graph.get(name, ()):
                walk(other, (*way, name))
            done.add(name)

    for name in graph:
        walk(name, ())


def test_only_the_street_stands_at_the_top():
    street = {"problem", "criterion", "explain", "diverse", "result", "checkpoints", "metrics"}
    names = {path.stem for path in ROOT.glob("*.py") if not path.stem.startswith("_")}
    assert names == street


def test_what_a_method_developer_types_is_typed():
    assert (ROOT / "py.typed").is_file()
