"""python -m benchmarks.growth: draws how the cost of a step grows, from benchmarks/results/speed.json.

The picture is docs/images/growth.png. A dot is a row of the table in docs/speed.md.
"""

import json
import pathlib

import matplotlib.figure
import matplotlib.ticker

REPO = pathlib.Path(__file__).parents[1]
# The sizes of the results, what an axis calls them, and at which value the dashed line meets the curve.
PANELS = {
    "num_nodes": ("N, latent nodes", 5),
    "num_flow_steps": ("T, flow steps", 2),
    "batch_size": ("B, images of a step", 128),
    "num_samples": ("S, importance samples (128 images)", 100),
}


def picture(rows: list[dict]) -> matplotlib.figure.Figure:
    """Milliseconds against each size, both axes logarithmic unless the size may be 0.

    Args:
        rows: `growth` of the results: size, value and milliseconds_per_step of each.
    """
    figure = matplotlib.figure.Figure(figsize=(9, 5.4), dpi=120, layout="constrained")
    for axes, (size, (label, usual)) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        times = {row["value"]: row["milliseconds_per_step"] for row in rows if row["size"] == size}
        values, milliseconds = list(times), list(times.values())
        axes.plot(values, milliseconds, marker="o", color="#26547c")
        axes.set(xlabel=label, ylabel="ms", ylim=(0, 1.1 * max(milliseconds)))
        if 0 not in times:
            axes.plot(values, [times[usual] * value / usual for value in values], linestyle="--", color="grey")
            axes.set(xscale="log", yscale="log", ylim=(min(milliseconds) / 2, 2 * max(milliseconds)))
            axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xticks(values, [str(value) for value in values])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    results = json.loads((REPO / "benchmarks" / "results" / "speed.json").read_text())
    picture(results["growth"]).savefig(REPO / "docs" / "images" / "growth.png")
