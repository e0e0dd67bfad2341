"""Half the size of an ONNX file: weights are kept in half precision, and cast to single when the model is loaded.

`python -m tools.halve_onnx IN.onnx OUT.onnx` made presets/weights/u2netp/u2netp.onnx from rembg's file. Needs the
package onnx (1.23 was used), which nothing else of the project needs.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    model = onnx.load(options.source)
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != TensorProto.FLOAT:
            continue
        name, half = weight.name, numpy_helper.to_array(weight).astype("float16")
        weight.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    for number, cast in enumerate(casts):  # nodes stand in the order in which they are computed
        model.graph.node.insert(number, cast)
    onnx.checker.check_model(model)
    options.target.write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main()
