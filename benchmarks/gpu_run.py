"""python gpu_run.py FOLDER CALLS OUT: runs what gpu_export wrote on the device that JAX sees; needs jax and numpy only.

Prints the device, the compile time, steps and images per second, and the fraction of the rate of a large float32 matrix
product on the same device; writes the trained variables to OUT/state.npz.
"""

import json
import pathlib
import sys
import time

import jax
import numpy as np
from jax._src import xla_bridge
from jax._src.interpreters import mlir
from jax._src.lib import xla_client
from jax._src.lib.mlir import ir

WARM_UP = 3


def compiled(file):
    """The StableHLO program as an executable on JAX's first device."""
    with mlir.make_ir_context():
        module = ir.Module.parse(file.read_text())
        devices = xla_client.DeviceList((jax.devices()[0],))
        return xla_bridge.get_backend().compile_and_load(module, devices, xla_client.CompileOptions())


def matrix_product_rate():
    """FLOP/s of a float32 matrix product at the precision that the step has."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.numpy.ones((size, size), "float32")
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    started = time.perf_counter()
    for _ in range(10):
        last = product(a)
    last.block_until_ready()
    return 10 * 2 * size**3 / (time.perf_counter() - started)


def main(folder, calls, out):
    jax.config.update("jax_enable_x64", True)
    meta = json.loads((folder / "step.json").read_text())
    started = time.perf_counter()
    step = compiled(folder / "step.mlir")
    report = {"device": str(jax.devices()[0]), "compile_seconds": time.perf_counter() - started}
    state = np.load(folder / "state.npz")
    variables = [jax.device_put(state[f"v{i}"]) for i in range(meta["num_variables"])]
    images = jax.device_put(np.load(folder / "data.npy"))

    def run(calls):
        for call in calls:
            arguments = [images, jax.device_put(np.int32(call)), *variables]
            outputs = [parts[0] for parts in step.execute_sharded(arguments).disassemble_into_single_device_arrays()]
            for parameter, output in meta["output_of_parameter"].items():
                variables[int(parameter) - 2] = outputs[output]
        return float(outputs[0])

    run(range(WARM_UP))
    started = time.perf_counter()
    report["mean_elbo"] = run(range(WARM_UP, WARM_UP + calls))
    seconds = (time.perf_counter() - started) / (calls * meta["steps_per_call"])
    rate = matrix_product_rate()
    report |= {
        "batch_size": meta["batch_size"],
        "steps_per_second": 1 / seconds,
        "images_per_second": meta["batch_size"] / seconds,
        "matrix_product_gflops": rate / 1e9,
        "fraction": meta["flops_per_image"] * meta["batch_size"] / seconds / rate,
    }
    print(json.dumps(report, indent=1))
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "state.npz", **{f"v{i}": np.asarray(variable) for i, variable in enumerate(variables)})


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3]))
