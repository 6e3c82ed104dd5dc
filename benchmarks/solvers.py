"""Solvers side by side: OON-MNIST in ours, stock TFP, torchdiffeq and torchode, same weights, same threads.

Each peer is a process of its own. The rounds are interleaved, one run of each peer a round, and the table gives
medians. Run `make bench`, or `python benchmarks/solvers.py --rounds=3 --tol=1e-3`.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

PEERS = ("ours", "tfp", "torchdiffeq adjoint", "torchdiffeq backprop", "torchode")
TASKS = ("forward", "gradient", "training")


def work(name: str, threads: int, filters: int) -> None:
    """Answers one run a line of standard input."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
    from benchmarks import workers

    worker = workers.make(name, threads, filters)
    print(json.dumps({"ready": name}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        nfe = worker.run(request["task"], request["tol"], request["batch"])
        print(json.dumps({"seconds": time.perf_counter() - start, "nfe": nfe}), flush=True)


class Peer:
    """A worker process; None of its answers is a cell it has not got."""

    def __init__(self, name: str, threads: int, filters: int = 64, python: str = sys.executable):
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "TF_NUM_INTRAOP_THREADS": str(threads),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        if name == "diffrax":
            # JAX takes as many threads as it sees cores.
            environment["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}"
        options = {"worker": name, "threads": threads, "filters": filters}
        command = [python, "-m", "benchmarks", *(f"--{key}={value}" for key, value in options.items())]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        self._answer()

    def _answer(self) -> dict:
        while line := self.process.stdout.readline():
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit("a worker ended: see its message above")

    def run(self, task: str, tol: float, batch: int) -> dict:
        self.process.stdin.write(json.dumps({"task": task, "tol": tol, "batch": batch}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def measure(peers: dict[str, Peer], task: str, tol: float, batch: int, rounds: int, limit: float) -> dict[str, dict]:
    """Median seconds and NFE a peer; a peer slower than `limit` seconds runs once, unwarmed, and is marked."""
    times = {name: [] for name in peers}
    nfe, slow = {}, set()
    for name, peer in peers.items():
        answer = peer.run(task, tol, batch)
        nfe[name] = answer["nfe"]
        if answer["seconds"] > limit:
            slow.add(name)
            times[name].append(answer["seconds"])
    for _ in range(rounds):
        for name, peer in peers.items():
            if name not in slow:
                times[name].append(peer.run(task, tol, batch)["seconds"])
    return {n: {"seconds": statistics.median(t), "nfe": nfe[n], "once": n in slow} for n, t in times.items()}


def cell(result: dict, floor: float) -> str:
    mark = "*" if result["once"] else ""
    ratio = result["seconds"] / (result["nfe"] * floor)
    return f"{result['seconds'] * 1e3:.0f} ms{mark} ({result['nfe']:.1f}, {ratio:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--filters", type=int, default=64, help="channels of the network")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=30.0, help="seconds after which a peer runs once only")
    parser.add_argument("--tol", type=float, nargs="+", default=[1e-4, 1e-3, 1e-1, 1.0])
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 1])
    parser.add_argument("--task", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.threads, options.filters)
        return
    peers = {name: Peer(name, options.threads, options.filters) for name in options.peers}
    print(
        f"{options.threads} threads, medians of {options.rounds} interleaved rounds; (NFE, time / (NFE x evaluation))"
    )
    for batch in options.batch:
        floors = measure(peers, "evaluation", 1.0, batch, 4 * options.rounds, options.limit)
        line = ", ".join(f"{n} {r['seconds'] * 1e3:.1f} ms" for n, r in floors.items())
        print(f"\nB = {batch}: one evaluation of the dynamics: {line}")
        if "ours" in peers:
            bare = measure({"ours": peers["ours"]}, "convolutions", 1.0, batch, 4 * options.rounds, options.limit)
            ratio = floors["ours"]["seconds"] / bare["ours"]["seconds"]
            print(f"its two bare convolutions: {bare['ours']['seconds'] * 1e3:.1f} ms; ours over them: {ratio:.2f}")
        print(f"\n| task | tau | {' | '.join(peers)} |\n|{' --- |' * (len(peers) + 2)}")
        for task in options.task:
            for tol in options.tol:
                results = measure(peers, task, tol, batch, options.rounds, options.limit)
                cells = (cell(r, floors[n]["seconds"]) for n, r in results.items())
                print(f"| {task} | {tol:g} | {' | '.join(cells)} |", flush=True)
    print("\n* one run, its compilation or first call included")
    for peer in peers.values():
        peer.close()


if __name__ == "__main__":
    main()
