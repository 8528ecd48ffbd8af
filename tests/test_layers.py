"""Imports look down: no module uses one of a layer above its own, and none are imported in a circle."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

import gpt2c

PACKAGE = Path(gpt2c.__file__).parent
LAYERS = (
    *("data", "errors", "json_values", "version", "config", "reference", "reference_bert"),
    *(
        "tokenizer",
        "core",
        "checkpoint",
        "heads",
        "introspection",
        "scoring",
        "masks",
        "generation",
        "session",
        "translation",
    ),
    *(
        "views",
        "pretrained",
        "model",
        "bert",
        "any_model",
        "encoder_decoder",
        "corpus",
        "integrations",
        "server",
        "cli",
    ),
    *("edits", "ray", "lm_eval", "__init__", "__main__"),
)
"""The folders and files of the package, lowest first: each may import from those before it."""

LONG = {"model", "bert", "encoder_decoder", "pretrained"}  # docs/architecture.md says why
UPWARD = "core.display"  # results reach what draws them through this one module


def imports(root):
    """Each module of a package, and the modules that it imports: also in functions, and for types only."""
    files = {name_of(path, root): path for path in root.rglob("*") if path.suffix in (".py", ".pyx")}
    return {name: {found(item, files) for item in named(path, name)} - {name} for name, path in files.items()}


def name_of(path, root):
    """ "core.lm" of core/lm.py, "core" of core/__init__.py, "__init__" of the package itself."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def named(path, name):
    """The dotted names that a file imports from the package, without that of the package."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".pyx":
        yield from re.findall(r"^from gpt2c\.([\w.]+) c?import", text, re.MULTILINE)
        return
    folder = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    folder = [] if name == "__init__" else folder
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            inside = node.level or (node.module or "").split(".")[0] == "gpt2c"
            base = folder[: len(folder) + 1 - node.level] if node.level else []
            module = (node.module or "").removeprefix("gpt2c").strip(".")
            yield from (".".join([*base, module, alias.name]) for alias in node.names if inside)
        elif isinstance(node, ast.Import):
            yield from (alias.name[6:] for alias in node.names if alias.name.startswith("gpt2c."))


def found(name, files):
    """The module that an imported name is, or is in."""
    parts = [part for part in name.split(".") if part]
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((name for name in names if name in files), "__init__")


def looking_up(graph):
    """The imports that go to a layer above, as (module, imported)."""
    rank = {name: LAYERS.index(name.split(".")[0]) for name in graph}
    return {(a, b) for a, imported in graph.items() for b in imported if rank[b] > rank[a] and a != UPWARD}


def test_imports_only_look_down():
    assert looking_up(imports(PACKAGE)) == set()


def test_nothing_is_imported_in_a_circle():
    graph = {name: imported for name, imported in imports(PACKAGE).items() if name != UPWARD}
    graphlib.TopologicalSorter(graph).prepare()


def test_the_exception_is_one_module():
    assert {name.split(".")[0] for name in imports(PACKAGE)[UPWARD]} == {"views"}


def test_files_and_functions_are_short():
    paths = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".pyx", ".pxd", ".js")]
    assert {name_of(path, PACKAGE) for path in paths if n_lines(path) > 400} <= LONG
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                assert name_of(path, PACKAGE) in LONG, (path, node.name)


def n_lines(path):
    return path.read_text(encoding="utf-8").count("\n")


@pytest.mark.parametrize(
    "line",
    [
        "from ..views import plots",
        "def later():\n    from ..views.plots import plot",
        "if TYPE_CHECKING:\n    from ..views.plots import plot",
        "import gpt2c.views.plots",
        "from gpt2c.views import plots",
        "from .. import views",
        "from .. import __version__",
    ],
)
def test_an_import_that_looks_up_is_found(tmp_path, line):
    for name in ("__init__", "core/__init__", "core/lm", "views/__init__", "views/plots"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(line if name == "core/lm" else "")
    assert [pair[0] for pair in looking_up(imports(tmp_path))] == ["core.lm"]


def test_a_circle_is_found(tmp_path):
    for one, other in (("lm", "batching"), ("batching", "lm")):
        (tmp_path / "core").mkdir(exist_ok=True)
        (tmp_path / f"core/{one}.py").write_text(f"from .{other} import anything")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(imports(tmp_path)).prepare()
