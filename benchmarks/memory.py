"""Peak memory of forward plus input gradient: OON-MNIST in ours, torchdiffeq and torchode, B = 128, a process each.

`python benchmarks/memory.py --tol 1e-3 1e-4`: by peer and tolerance how far the process's peak rises above what it had
before the first call of that batch, in MiB. Ours keeps what `checkpoint` says. Times are no matter here.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys

OURS = {"ours, auto": {}, "ours, steps": {"checkpoint": "steps"}, "ours, adjoint": {"gradient": "adjoint"}}
PEERS = (*OURS, "torchdiffeq backprop", "torchdiffeq adjoint", "torchode")


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, tol: float, batch: int, threads: int) -> dict[str, float]:
    """What one peer's gradient takes, in this process."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    from benchmarks import workers

    worker = workers.make("ours" if name in OURS else name, threads)
    for option, value in OURS.get(name, {}).items():
        setattr(worker.block, option, value)
    # Libraries load and kernels are made at the first call of all.
    worker.run("gradient", tol, 1)
    before = peak()
    nfe = worker.run("gradient", tol, batch)
    return {"mib": peak() - before, "nfe": nfe}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--tol", type=float, nargs="+", default=[1e-3, 1e-4])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--torch_python", default=sys.executable, help="the Python that has the peers of PyTorch")
    options = parser.parse_args()
    if options.peer:
        print(json.dumps(measure(options.peer, options.tol[0], options.batch, options.threads)))
        return
    print(f"B = {options.batch}, MiB above what the process had before; NFE in brackets\n")
    print(f"| peer | {' | '.join(f'tau = {tol:g}' for tol in options.tol)} |\n|{' --- |' * (len(options.tol) + 1)}")
    for name in options.peers:
        found = [_in_a_process(name, tol, options) for tol in options.tol]
        cells = [f"{one['mib']:.0f} ({one['nfe']:.1f})" for one in found]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _in_a_process(name: str, tol: float, options: argparse.Namespace) -> dict[str, float]:
    python = sys.executable if name in OURS else options.torch_python
    given = {"peer": name, "tol": tol, "batch": options.batch, "threads": options.threads}
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [python, __file__, *(f"--{key}={value}" for key, value in given.items())]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
