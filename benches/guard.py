#!/usr/bin/env python3
"""Fails if a new build of msb-sync pulls more slowly than an old one. Run it before each release.

    benches/guard.py OLD NEW [--rounds 7] [--limit 1.10]

Both binaries pull two images of this machine's own files, in turns and each time onto a fresh disk: `few`, some layers of
programs and libraries (as of a Python image), and `small`, one layer of very many small files (as of a Node image). A pull
is what `apply` takes to its end, and the sync of the disk after it. The exit code is 1 if the new binary's median is more
than `--limit` times the old one's on either image, 2 if a pull failed or the command line is wrong. The processor's seconds
and peak memory stand beside, for a reader: they tell a slower program from a busy machine.

Below about 1.05 nothing can be said on a shared machine. A ratio near the limit wants a second run with more rounds.
"""

import argparse
import contextlib
import pathlib
import random
import shutil
import statistics
import sys

sys.dont_write_bytecode = True
import compare
import rig

OLD, NEW = "old", "new"
# The largest file of the image of small files, in bytes, and the number of them.
SMALL, FILES = 64 * 1024, 70_000


def images(registry, scale):
    """The two images: names and places in the registry."""
    packer = compare.Packer(registry)
    mib = int(scale * 2**20)
    few = [(["/usr/bin"], 60 * mib), (["/usr/include", "/usr/share/doc"], 30 * mib), (["/usr/share/perl", "/usr/lib/python3"], 40 * mib)]
    registry.image("guard/few", "few", [packer.layer(*layer, "+gzip") for layer in few])
    trees = ["/usr/share", "/usr/include", "/usr/lib"]
    registry.image("guard/small", "small", [packer.layer(trees, 1 << 40, "+gzip", largest=SMALL, most=int(scale * FILES))])
    return [compare.Image(registry.address, name, f"guard/{name}", name) for name in ["few", "small"]]


def runs(binaries, wanted, disk, rounds):
    """All pulls: rows of binary, image, round and costs. Each round has an order of its own."""
    rows = []
    for number in range(rounds):
        for image in wanted:
            order = [OLD, NEW]
            random.Random(f"{number} {image.name}").shuffle(order)
            for which in order:
                row = compare.pull(compare.OURS, binaries[which], image, disk)
                rows.append({**row, "peer": which, "round": number})
                print(f"round {number + 1} of {rounds}: {image.name} {which} {row['wall']:.2f} + {row['sync']:.2f} s", file=sys.stderr)
    return rows


def judgement(rows, limit):
    """A line an image, and the names of the images on which the new binary is too slow."""
    lines, slower = [], []
    for image in dict.fromkeys(row["image"] for row in rows):
        def median(which, value):
            return statistics.median(value(row) for row in rows if row["image"] == image and row["peer"] == which)
        def total(row):
            return row["wall"] + row["sync"]
        old, new = median(OLD, total), median(NEW, total)
        ratio = new / old
        if ratio > limit:
            slower.append(image)
        cpu = [median(which, lambda row: row["cpu"]) for which in (OLD, NEW)]
        peak = [max(row["rss"] for row in rows if row["image"] == image and row["peer"] == which) for which in (OLD, NEW)]
        lines.append(f"{image:6s} {old:6.2f} -> {new:6.2f} s  ({ratio:.2f}{' > ' + format(limit, '.2f') if ratio > limit else ''})   "
                     f"CPU {cpu[0]:.2f} -> {cpu[1]:.2f} s   peak {peak[0]:.0f} -> {peak[1]:.0f} MiB")
    return lines, slower


def self_test():
    """Checks the judgement with figures that were thought up."""
    def rows(image, old, new):
        return [{"image": image, "peer": which, "wall": wall, "sync": 0.1, "cpu": wall, "rss": 20}
                for which, walls in [(OLD, old), (NEW, new)] for wall in walls]
    same = rows("few", [0.9, 0.9, 9.0], [0.9, 0.95, 0.9])
    lines, slower = judgement(same, 1.10)
    assert slower == [] and "1.00 ->   1.00 s  (1.00)" in lines[0], (lines, slower)
    lines, slower = judgement(same + rows("small", [0.9, 0.9, 0.9], [1.0, 1.1, 1.1]), 1.10)
    assert slower == ["small"] and "(1.20 > 1.10)" in lines[1], (lines, slower)
    assert judgement(rows("small", [0.9], [0.99]), 1.10)[1] == []
    print("ok")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", nargs="?", metavar="OLD", help="the binary of the last release")
    parser.add_argument("new", nargs="?", metavar="NEW", help="the binary to be released")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit", type=float, default=1.10, help="the most that the new median may be of the old one")
    parser.add_argument("--scale", type=float, default=1.0, help="a part of the images' size, for a quick look")
    parser.add_argument("--work", help="work below this directory (default: /var/tmp)")
    parser.add_argument("--self-test", action="store_true", help="check this script and run nothing")
    asked = parser.parse_args()
    if asked.self_test:
        return self_test()
    binaries = {}
    for which, given in [(OLD, asked.old), (NEW, asked.new)]:
        found = given and shutil.which(given) or parser.error(f"no such program: {given or which.upper()}")
        binaries[which] = str(pathlib.Path(found).resolve())
    if asked.rounds < 1:
        parser.error("--rounds is at least 1")
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(rig.scratch(asked.work))
        registry = stack.enter_context(rig.Registry(work))
        wanted = images(registry, asked.scale)
        disk = stack.enter_context(rig.Disk(work))
        rows = runs(binaries, wanted, disk, asked.rounds)
        print(f"{rig.machine()}; {disk.kind}; {rig.today()}; {asked.rounds} rounds")
    if not all(row["ok"] for row in rows):
        return 2
    lines, slower = judgement(rows, asked.limit)
    print("\n".join(lines))
    if slower:
        print(f"too slow: {', '.join(slower)}", file=sys.stderr)
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
