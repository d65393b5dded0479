#!/usr/bin/env python3
"""Times cold pulls and other jobs by msb-sync and by its peers, in turns on fresh file systems, and prints the table.

    benches/compare.py target/release/msb-sync                                    images made of this machine's own files
    benches/compare.py BIN --registry 127.0.0.1:5000 --image python=rig/python:python   images that a registry has
    benches/compare.py BIN --layout DIR --image python=python                     images of an OCI layout, by tag
    benches/compare.py BIN --jobs engines,export,verify                           other jobs, with the images of any of these
    benches/compare.py --draw FIGURES.json --svg OUT.svg                          draws figures again

Each pull starts on a fresh ext4 (root; others: a fresh directory) with the registry's blobs in the page cache. Wall is
the whole process, sync what a sync of that file system takes after it: msb-sync leaves nothing to sync, peers leave
all. CPU and memory are of the processes that are started; of containerd the CPU is its daemon's too, the memory only its
client's. In rounds of their own: the requests of pulls, by the registry's log, and the system calls a file, by strace. Peers
that are not installed are left out and named. Ratios are msb-sync's wall + sync over theirs, and its CPU over theirs, pair by
pair in one round. The layers differ: msb-sync, podman, containerd and the shell unpack each layer, skopeo + umoci and crane
flatten.

  shell         curl | openssl sha256, igzip or gzip | bsdtar: two layers at once, no spool, no catalog, no promises
  skopeo+umoci  skopeo copy to an OCI layout, umoci raw unpack      podman  podman pull, overlay driver
  crane         crane export | bsdtar                               ctr     containerd of its own, ctr images pull, overlayfs
  --peer NAME=COMMAND   any other: `--peer 'other=other pull --to {d} {host}/{repository}:{tag}'`, with {d} a path that does
                        not exist yet on the fresh file system. It has to unpack the image, over plain http.

Jobs (`--jobs`; `engines` is the first three). What each leaves is looked at before it counts:

  podman, containerd, microsandbox   `apply` for that engine alone, with no layers of its own; podman pull, ctr images pull,
                msb pull. For msb: PATH="$(dirname "$(tests/msb)"):$PATH"
  export        `export` of kept blobs into a pipe, nobody is asked; cat of the same blobs | openssl dgst -sha256
  verify        `verify` of the layers; cat of every file of them to nothing, two processes at a time
"""

import argparse
import concurrent.futures
import contextlib
import gzip
import hashlib
import io
import json
import os
import pathlib
import random
import shutil
import stat
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request

sys.dont_write_bytecode = True
import jobs
import rig
import svg

OURS, AGAIN = jobs.OURS, jobs.AGAIN

SHELL = r"""export d={d} u=http://{host}/v2/{repository}; mkdir -p $d
curl -fsS -H 'Accept: {accept}' $u/manifests/{tag} > $d/manifest.json
one() {{ mkdir -p $d/$1; case $2 in *zstd) z="zstd -dcq";; *gzip) z="{gunzip} -dc";; *) z=cat;; esac
  curl -fsS $u/blobs/$1 | tee >(openssl dgst -sha256 > $d/$1.sum) | $z | bsdtar -x -p -f - -C $d/$1; }}; export -f one
set -o pipefail
python3 -c "import json;[print(l['digest'],l['mediaType']) for l in json.load(open('$d/manifest.json'))['layers']]" |
  xargs -P 2 -L 1 bash -o pipefail -c 'one "$@"' _"""

NEEDS = {OURS: [], "shell": ["bash", "curl", "openssl", "bsdtar", "zstd"], "skopeo+umoci": ["skopeo", "umoci"],
         "podman": ["podman"], "crane": ["crane", "bsdtar"], "ctr": ["ctr", "containerd"]}


# Peers of the command line, by name.
OTHERS = {}


class Image:
    """What is pulled: `name` in the table, `repository:tag` at the registry."""

    def __init__(self, host, name, repository, tag):
        self.host, self.name, self.repository, self.tag = host, name, repository, tag
        request = urllib.request.Request(f"http://{host}/v2/{repository}/manifests/{tag}", headers={"Accept": rig.MANIFEST})
        with urllib.request.urlopen(request) as answer:
            manifest = answer.read()
        self.digest = "sha256:" + hashlib.sha256(manifest).hexdigest()
        self.layers = json.loads(manifest).get("layers")
        if not self.layers:
            sys.exit(f"{repository}:{tag} at {host} is no image of one platform")

    def warm(self):
        """Brings its blobs into the page cache."""
        for layer in self.layers:
            with urllib.request.urlopen(f"http://{self.host}/v2/{self.repository}/blobs/{layer['digest']}") as answer:
                while answer.read(1 << 20):
                    pass

    @property
    def zstd(self):
        return any(layer["mediaType"].endswith("zstd") for layer in self.layers)

    def facts(self, files):
        return {"layers": len(self.layers), "compressed": sum(layer["size"] for layer in self.layers), "files": files}


def command(peer, binary, image, disk):
    """The pull by `peer`, as a list."""
    d, host, repository, tag = disk / "d", image.host, image.repository, image.tag
    if peer == OURS:
        d.mkdir(exist_ok=True)
        (d / "images.toml").write_text(f'[registry."{host}"]\nimages = ["{repository}:{tag}"]\n')
        return [binary, "--home", d / "home", "-q", "apply", d / "images.toml"]
    gunzip = "igzip" if shutil.which("igzip") else "gzip"
    script = {
        "shell": SHELL.format(d=d, host=host, repository=repository, tag=tag, gunzip=gunzip, accept=rig.MANIFEST),
        "skopeo+umoci": f"mkdir -p {d}; skopeo copy -q --src-tls-verify=false docker://{host}/{repository}:{tag} oci:{d}/oci:{tag}"
                        f" && umoci raw unpack --image {d}/oci:{tag} {d}/rootfs",
        "podman": f"exec podman --root {disk}/root --runroot {disk}/run --storage-driver overlay pull -q --tls-verify=false"
                  f" {host}/{repository}:{tag}",
        "crane": f"set -o pipefail; mkdir -p {d}; crane export --insecure {host}/{repository}:{tag} - | bsdtar -x -p -f - -C {d}",
        "ctr": f"exec ctr -a {disk}/c.sock images pull --plain-http --snapshotter overlayfs {host}/{repository}:{tag}",
    }.get(peer)
    return ["bash", "-c", script or OTHERS[peer].format(d=d, host=host, repository=repository, tag=tag)]


@contextlib.contextmanager
def daemon(peer, disk):
    """containerd, for the peer that needs it: a function that tells its seconds of CPU so far."""
    if peer != "ctr":
        yield lambda: 0.0
        return
    with rig.containerd(disk) as pid:
        yield lambda: rig.cpu_seconds(pid)


# --------------------------------------------------------------------------------------------- images of our own

class Packer:
    """Tars files of this machine into layers."""

    def __init__(self, registry):
        self.registry = registry

    def layer(self, paths, limit, kind, largest=None, most=None):
        """One layer of the trees `paths` up to `limit` bytes of content: (blob, diff_id, kind). Files of more than `largest`
        bytes are left out, and all after the first `most`."""
        tar = io.BytesIO()
        archive = tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT)
        size = files = 0
        for path in paths:
            for folder, folders, names in os.walk(path):
                folders.sort()
                for name in [".", *sorted(names)]:
                    full = os.path.normpath(os.path.join(folder, name))
                    with contextlib.suppress(OSError):
                        found = os.lstat(full)
                        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode)):
                            continue
                        if largest is not None and stat.S_ISREG(found.st_mode) and found.st_size > largest:
                            continue
                        entry = archive.gettarinfo(full, arcname=full.lstrip("/"))
                        entry.mtime, entry.uname, entry.gname = int(entry.mtime), "", ""
                        if entry.isreg():
                            with open(full, "rb") as file:
                                archive.addfile(entry, file)
                            size += entry.size
                            files += 1
                        else:
                            archive.addfile(entry)
                if size >= limit or most is not None and files >= most:
                    break
        archive.close()
        content = tar.getvalue()
        diff_id = "sha256:" + hashlib.sha256(content).hexdigest()
        if kind == "+zstd":
            blob = subprocess.run(["zstd", "-3", "-q", "-c"], input=content, stdout=subprocess.PIPE, check=True).stdout
        else:
            blob = gzip.compress(content, 6, mtime=0)
        return blob, diff_id, kind


def own_images(registry, scale, zstd):
    """Images of this machine's own /usr: a few middling layers, many small ones, one big one. Their names and tags."""
    mib = int(scale * 2**20)
    packer = Packer(registry)
    folders = sorted(str(path) for path in pathlib.Path("/usr/share").iterdir() if path.is_dir() and not path.is_symlink())
    many = [(folders[number::30], 3 * mib) for number in range(30)]
    recipes = {"few": [(["/usr/bin"], 60 * mib), (["/usr/include", "/usr/share/doc"], 30 * mib), (["/usr/share/perl", "/usr/lib/python3"], 40 * mib)],
               "many": many, "big": [(["/usr/lib"], 400 * mib)]}
    made = []
    for kind in ["+gzip", "+zstd"] if zstd else ["+gzip"]:
        for name, layers in recipes.items():
            label = name + ("-zstd" if kind == "+zstd" else "")
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                built = list(pool.map(lambda layer: packer.layer(*layer, kind), layers))
            registry.image(f"bench/{name}", label, built)
            made.append((label, f"bench/{name}", label))
    return made


def push(registry, layout, tag):
    """Copies an image of an OCI layout to the registry."""
    subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:{tag}",
                    f"docker://{registry.address}/bench/{tag}:{tag}"], check=True)
    return f"bench/{tag}", tag


# ------------------------------------------------------------------------------------------------------- measuring

def files_below(directory):
    return sum(len(names) for _, _, names in os.walk(directory))


def pull(peer, binary, image, disk):
    """One pull on a fresh disk: its costs."""
    mount = disk.fresh()
    image.warm()
    with daemon(peer, mount) as spent:
        before = spent()
        cost = rig.run(command(peer, binary, image, mount))
        sync = disk.sync()
        more = spent() - before
    if cost.status:
        print(f"{peer} {image.name}: exit {cost.status}: {cost.stderr.strip()[-300:]}", file=sys.stderr)
    return {"image": image.name, "peer": peer, "wall": cost.wall, "sync": sync, "cpu": cost.cpu + more, "rss": cost.rss, "ok": cost.status == 0}


def count(peer, binary, image, disk, registry):
    """Requests and system calls of a pull, each in one of its own: figures for the table, as far as they can be had."""
    found = {}
    if registry:
        mount = disk.fresh()
        registry.requests()
        with daemon(peer, mount):
            if rig.run(command(peer, binary, image, mount)).status == 0:
                found["requests"] = dict(registry.requests())
    if shutil.which("strace"):
        mount = disk.fresh()
        with daemon(peer, mount), contextlib.suppress(RuntimeError):
            found["calls"] = sum(rig.system_calls(command(peer, binary, image, mount)).values())
    return found


def runs(asked, peers, images, disk, registry):
    """All rounds; each in another order, so that nobody always comes after the same one."""
    rows, counts, facts = [], [], {}
    for number in range(asked.rounds):
        for image in images:
            order = [peer for peer in peers if not (peer == "skopeo+umoci" and image.zstd and not asked.umoci_zstd)]
            random.Random(f"{number} {image.name}").shuffle(order)
            for peer in order:
                row = pull(peer, asked.binary, image, disk)
                rows.append({**row, "round": number})
                if peer == OURS and row["ok"]:
                    layers = disk.mount / "d/home/layers"
                    facts.setdefault(image.name, image.facts(files_below(layers)))
                    again = rig.run(command(OURS, asked.binary, image, disk.mount))
                    rows.append({"image": image.name, "peer": AGAIN, "wall": again.wall, "sync": 0.0, "cpu": again.cpu,
                                 "rss": again.rss, "ok": again.status == 0, "round": number})
                print(f"round {number + 1} of {asked.rounds}: {image.name} {peer} {row['wall']:.2f} + {row['sync']:.2f} s", file=sys.stderr)
    for image in images if asked.count else []:
        for peer in peers:
            counts.append({"image": image.name, "peer": peer, **count(peer, asked.binary, image, disk, registry)})
    return {"rows": rows, "counts": counts, "facts": facts}


# ---------------------------------------------------------------------------------------------------------- table

def of(figures, image, job):
    """The rows of one job on one image. Figures from before there were other jobs have pulls alone."""
    return [row for row in figures["rows"] if row["image"] == image and row.get("job", "pull") == job]


def summary(figures, image, job, peer):
    """Medians and ranges of one peer's runs of one job on one image; `None` where there is none that succeeded."""
    good = [row for row in of(figures, image, job) if row["ok"]]
    rows = [row for row in good if row["peer"] == peer]
    if not rows:
        return None
    ours = {row["round"]: row for row in good if row["peer"] == OURS}
    pairs = [(ours[row["round"]], row) for row in rows if row["round"] in ours and row["wall"] > 0]

    def total(row):
        return row["wall"] + row["sync"]
    median = {key: statistics.median(row[key] for row in rows) for key in ["wall", "sync", "cpu"]}
    totals = [total(row) for row in rows]
    found = {**median, "total": statistics.median(totals), "low": min(totals), "high": max(totals), "rss": max(row["rss"] for row in rows),
             "runs": len(rows)}
    if pairs and peer not in (OURS, AGAIN):
        ratios = [total(our) / total(row) for our, row in pairs]
        found["ratio"] = (statistics.median(ratios), min(ratios), max(ratios))
        # A clock that counts hundredths may say 0.
        found["cpu ratio"] = statistics.median(our["cpu"] / max(row["cpu"], 0.01) for our, row in pairs)
    for counted in figures["counts"] if job == "pull" else []:
        if counted["image"] == image and counted["peer"] == peer:
            found["requests"] = sum(counted["requests"].values()) if "requests" in counted else None
            files = figures["facts"].get(image, {}).get("files")
            found["calls"] = counted["calls"] / files if counted.get("calls") and files else None
    return found


def groups(figures):
    """Pairs of image and job, in the order in which they first occur."""
    return list(dict.fromkeys((row["image"], row.get("job", "pull")) for row in figures["rows"]))


def order(figures, image, job):
    """The peers of a job, msb-sync first and its second run last."""
    return sorted({row["peer"] for row in of(figures, image, job)}, key=lambda peer: (peer != OURS, peer == AGAIN, peer))


def note(figures, image, job):
    """What is told of an image above its figures."""
    facts = figures["facts"].get(image)
    parts = [jobs.JOBS[job].words] if job != "pull" else []
    if facts:
        parts += [f"{facts['layers']} layers", f"{facts['compressed'] / 2**20:.0f} MiB"]
        parts += [f"{facts['files']:,} files"] if facts["files"] else []
    return ", ".join(parts) or "not pulled"


def table(figures):
    """The figures as text."""
    lines = [f"{figures['machine']}; {figures['disk']}; {figures['date']}; {figures['rounds']} rounds"]
    for image, job in groups(figures):
        lines += ["", f"{image}: {note(figures, image, job)}",
                  f"{'':14s} {'wall':>7s} {'+ sync':>7s} {'= sum [range]':>22s} {'CPU s':>7s} {'MiB':>5s} {'requests':>8s} {'calls/file':>10s}"
                  "   msb-sync / it [range], CPU"]
        for peer in order(figures, image, job):
            found = summary(figures, image, job, peer)
            if not found:
                continue
            spread = f"{found['total']:.2f} [{found['low']:.2f}..{found['high']:.2f}]"
            ratio = "{:.2f} [{:.2f}..{:.2f}], {:.2f}".format(*found["ratio"], found["cpu ratio"]) if "ratio" in found else ""
            requests = found.get("requests") if found.get("requests") is not None else ""
            calls = f"{found['calls']:.1f}" if found.get("calls") else ""
            lines.append(f"{peer:14s} {found['wall']:7.2f} {found['sync']:7.2f} {spread:>22s} {found['cpu']:7.2f} {found['rss']:5.0f} "
                         f"{requests:>8} {calls:>10s}   {ratio}".rstrip())
    return "\n".join(lines) + "\n"


def picture(figures):
    """The figures as an SVG."""
    drawn = []
    for image, job in groups(figures):
        found = {peer: summary(figures, image, job, peer) for peer in order(figures, image, job) if peer != AGAIN}
        bars = [svg.Bar(peer, one["wall"], max(0, one["total"] - one["wall"]), one["low"], one["high"], peer == OURS) for peer, one in found.items() if one]
        drawn.append((image, note(figures, image, job), sorted(bars, key=lambda bar: bar.wall + bar.sync)))
    what = "cold pull from a registry on loopback, " if {job for _, job in groups(figures)} <= {"pull"} else ""
    subtitle = f"{what}seconds until everything is on disk; median of {figures['rounds']} with range"
    return svg.chart("msb-sync and its peers", subtitle, f"{figures['machine']} · {figures['disk']} · {figures['date']}", drawn)


# --------------------------------------------------------------------------------------------------------- checks

def self_test():
    """Checks table, picture and readers with figures that were thought up."""
    import xml.etree.ElementTree
    rows = [{"image": "a<b", "peer": peer, "round": number, "wall": wall + number / 10, "sync": 0.5, "cpu": 1.5, "rss": 20, "ok": True}
            for peer, wall in [(OURS, 1.0), ("podman", 4.0), (AGAIN, 0.01)] for number in range(3)]
    rows += [{**row, "job": "verify", "cpu": row["wall"], "peer": {"podman": "find | xargs"}.get(row["peer"], row["peer"])} for row in rows if row["peer"] != AGAIN]
    rows.append({"image": "a<b", "peer": "crane", "round": 0, "wall": 1, "sync": 0, "cpu": 1, "rss": 1, "ok": False})
    figures = {"machine": "2 cores & a disk", "date": "2026-01-01", "disk": "ext4", "rounds": 3, "rows": rows,
               "counts": [{"image": "a<b", "peer": OURS, "requests": {"GET blobs": 4}, "calls": 600}, {"image": "a<b", "peer": "podman"}],
               "facts": {"a<b": {"layers": 3, "compressed": 3 << 20, "files": 100}}}
    figures = json.loads(json.dumps(figures))
    text = table(figures)
    for part in ["3 layers, 3 MiB, 100 files", "1.60 [1.50..1.70]", "0.35 [0.33..0.36], 1.00", " 6.0\n", AGAIN,
                 "a<b: looked over for damage, 3 layers", "0.35 [0.33..0.36], 0.27"]:
        assert part in text, f"{part!r} is not in\n{text}"
    assert "crane" not in text, text
    assert groups(figures) == [("a<b", "pull"), ("a<b", "verify")]
    assert order(figures, *groups(figures)[0]) == [OURS, "crane", "podman", AGAIN]
    root = xml.etree.ElementTree.fromstring(picture(figures))
    words = " ".join(root.itertext())
    for part in ["podman", "a<b", "find | xargs", "2 cores & a disk", "2026-01-01", "4.6"]:
        assert part in words, f"{part!r} is not in {words}"
    assert rig.parse_strace("% time seconds usecs/call calls errors syscall\n---- ----\n 60.00 0.1 3 4006 3 statx\n 0.1 0.0 1 7 read\n100.00 0.1 3 4013 3 total\n") == {"statx": 4006, "read": 7}
    with tempfile.TemporaryDirectory() as directory:
        image = argparse.Namespace(host="127.0.0.1:1", repository="r", tag="t")
        for peer in NEEDS:
            assert command(peer, "msb-sync", image, pathlib.Path(directory)), peer
        OTHERS["other"] = "other {d} {host}/{repository}:{tag}"
        assert command("other", "msb-sync", image, pathlib.Path("/x")) == ["bash", "-c", "other /x/d 127.0.0.1:1/r:t"]
        jobs.self_test(pathlib.Path(directory))
    cost = rig.run(["python3", "-c", "x = bytearray(64 << 20)"])
    assert cost.status == 0 and 64 < cost.rss < 200 and cost.wall > 0, cost
    print("ok")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", help="msb-sync")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", default="pull", help="of pull, podman, containerd, microsandbox, export, verify, and engines for those; default: %(default)s")
    parser.add_argument("--peers", default=",".join(peer for peer in NEEDS if peer != OURS), help="of pulls; default: %(default)s")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="another one; may be repeated")
    parser.add_argument("--registry", help="an open registry with plain http that has the images")
    parser.add_argument("--layout", help="an OCI layout that has the images")
    parser.add_argument("--image", action="append", default=[], metavar="NAME=REPOSITORY:TAG", help="with --layout: NAME=TAG; may be repeated")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the images of this machine's own files")
    parser.add_argument("--zstd", action="store_true", help="of them, zstd twins too")
    parser.add_argument("--no-count", dest="count", action="store_false", help="leave out the rounds that count requests and system calls")
    parser.add_argument("--umoci-zstd", action="store_true", help="umoci is new enough (0.5) for zstd")
    parser.add_argument("--json", help="write all figures here")
    parser.add_argument("--svg", help="draw the comparison here")
    parser.add_argument("--draw", metavar="JSON", help="take the figures from here and run nothing")
    parser.add_argument("--work", help="work below this directory (default: /var/tmp)")
    parser.add_argument("--self-test", action="store_true", help="check this script and run nothing")
    asked = parser.parse_args()
    if asked.self_test:
        return self_test()
    if asked.draw:
        figures = json.loads(pathlib.Path(asked.draw).read_text())
    else:
        asked.binary = asked.binary and shutil.which(asked.binary) or parser.error("no such program: BIN")
        figures = measured(asked, parser)
    print(table(figures), end="")
    if asked.json:
        pathlib.Path(asked.json).write_text(json.dumps(figures, indent=1) + "\n")
    if asked.svg:
        pathlib.Path(asked.svg).write_text(picture(figures))
    return 0 if all(row["ok"] for row in figures["rows"]) else 1


def measured(asked, parser):
    """Makes or finds the images and runs everything."""
    wanted_jobs = jobs.named(asked.jobs) or parser.error(f"no such jobs: {asked.jobs}")
    OTHERS.update(text.split("=", 1) if "=" in text else parser.error("--peer is NAME=COMMAND") for text in asked.peer)
    peers = [OURS, *filter(None, asked.peers.split(",")), *OTHERS] if "pull" in wanted_jobs else []
    for peer in peers[:]:
        if peer not in NEEDS and peer not in OTHERS:
            parser.error(f"no such peer: {peer}")
        missing = [program for program in NEEDS.get(peer, []) if not shutil.which(program)]
        if missing:
            print(f"left out: {peer} (not installed: {' '.join(missing)})", file=sys.stderr)
            peers.remove(peer)
    pairs = [text.partition("=") for text in asked.image]
    if bool(asked.registry or asked.layout) != bool(pairs) or any(not value for _, _, value in pairs):
        parser.error("--image NAME=REPOSITORY:TAG goes with --registry or --layout")
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(rig.scratch(asked.work))
        registry = None if asked.registry else stack.enter_context(rig.Registry(work))
        if asked.registry:
            wanted = [(name, *value.rsplit(":", 1)) for name, _, value in pairs]
        elif asked.layout:
            wanted = [(name, *push(registry, asked.layout, tag)) for name, _, tag in pairs]
        else:
            wanted = own_images(registry, asked.scale, asked.zstd)
        images = [Image(asked.registry or registry.address, *one) for one in wanted]
        disk = stack.enter_context(rig.Disk(work))
        figures = runs(asked, peers, images, disk, registry)
        figures["rows"] += jobs.runs([name for name in wanted_jobs if name != "pull"], asked.binary, images, disk, asked.rounds)
        for image in images:
            figures["facts"].setdefault(image.name, image.facts(None))
        return {"machine": rig.machine(), "date": rig.today(), "disk": disk.kind, "rounds": asked.rounds, **figures}


if __name__ == "__main__":
    sys.exit(main())
