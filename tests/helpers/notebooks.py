"""Notebooks, run without Jupyter: their cells in one session, their outputs in the notebook's own format."""

import ast
import base64
import contextlib
import io
import json

import matplotlib
from matplotlib import pyplot
from matplotlib.figure import Figure


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def write(path, notebook):
    path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def executed(notebook):
    """The notebook with what its code cells print and give now."""
    session, cells, count = {"__name__": "__main__"}, [], 0
    with matplotlib.rc_context({"backend": "Agg"}):
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                count += 1
                outputs = _outputs("".join(cell["source"]), session, count)
                cell = cell | {"execution_count": count, "outputs": outputs}
            cells.append(cell)
    return notebook | {"cells": cells}


def _outputs(source, session, count):
    """What a cell prints, the figures that it leaves open, and what its last expression gives."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), session)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), session)
    outputs = []
    if printed.getvalue():
        lines = printed.getvalue().splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines})
    for number in pyplot.get_fignums():
        if pyplot.figure(number) is not value:
            shown = {"data": _data(pyplot.figure(number)), "metadata": {}}
            outputs.append(shown | {"output_type": "display_data"})
    pyplot.close("all")
    if value is not None:
        result = {"data": _data(value), "execution_count": count, "metadata": {}}
        outputs.append(result | {"output_type": "execute_result"})
    return outputs


def _data(value):
    """A value in the forms that a notebook shows."""
    data = {"text/plain": repr(value).splitlines(keepends=True)}
    if isinstance(value, Figure):
        image = io.BytesIO()
        value.savefig(image, format="png", dpi=80)
        data = {"image/png": base64.b64encode(image.getvalue()).decode(), "text/plain": ["a figure"]}
    elif html := getattr(value, "_repr_html_", lambda: None)():
        data["text/html"] = html.splitlines(keepends=True)
    return data
