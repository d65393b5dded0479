#!/usr/bin/env python3
"""How msb-sync behaves when there is nothing to do, and when there is very much.

    benches/scale.py target/release/msb-sync [--rounds 7] [--images 10000 --registries 100 --layers 10] [--json OUT]

Against a real registry on loopback (Debian's docker-registry), with layers of one small file each. First 200 images of
ten layers: the requests of a first and a second apply, the times of a second one by tags and by digests, and its system
calls. Then `--images` images of `--layers` layers in `--registries` registries (names that all lead to the one server):
first and second apply, plan, watch, verify, prune of nothing, of one image and of half of them; and the 200 images once more, to see
what a full catalog costs them. Seconds are medians.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
import rig

# What a run with nothing to do must not call: it changes something, makes it durable, or waits for a lock.
CHANGES = {"fsync", "fdatasync", "syncfs", "sync", "sync_file_range", "flock", "rename", "renameat", "renameat2", "unlink",
           "unlinkat", "rmdir", "mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat", "truncate", "ftruncate",
           "fallocate", "pwrite64", "pwritev", "pwritev2", "chmod", "fchmod", "fchmodat", "chown", "fchown", "fchownat", "setxattr",
           "fsetxattr", "utimensat"}


def images_file(path, registries, pull="always", by_digest=False, settings=""):
    """Writes an images file for {registry: (endpoint, [(repository, tag, digest)])}."""
    with open(path, "w") as file:
        file.write(f'[settings]\npull = "{pull}"\n{settings}')
        for name, (endpoint, images) in registries.items():
            file.write(f'[registry."{name}"]\nendpoint = "{endpoint}"\nimages = [\n')
            for repository, tag, digest in images:
                file.write(f'  "{repository}@{digest}",\n' if by_digest else f'  "{repository}:{tag}",\n')
            file.write("]\n")


class Bench:
    def __init__(self, binary, registry, work, rounds):
        self.binary, self.registry, self.work, self.rounds = binary, registry, work, rounds
        self.rows = []

    def command(self, home, *arguments):
        return [self.binary, "--home", str(self.work / home), *map(str, arguments)]

    def measure(self, what, command, rounds=None):
        """Runs it `rounds` times and notes the medians, and the requests of the last."""
        costs = []
        for _ in range(rounds or self.rounds):
            self.registry.requests()
            costs.append(rig.run(command))
            if costs[-1].status:
                sys.exit(f"{what}: exit {costs[-1].status}\n{costs[-1].stderr[-2000:]}")
        requests = self.registry.requests()
        row = {"what": what, "wall": statistics.median(cost.wall for cost in costs),
               "min": min(cost.wall for cost in costs), "max": max(cost.wall for cost in costs),
               "cpu": statistics.median(cost.cpu for cost in costs), "rss": max(cost.rss for cost in costs),
               "requests": dict(requests)}
        self.rows.append(row)
        shown = ", ".join(f"{count} {name}" for name, count in sorted(requests.items())) or "none"
        print(f"{what:58s} {row['wall']:8.3f} s [{row['min']:.3f}..{row['max']:.3f}]  cpu {row['cpu']:7.3f} s  "
              f"{row['rss']:5.0f} MiB  requests: {shown}", flush=True)
        return row

    def watch(self, what, command, path):
        """Starts a watch, changes its file once it has settled, and notes how long each run took, and what it holds."""
        begin = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        settled = []
        for _ in range(2):
            while '"event":"summary"' not in (line := process.stdout.readline()):
                if not line:
                    sys.exit(f"{what}: ended")
            settled.append(time.monotonic() - begin)
            time.sleep(1)
            if len(settled) == 1:
                begin = time.monotonic()
                with open(path, "a") as file:
                    file.write("\n# changed\n")
        idle = rig.cpu_seconds(process.pid)
        time.sleep(5)
        idle = rig.cpu_seconds(process.pid) - idle
        fields = dict(line.split(":", 1) for line in open(f"/proc/{process.pid}/status"))
        row = {"what": what, "first": settled[0], "after a change": settled[1], "rss": int(fields["VmHWM"].split()[0]) / 1024,
               "descriptors": len(os.listdir(f"/proc/{process.pid}/fd")), "idle cpu in 5 s": idle}
        process.send_signal(signal.SIGTERM)
        process.communicate()
        self.rows.append(row)
        print(f"{what:58s} {row['first']:8.3f} s, after a change {row['after a change']:.3f} s, {row['rss']:.0f} MiB, "
              f"{row['descriptors']} descriptors, {idle:.2f} s CPU in 5 s", flush=True)

    def assert_idle(self, what, command):
        """Runs it once more under strace: it must change nothing."""
        calls = rig.system_calls(command)
        changed = {name: count for name, count in calls.items() if name in CHANGES}
        row = {"what": what, "calls": sum(calls.values()), "changes": changed, "most": sorted(calls.items(), key=lambda call: -call[1])[:8]}
        self.rows.append(row)
        print(f"{what:58s} {row['calls']} system calls: {', '.join(f'{count} {name}' for name, count in row['most'])}")
        if changed:
            print(f"    changed something or waited: {changed}")
        return not changed


def nothing_to_do(bench):
    """200 images of ten layers: what a second apply costs, by tags and by digests."""
    registry = bench.registry
    small = [("small/app", f"v{image}", registry.image("small/app", f"v{image}",
             [rig.small_layer(f"small-{image}-{layer}") for layer in range(10)])) for image in range(200)]
    registries = {"small.test": (f"http://{registry.address}", small)}
    images_file(bench.work / "tags.toml", registries)
    images_file(bench.work / "digests.toml", registries, by_digest=True)
    tags, digests = (bench.command("small", "-q", "apply", bench.work / name) for name in ["tags.toml", "digests.toml"])
    bench.measure("200 tags, first apply", tags, 1)
    bench.measure("200 digests, first apply (layers are there)", digests, 1)
    return again(bench, tags, digests, "")


def again(bench, tags, digests, note):
    bench.measure("200 tags, nothing to do" + note, tags)
    bench.measure("200 digests, nothing to do" + note, digests)
    idle = bench.assert_idle("200 tags, nothing to do: system calls", tags)
    return bench.assert_idle("200 digests, nothing to do: system calls", digests) and idle


def very_much(bench, images, registries, layers):
    """Many images in many registries, in the same home."""
    registry = bench.registry
    print(f"... storing {images} images of {layers} layers in the registry", flush=True)
    each = -(-images // registries)
    named = {}
    for number in range(registries):
        repository = f"large/app{number:03d}"
        stored = []
        for image in range(number * each, min(images, (number + 1) * each)):
            blobs = [rig.small_layer(f"large-{image}-{layer}") for layer in range(layers)]
            stored.append((repository, f"v{image}", registry.image(repository, f"v{image}", blobs)))
        named[f"r{number:03d}.test"] = (f"http://{registry.address}", stored)
    path = bench.work / "large.toml"
    images_file(path, named)
    size = f"{images} images, {registries} registries, {images * layers} layers: "
    apply = bench.command("small", "-q", "apply", path)
    bench.measure(size + "plan, all new", bench.command("small", "-q", "plan", path), 1)
    bench.measure(size + "first apply", apply, 1)
    bench.measure(size + "nothing to do", apply, 3)
    images_file(path, named, by_digest=False, pull="missing")
    bench.measure(size + "nothing to do, pull = missing", apply, 3)
    bench.watch(size + "watch, nothing to do, pull = missing", bench.command("small", "--json", "watch", path), path)
    bench.measure(size + "plan --prune, nothing to do", bench.command("small", "-q", "plan", "--prune", path), 3)
    bench.measure(size + "prune, nothing to do", bench.command("small", "-q", "prune", path), 3)
    bench.measure(size + "list", bench.command("small", "list"), 1)
    bench.measure(size + "verify of all", bench.command("small", "-q", "verify"), 1)
    tags, digests = (bench.command("small", "-q", "apply", bench.work / name) for name in ["tags.toml", "digests.toml"])
    idle = again(bench, tags, digests, f", {images} more recorded")
    first = next(iter(named))
    named[first][1].pop()
    images_file(path, named, pull="missing")
    bench.measure(size + "prune of one image", bench.command("small", "-q", "prune", path), 1)
    half = {name: (endpoint, stored[:len(stored) // 2]) for name, (endpoint, stored) in named.items()}
    images_file(path, half, pull="missing")
    bench.measure(size + "prune of half", bench.command("small", "-q", "prune", path), 1)
    return idle


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=10_000, help="0: only the 200 images")
    parser.add_argument("--registries", type=int, default=100)
    parser.add_argument("--layers", type=int, default=10, help="a image")
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--work", help="work below this directory (default: /var/tmp)")
    asked = parser.parse_args()
    binary = shutil.which(asked.binary) or sys.exit(f"no program {asked.binary}")
    print(f"{rig.machine()}, {rig.today()}")
    with rig.scratch(asked.work) as work, rig.Registry(work) as registry:
        bench = Bench(binary, registry, work, asked.rounds)
        idle = nothing_to_do(bench)
        if asked.images:
            idle = very_much(bench, asked.images, asked.registries, asked.layers) and idle
        if asked.json:
            with open(asked.json, "w") as file:
                json.dump({"machine": rig.machine(), "date": rig.today(), "rows": bench.rows}, file, indent=1)
    sys.exit(0 if idle else "error: a run with nothing to do changed something")


if __name__ == "__main__":
    main()
