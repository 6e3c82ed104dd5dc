"""How the cost of a gradient grows: time an image against batch size, tolerance and width, in each library.

    python -m benchmarks.growth --torch_python=PYTHON --jax_python=PYTHON --out=results/benchmarks/growth

OON-MNIST, random weights, the same in all; a forward pass and the input's gradient. One axis at a time, from K = 64
channels, 32 images and tau = 1e-3. Interleaved rounds; medians. Writes `table.md`, `growth.json` and `growth.png`.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterable, Iterator

from benchmarks import solvers
from benchmarks.solvers import Peer, measure

PEERS = (*solvers.PEERS, "diffrax")
FROM = {"batch": 32, "tol": 1e-3, "filters": 64}
AXES = {
    "batch": ("images at once", (1, 8, 32, 128, 512)),
    "tol": ("tau", (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)),
    "filters": ("channels", (16, 32, 64, 128, 256)),
}


def grow(axis: str, found: dict[float, dict[str, dict]], options: argparse.Namespace) -> Iterator[None]:
    """Fills `found`: by value of the axis and by peer, seconds an image and NFE; yields after each value.

    A peer that took too long is left out from there.
    """
    peers = _started(options.peers, FROM["filters"], options)
    for value in AXES[axis][1]:
        here = FROM | {axis: value}
        if axis == "filters":
            _close(peers)
            peers = _started(peers, value, options)
        # The first call of a shape compiles.
        for peer in peers.values():
            peer.run("gradient", here["tol"], here["batch"])
        results = measure(peers, "gradient", here["tol"], here["batch"], options.rounds, options.limit)
        found[value] = {n: {"seconds": r["seconds"] / here["batch"], "nfe": r["nfe"]} for n, r in results.items()}
        print(axis, value, {name: round(1e3 * one["seconds"], 2) for name, one in found[value].items()}, flush=True)
        slow = {name: peers.pop(name) for name, result in results.items() if result["once"]}
        _close(slow)
        yield
    _close(peers)


def _started(names: Iterable[str], filters: int, options: argparse.Namespace) -> dict[str, Peer]:
    pythons = {"ours": sys.executable, "tfp": sys.executable, "diffrax": options.jax_python}
    return {name: Peer(name, options.threads, filters, pythons.get(name, options.torch_python)) for name in names}


def _close(peers: dict[str, Peer]) -> None:
    for peer in peers.values():
        peer.close()


def table(axis: str, found: dict[float, dict[str, dict]], peers: list[str]) -> str:
    """Milliseconds an image, a row a value of the axis; NFE in brackets."""
    lines = [f"| {AXES[axis][0]} | {' | '.join(peers)} |", f"| ---: |{' ---: |' * len(peers)}"]
    for value, at in found.items():
        cells = [f"{1e3 * at[name]['seconds']:.2f} ({at[name]['nfe']:.1f})" if name in at else "–" for name in peers]
        lines.append(f"| {value:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: dict[str, dict], peers: list[str], path: pathlib.Path) -> None:
    """One chart an axis, both scales logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, plots = plt.subplots(1, len(found), figsize=(4.5 * len(found), 3.8), squeeze=False, layout="constrained")
    for plot, (axis, values) in zip(plots[0], found.items(), strict=True):
        for name in peers:
            known = {value: 1e3 * at[name]["seconds"] for value, at in values.items() if name in at}
            plot.plot(known.keys(), known.values(), marker="o", markersize=3, label=name)
        plot.set(xscale="log", yscale="log", xlabel=AXES[axis][0], ylabel="ms an image")
        if axis == "tol":
            plot.invert_xaxis()
    plots[0][0].legend(fontsize="small")
    figure.savefig(path, dpi=120)


def write(found: dict[str, dict], options: argparse.Namespace) -> None:
    """What was measured so far: the numbers, the tables and the charts."""
    (options.out / "growth.json").write_text(json.dumps(found, indent=1) + "\n")
    tables = [table(axis, values, options.peers) for axis, values in found.items()]
    (options.out / "table.md").write_text("\n\n".join(tables) + "\n")
    draw(found, options.peers, options.out / "growth.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds after which a peer is left out of an axis")
    parser.add_argument("--torch_python", default=sys.executable, help="the Python that has the peers of PyTorch")
    parser.add_argument("--jax_python", default=sys.executable, help="the Python that has diffrax")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the folder to write into")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for axis in options.axes:
        found[axis] = {}
        for _ in grow(axis, found[axis], options):
            write(found, options)


if __name__ == "__main__":
    main()
