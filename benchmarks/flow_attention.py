"""Time and peak memory of flow attention and of softmax attention, for one sequence of N cells.

Both layers have the same projections and see the same cells. `embed`: evaluation without gradients;
`train`: forward and backward. The arms take turns, and of each the quickest turn counts. Time is CPU time of
the process (of the device with ``--device cuda``), so that other processes on the machine matter less.
Memory is the peak of what torch allocates during the call, output and gradients included. Softmax attention
is left out once a call would take longer than ``--seconds``.

    OMP_NUM_THREADS=1 python benchmarks/flow_attention.py
"""

from __future__ import annotations

import argparse
import os
import time
from itertools import accumulate

os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
from _common import machine, table

from scssl.nn import FlowAttention, SoftmaxAttention

CELLS = [1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000]


def call(layer, x, mode):
    if mode == "embed":
        with torch.no_grad():
            return layer(x)
    layer.zero_grad()
    x.grad = None
    return layer(x).sum().backward()


def seconds(layer, x, mode):
    if x.is_cuda:
        torch.cuda.synchronize()
        start = time.perf_counter()
        call(layer, x, mode)
        torch.cuda.synchronize()
        return time.perf_counter() - start
    start = time.process_time()
    call(layer, x, mode)
    return time.process_time() - start


def megabytes(layer, x, mode):
    layer.zero_grad()
    x.grad = None
    if x.is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call(layer, x, mode)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call(layer, x, mode)
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(change for _, change in changes)) / 2**20


def compare(args, n, mode, layers, budget):
    x = torch.randn(n, args.hidden, device=args.device, requires_grad=mode == "train")
    found = {name: [] for name in layers if budget[name, mode](n) <= args.seconds}
    for turn in range(args.repeats + 1):
        for name, times in found.items():
            taken = seconds(layers[name], x, mode)
            if turn or taken > args.seconds / 4:
                times.append(taken)
            else:  # The first turn is for first touches.
                times.append(float("inf"))
    best = {name: min(times) for name, times in found.items()}
    memory = {name: megabytes(layers[name], x, mode) for name in found}
    if "softmax" in best:
        rate = best["softmax"] / n**2
        budget["softmax", mode] = lambda m: rate * m**2
    row = {
        "mode": mode,
        "cells": f"{n:,}",
        "flow, ms": f"{best['flow'] * 1e3:,.1f}",
        "µs per cell": f"{best['flow'] / n * 1e6:.2f}",
        "softmax, ms": "-",
        "softmax / flow": "-",
        "flow, MB": f"{memory['flow']:,.1f}",
        "flow, rows of x": f"{memory['flow'] * 2**20 / (n * args.hidden * 4):.1f}",
        "softmax, MB": "-",
        "softmax / flow, memory": "-",
    }
    if "softmax" in best:
        row["softmax, ms"] = f"{best['softmax'] * 1e3:,.1f}"
        row["softmax / flow"] = f"{best['softmax'] / best['flow']:.1f}"
        row["softmax, MB"] = f"{memory['softmax']:,.1f}"
        row["softmax / flow, memory"] = f"{memory['softmax'] / memory['flow']:.1f}"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cells", type=int, nargs="+", default=CELLS)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--modes", nargs="+", default=["embed", "train"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    torch.manual_seed(0)
    print(machine())
    layers = {
        "flow": FlowAttention(args.hidden, args.heads).to(args.device),
        "softmax": SoftmaxAttention(args.hidden, args.heads).to(args.device),
    }
    budget = {(name, mode): lambda n: 0.0 for name in layers for mode in args.modes}
    for mode in args.modes:
        for layer in layers.values():
            layer.train(mode == "train")
            call(layer, torch.randn(500, args.hidden, device=args.device), mode)
    rows = []
    for mode in args.modes:
        for n in args.cells:
            rows.append(compare(args, n, mode, layers, budget))
            print(rows[-1], flush=True)
    print(f"\nWidth {args.hidden}, {args.heads} heads, {args.device}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
