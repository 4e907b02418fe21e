#!/usr/bin/env python3
"""Makes tables of what peers.sh measured, with ratios to the best peer beside the goals.

usage: peers.py MEASURED      lines of: workload tool step wall_s cpu_s MiB repository_bytes
"""

import sys
from collections import defaultdict

# workload, what, step, at most this many times the best of the peers
GOALS = [
    ("tree", "seconds", "first", 0.70),
    ("tree", "repository", "first", 1.03),
    ("tree", "seconds", "unchanged", 0.60),
    ("tree", "growth", "next", 1.00),
    ("tree", "seconds", "next", 0.60),
    ("tree", "seconds", "restore", 0.80),
    ("tree", "seconds", "structure", 0.80),
    ("tree", "seconds", "check", 0.80),
    ("tree", "seconds", "collect", 0.80),
    ("fixture", "seconds", "first", 0.80),
    ("fixture", "growth", "next", 1.00),
    ("fixture", "seconds", "next", 0.80),
]
UNCHANGED_BY_LIMIT = 1.5
MEMORY_MIB = 256
STEPS = "first unchanged next restore structure check collect".split()


def read(path):
    """workload → tool → step → {seconds, processor, memory, repository}, the fastest of several."""
    measured = defaultdict(lambda: defaultdict(dict))
    for line in open(path):
        workload, tool, step, *figures = line.split()
        names = ("seconds", "processor", "memory", "repository")
        run = dict(zip(names, map(float, figures)))
        steps = measured[workload][tool]
        if step not in steps or run["seconds"] < steps[step]["seconds"]:
            steps[step] = run
    for tools in measured.values():
        for steps in tools.values():
            if "next" in steps:
                steps["next"]["growth"] = steps["next"]["repository"] - steps["unchanged"]["repository"]
    return measured


def cell(run):
    return "–" if run is None else f"{run['seconds']:.2f} ({run['processor']:.2f})"


def tables(workload, tools):
    print(f"\n**{workload}**: seconds (of the processor), MiB\n")
    print("| |", " | ".join(STEPS), "| repository | growth | memory |")
    print("|---" * (len(STEPS) + 4) + "|")
    for tool, steps in tools.items():
        mib = lambda step, what: f"{steps[step][what] / 2**20:.1f}" if tool != "limit" else "–"
        memory = max(run["memory"] for run in steps.values())
        cells = [cell(steps.get(step)) for step in STEPS]
        print(f"| {tool} |", " | ".join(cells), f"| {mib('first', 'repository')} | {mib('next', 'growth')} | {memory:.0f} |"
              if tool != "limit" else "| – | – | – |")


def verdict(name, ours, theirs, whose, goal):
    ratio = ours / theirs if theirs else float("inf")
    met = "met" if ratio <= goal else "**missed**"
    print(f"| {name} | {ours:.2f} | {theirs:.2f} {whose} | {ratio:.2f} | {goal:.2f} | {met} |")


def main(path):
    measured = read(path)
    for workload, tools in measured.items():
        tables(workload, tools)
    print("\n| goal | coeval | best peer | ratio | at most | |\n|---|---|---|---|---|---|")
    for workload, what, step, goal in GOALS:
        tools = measured.get(workload, {})
        peers = {
            tool: steps[step][what]
            for tool, steps in tools.items()
            if tool not in ("coeval", "limit") and step in steps
        }
        if peers:
            best = min(peers, key=peers.get)
            unit = 1 if what == "seconds" else 2**20
            label = "s" if what == "seconds" else f"MiB of {what}"
            ours = tools["coeval"][step][what] / unit
            verdict(f"{workload}, {step}, {label}", ours, peers[best] / unit, best, goal)
    for workload, tools in measured.items():
        if workload == "tree":
            ours, limit = (tools[tool]["unchanged"]["seconds"] for tool in ("coeval", "limit"))
            verdict("tree, unchanged, s", ours, limit, "find", UNCHANGED_BY_LIMIT)
        most = max(run["memory"] for run in tools["coeval"].values())
        met = "met" if most <= MEMORY_MIB else "**missed**"
        print(f"| {workload}, memory, MiB | {most:.0f} | | | {MEMORY_MIB} | {met} |")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
