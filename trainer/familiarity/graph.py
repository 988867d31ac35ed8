"""Adds the familiarity output to an exported ONNX graph, removes it, or copies it to another precision.

It uses only products, sums and means, in FP32 for every precision of the rest: operators that all backends have and
that did not change between the opsets of our files. All its nodes and constants are named /familiarity/....

In a graph for tiles of several sides a cell stays CELL pixels a side, so a smaller tile has fewer cells, and the rank
of the cell that speaks for it falls with their number (`trainer.familiarity.statistics.rank_of`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.graph_sides import has_open_sides, with_sides
from engines.manifest_fields import CELL
from trainer.errors import ExportRefused
from trainer.export.fold import drop_unused
from trainer.familiarity.statistics import GRID, RANK, Scale, Statistics, rank_of

SCOPE = "/familiarity/"
OUTPUT = "familiarity"
STRIDES = (8, 16)
"""Strides of the encoder levels whose features are used. Measured: deeper levels separate less well."""
_LEVEL = re.compile(r"/segmenter/student/stem/trunk/blocks\.\d+/(Add|project/project\.0/Conv)$")
"""Ends of the blocks of an EfficientNet-Lite trunk, by the exporter's names."""

Constant = NDArray[np.float32] | NDArray[np.int64]


def feature_names(model: onnx.ModelProto, tile_size: int, given: Sequence[str] = ()) -> tuple[str, ...]:
    """The feature tensors: the trunk's last one of each stride, or those given by name.

    Raises:
        ExportRefused: the graph has no such tensors.
    """
    shapes = tensor_shapes(model)
    if given:
        if unknown := [name for name in given if len(shapes.get(name, (0, ()))[1]) != 4]:
            raise ExportRefused(f"the graph has no tensor {unknown[0]} of four dimensions; look at it with a viewer")
        return tuple(given)
    last: dict[int, str] = {}
    for node in model.graph.node:
        side = shapes.get(node.output[0], (0, ()))[1][2:3]
        # Later blocks of a stride overwrite earlier ones: the last is kept.
        if _LEVEL.search(node.name) and side and side[0]:
            last[tile_size // side[0]] = node.output[0]
    if missing := [stride for stride in STRIDES if stride not in last]:
        raise ExportRefused(
            f"the graph has no EfficientNet-Lite trunk at stride {missing[0]}: name two tensors of its encoder with "
            "--features"
        )
    return tuple(last[stride] for stride in STRIDES)


def tensor_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Of every tensor: element type, and sizes with 0 for what is open; of the largest tile, where sides are open."""
    graph = onnx.shape_inference.infer_shapes(with_sides(model, GRID * CELL)).graph
    return {
        info.name: (info.type.tensor_type.elem_type, tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim))
        for info in [*graph.value_info, *graph.output, *graph.input]
    }


class _Nodes:
    """Nodes and constants to be added to a graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: Sequence[str], name: str, *, outputs: int = 1, **attributes: Any) -> str:
        """A node; gives the name of its first output."""
        names = [SCOPE + name, *(f"{SCOPE}{name}/{number}" for number in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=SCOPE + name + "/node", **attributes))
        return names[0]

    def constant(self, name: str, value: Constant) -> str:
        """A constant; gives its name."""
        self.constants.append(numpy_helper.from_array(value, SCOPE + name))
        return SCOPE + name


def with_cells(model: onnx.ModelProto, features: Sequence[str]) -> onnx.ModelProto:
    """A copy whose only output is the tiles' cells, float32 (N, 16, D), and what leads there."""
    copy, nodes = without_familiarity(model), _Nodes()
    cells = _cells(nodes, copy, features)
    _extend(copy, nodes)
    del copy.graph.output[:]
    copy.graph.output.append(helper.make_tensor_value_info(cells, TensorProto.FLOAT, None))
    drop_unused(copy.graph)
    return copy


def with_familiarity(
    model: onnx.ModelProto, features: Sequence[str], statistics: Statistics, scale: Scale
) -> onnx.ModelProto:
    """A copy with the output ``familiarity``, float32 (N,), in place of an earlier one."""
    copy, nodes = without_familiarity(model), _Nodes()
    distances = _distances(nodes, _cells(nodes, copy, features), statistics)
    value = _on_scale(nodes, _ranked(nodes, distances, is_open=has_open_sides(copy)), scale)
    nodes.nodes.append(helper.make_node("Squeeze", [value, nodes.constant("axis", _ints(1))], [OUTPUT], SCOPE + "out"))
    _extend(copy, nodes)
    _add_output(copy)
    return copy


def only_familiarity(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that gives the familiarity alone, for measuring many tiles."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    outputs = [port for port in copy.graph.output if port.name == OUTPUT]
    del copy.graph.output[:]
    copy.graph.output.extend(outputs)
    drop_unused(copy.graph)
    return copy


def scale_in(model: onnx.ModelProto) -> Scale:
    """The scale of a graph that has the output.

    Raises:
        ExportRefused: it has none.
    """
    values = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer if item.name.startswith(SCOPE)}
    try:
        knots = np.concatenate([values[SCOPE + "knots"], values[SCOPE + "last_knot"]])
        falls = values[SCOPE + "slopes"][:, 0] * values[SCOPE + "lengths"]
        highest = values[SCOPE + "highest"]
        return Scale(knots, np.concatenate([highest, highest + np.cumsum(falls)]))
    except KeyError as error:
        raise ExportRefused("the graph has no familiarity") from error


def without_familiarity(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the output and all that leads to it alone."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for items in (graph.node, graph.initializer, graph.value_info):
        remaining = [item for item in items if not item.name.startswith(SCOPE)]
        del items[:]
        items.extend(remaining)
    outputs = [port for port in graph.output if port.name != OUTPUT]
    del graph.output[:]
    graph.output.extend(outputs)
    return copy


def carried_over(model: onnx.ModelProto, donor: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph with the familiarity of another precision of the same network.

    Raises:
        ExportRefused: the donor has none, or is another network.
    """
    added = [node for node in donor.graph.node if node.name.startswith(SCOPE)]
    if not added:
        raise ExportRefused("the model to take statistics from has no familiarity: fit it there first")
    if has_open_sides(model) and not has_open_sides(donor):
        donor = _for_open_sides(donor)
        added = [node for node in donor.graph.node if node.name.startswith(SCOPE)]
    copy = without_familiarity(model)
    wanted, given = tensor_shapes(donor), tensor_shapes(copy)
    features = [node.input[0] for node in added if node.name.startswith(f"{SCOPE}feature_")]
    for name in features:
        # Without the first size, the batch, which is open.
        if wanted[name][1][1:] != given.get(name, (0, ()))[1][1:]:
            raise ExportRefused(f"these statistics are of another network: this one has no such tensor as {name}")
    copy.graph.initializer.extend(item for item in donor.graph.initializer if item.name.startswith(SCOPE))
    for node in added:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        # These nodes alone read the network; the rest reads only what they give.
        if node.name.startswith(f"{SCOPE}feature_"):
            copied.input[0] = _as_read(copy.graph, node.input[0])
        copy.graph.node.append(copied)
    _add_output(copy)
    return copy


def _for_open_sides(donor: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose familiarity takes any number of cells, with the same statistics and scale.

    Raises:
        ExportRefused: its cells have another size than those of a graph with open sides.
    """
    sides = [dim.dim_value for dim in donor.graph.input[0].type.tensor_type.shape.dim[2:]]
    if sides != [GRID * CELL, GRID * CELL]:
        raise ExportRefused(
            f"the model to take statistics from has tiles of {' x '.join(map(str, sides))} pixels and cells of a "
            f"quarter of that, this one has cells of {CELL}: fit it here"
        )
    copy, nodes = onnx.ModelProto(), _Nodes()
    copy.CopyFrom(donor)
    for item in copy.graph.initializer:
        if item.name.startswith(f"{SCOPE}shape_"):
            *others, _ = numpy_helper.to_array(item)
            item.CopyFrom(numpy_helper.from_array(_ints(*others, -1), item.name))
    fixed = {f"{SCOPE}ranked/node", f"{SCOPE}tile/node"}
    place = next(number for number, node in enumerate(copy.graph.node) if node.name in fixed)
    distances = copy.graph.node[place].input[0]
    _ranked(nodes, distances, is_open=True)
    rest = [node for node in copy.graph.node if node.name not in fixed]
    given = {item.name for item in nodes.constants}
    constants = [item for item in copy.graph.initializer if item.name not in given]
    del copy.graph.node[:], copy.graph.initializer[:]
    # In the place of those that they replace: nodes stand behind what they read.
    copy.graph.node.extend([*rest[:place], *nodes.nodes, *rest[place:]])
    copy.graph.initializer.extend([*constants, *nodes.constants])
    drop_unused(copy.graph)
    return copy


def _cells(nodes: _Nodes, model: onnx.ModelProto, features: Sequence[str]) -> str:
    shapes, pooled = tensor_shapes(model), []
    for number, name in enumerate(features):
        _, (_, channels, rows, columns) = shapes[name]
        # A cast of FP32 to FP32 costs nothing, and lets the nodes serve the file in another precision.
        real = nodes.add("Cast", [_as_read(model.graph, name)], f"feature_{number}", to=TensorProto.FLOAT)
        means = _cell_means(nodes, real, number, rows, columns)
        # As many cells as there are: 16, but in a smaller tile of a graph whose sides are open.
        shape = nodes.constant(f"shape_{number}", _ints(0, channels, -1 if has_open_sides(model) else GRID * GRID))
        pooled.append(nodes.add("Reshape", [means, shape], f"cells_{number}"))
    # Channels last: a cell is a row of the products below.
    return nodes.add("Transpose", [nodes.add("Concat", pooled, "channels", axis=1)], "cells", perm=[0, 2, 1])


def _cell_means(nodes: _Nodes, feature: str, number: int, rows: int, columns: int) -> str:
    """(N, C, GRID, GRID): the means of each cell."""
    if rows % GRID == columns % GRID == 0:
        # Pooling reads channels last, as OpenVINO's convolutions write them; for a product it copied the whole feature.
        sides = [rows // GRID, columns // GRID]
        return nodes.add("AveragePool", [feature], f"means_{number}", kernel_shape=sides, strides=sides)
    across = nodes.add("MatMul", [feature, nodes.constant(f"across_{number}", _means(columns).T)], f"rows_{number}")
    return nodes.add("MatMul", [nodes.constant(f"down_{number}", _means(rows)), across], f"means_{number}")


def _as_read(graph: onnx.GraphProto, name: str) -> str:
    """In an INT8 graph, the tensor as the next layer reads it: behind its pair of quantisation.

    Read before the pair, it has to be kept in floats as well; OpenVINO then rounds elsewhere, and up to 0.11 % of a
    tile's pixels got another class.
    """
    whole = {node.output[0] for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == name}
    pairs = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in whole]
    return pairs[0].output[0] if pairs else name


def _distances(nodes: _Nodes, cells: str, statistics: Statistics) -> str:
    """(N, cells): of each cell."""
    width = len(statistics.mean)
    centred = nodes.add("Sub", [cells, nodes.constant("mean", statistics.mean)], "centred")
    projected, odds = _products(nodes, centred, statistics)
    each = nodes.add("Unsqueeze", [projected, nodes.constant("prototype_axis", _ints(2))], "each")
    apart = nodes.add("Sub", [each, nodes.constant("prototypes", statistics.prototypes)], "apart")
    squares = nodes.add("Mul", [apart, apart], "squares")
    # A product with 1/D takes the mean: the axes of ReduceMean moved to an input with opset 18.
    mean = nodes.constant("mean_of_squares", np.full((width, 1), 1 / width, np.float32))
    square = nodes.add("Squeeze", [nodes.add("MatMul", [squares, mean], "mean_square"),
                                   nodes.constant("last_axis", _ints(3))], "by_prototype")  # fmt: skip
    distance = nodes.add("Sqrt", [_extreme(nodes, square, "nearest", largest=False)], "distance")
    if odds is not None:
        distance = nodes.add("Max", [distance, _extreme(nodes, odds, "likeliest", largest=True)], "distance_or_odds")
    return distance


def _ranked(nodes: _Nodes, distances: str, *, is_open: bool) -> str:
    """(N, 1): of each tile, the distance of the cell that speaks for it."""
    # Behind the farthest cell of a small tile there are none: TopK wants RANK values at least, of any tile.
    padded = distances if not is_open else nodes.add(
        "Pad", [distances, nodes.constant("beyond_cells", _ints(0, 0, 0, RANK)),
                nodes.constant("farthest", np.array(np.finfo(np.float32).max, np.float32))], "padded",
    )  # fmt: skip
    # TopK gives the RANK smallest in order; the last of them is the tile's.
    ranked = nodes.add(
        "TopK", [padded, nodes.constant("rank", _ints(RANK))], "ranked", outputs=2, axis=1, largest=0, sorted=1
    )
    if not is_open:
        return _part(nodes, ranked, "tile", axis=1, begin=RANK - 1, end=RANK)
    return nodes.add("Gather", [ranked, _place_of_rank(nodes, distances)], "tile", axis=1)


def _place_of_rank(nodes: _Nodes, distances: str) -> str:
    """(1,): number, from 0, of the cell that speaks for a tile; see `trainer.familiarity.statistics.rank_of`."""
    sizes = nodes.add("Shape", [distances], "sizes")
    count = nodes.add("Gather", [sizes, nodes.constant("cell_axis", _ints(1))], "count", axis=0)
    # A table and not arithmetic: whole numbers are divided differently by runtimes, a constant is read alike by all.
    ranks = nodes.constant("places", _ints(*(rank_of(cells) - 1 for cells in range(GRID * GRID + 1))))
    return nodes.add("Gather", [ranks, count], "place", axis=0)


def _products(nodes: _Nodes, centred: str, statistics: Statistics) -> tuple[str, str | None]:
    """(N, 16, D) projected, and (N, 16, G) what tells corruptions; None where nothing does."""
    if (corruptions := statistics.corruptions) is None:
        return nodes.add("MatMul", [centred, nodes.constant("projection", statistics.projection)], "projected"), None
    # Centred before the product: features are far from zero, and half precision would round the difference away. One
    # product for both: each has its own start of threads.
    width, count = corruptions.weights.shape
    matrix = nodes.constant("projection", np.concatenate([statistics.projection, corruptions.weights], axis=1))
    both = nodes.add("MatMul", [centred, matrix], "products")
    offsets = nodes.constant("offsets", statistics.mean @ corruptions.weights + corruptions.offsets)
    odds = nodes.add("Add", [_part(nodes, both, "along", axis=2, begin=width, end=width + count), offsets], "odds")
    return _part(nodes, both, "projected", axis=2, begin=0, end=width), odds


def _part(nodes: _Nodes, values: str, name: str, *, axis: int, begin: int, end: int) -> str:
    limits = (("from", begin), ("to", end), ("axis", axis))
    return nodes.add("Slice", [values, *(nodes.constant(f"{name}_{of}", _ints(at)) for of, at in limits)], name)


def _extreme(nodes: _Nodes, values: str, name: str, *, largest: bool) -> str:
    """(N, cells) of (N, cells, K)."""
    one = nodes.constant(f"{name}_one", _ints(1))
    # TopK and not ReduceMin or ReduceMax, whose axes moved as well.
    found = nodes.add("TopK", [values, one], name, outputs=2, axis=2, largest=int(largest), sorted=1)
    return nodes.add("Squeeze", [found, nodes.constant(f"{name}_axis", _ints(2))], f"{name}_of_cells")


def _on_scale(nodes: _Nodes, distance: str, scale: Scale) -> str:
    """(N, 1): see Scale."""
    knots, lengths = scale.knots, np.diff(scale.knots)
    slopes = (np.diff(scale.values) / lengths).astype(np.float32)
    past = nodes.add("Sub", [distance, nodes.constant("knots", knots[:-1])], "past")
    zero, whole = nodes.constant("zero", np.zeros(1, np.float32)), nodes.constant("lengths", lengths)
    # A broken line as a sum: of each piece the length that the distance has gone, times its slope.
    gone = nodes.add("Min", [nodes.add("Max", [past, zero], "forward"), whole], "gone")
    fallen = nodes.add("MatMul", [gone, nodes.constant("slopes", slopes[:, None])], "fallen")
    inside = nodes.add("Add", [fallen, nodes.constant("highest", scale.values[:1])], "inside")
    last = nodes.constant("last_knot", knots[-1:])
    # 1 up to the last knot, and falling behind it: no division by 0, no branch.
    beyond = nodes.add("Div", [last, nodes.add("Max", [distance, last], "outside")], "beyond")
    return nodes.add("Mul", [inside, beyond], "value")


def _means(length: int) -> NDArray[np.float32]:
    """(GRID, length): rows take the mean of each part of an axis; parts differ by one where it does not divide."""
    matrix = np.zeros((GRID, length), np.float32)
    for row, part in enumerate(np.array_split(np.arange(length), GRID)):
        matrix[row, part] = 1 / max(1, len(part))
    return matrix


def _ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _extend(model: onnx.ModelProto, nodes: _Nodes) -> None:
    model.graph.node.extend(nodes.nodes)
    model.graph.initializer.extend(nodes.constants)


def _add_output(model: onnx.ModelProto) -> None:
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    port = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch.dim_param or batch.dim_value or "N"])
    model.graph.output.append(port)
    onnx.checker.check_model(model)
