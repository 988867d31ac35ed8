"""Measures the code itself: `python -m benchmarks.code [FOLDER]` prints the rows of docs/decisions/0013-rooms.md.

Lines are physical lines of the packages' modules, without tests and vendored files. Nesting counts if, for, while,
with, try and match inside a function. Complexity is 1 and one more for each branch, loop, handler, condition of a
comprehension and operand of and/or (McCabe, Source: IEEE TSE SE-2(4), 1976). A comment line holds nothing else.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import tokenize
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("engines", "telemetry", "onboard", "ground", "products", "trainer", "benchmarks")
_NESTING = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)
_BRANCHES = (ast.If, ast.For, ast.While, ast.AsyncFor, ast.ExceptHandler, ast.IfExp, ast.match_case)
_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one row for each figure, for each package and for all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.code", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(), metavar="FOLDER", help="checkout (default: .)")
    root = parser.parse_args(argv).folder
    # A folder without the packages has no functions, and so no median of their lengths.
    if not all((root / name).is_dir() for name in PACKAGES):
        parser.error(f"{root} is no checkout: it lacks one of {', '.join(PACKAGES)}")
    columns = {name: sorted((root / name).rglob("*.py")) for name in PACKAGES}
    columns = {"all": [path for paths in columns.values() for path in paths], **columns}
    table = {name: _figures(paths) for name, paths in columns.items()}
    print("| | " + " | ".join(table) + " |\n|---|" + "---|" * len(table))
    for row in table["all"]:
        print(f"| {row} | " + " | ".join(figures[row] for figures in table.values()) + " |")


def _figures(paths: list[Path]) -> dict[str, str]:
    texts = [path.read_text(encoding="utf-8") for path in paths]
    lines = [len(text.splitlines()) for text in texts]
    functions = [node for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, _Function)]
    lengths = [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]
    deep = sum(_depth(node) >= 4 for node in functions)
    return {
        "lines": f"{sum(lines):,}",
        "modules": f"{len(paths)}",
        "lines of a module, median": f"{statistics.median(lines):g}",
        "modules over 300 lines; the longest": f"{sum(count > 300 for count in lines)}; {max(lines)}",
        "lines of a function, median": f"{statistics.median(lengths):g}",
        "functions with nesting of 4 or more": f"{deep / len(functions):.1%}",
        "complexity of a function, mean": f"{statistics.mean(map(_complexity, functions)):.2f}",
        "comment lines": f"{sum(map(_comments, paths)) / sum(lines):.1%}",
    }


def _depth(node: ast.AST) -> int:
    """Deepest nesting below a node; an elif is no deeper than its if, a function of its own counts for itself."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Function):
            continue
        # To the parser elif is an if within the else of another one.
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse
        deepest = max(deepest, _depth(child) + (isinstance(child, _NESTING) and not is_elif))
    return deepest


def _complexity(function: ast.AST) -> int:
    total = 1
    for node in ast.walk(function):
        if isinstance(node, _BRANCHES):
            total += 1
        elif isinstance(node, ast.BoolOp):
            total += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            total += 1 + len(node.ifs)
    return total


def _comments(path: Path) -> int:
    with path.open("rb") as file:
        tokens = list(tokenize.tokenize(file.readline))
    # By tokens: a # inside a string is none.
    return sum(token.type == tokenize.COMMENT and token.line.strip().startswith("#") for token in tokens)


if __name__ == "__main__":
    main()
