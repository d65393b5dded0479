"""What compare.py measures beside cold pulls: images for one engine, bundles, and the look for damage.

A job has one peer, the least that can be done for the same end. Both take turns, and each gives rows for the table of
compare.py. A row is `ok` only if the work was really done: the engine lists the image with the registry's digest, the
bundle has every blob with the bytes that its name promises, `verify` counts every layer and sees a byte that was changed.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tarfile

import rig

OURS, AGAIN = "msb-sync", "nothing to do"


def images_file(path, image, settings):
    """Writes an images file that lists `image` alone, in the registry that has it."""
    path.write_text(f'{settings}[registry."{image.host}"]\nimages = ["{image.repository}:{image.tag}"]\n')
    return path


def tell(job, image, who, what):
    print(f"{image.name} {job.words}, {who}: {what}", file=sys.stderr)


def row(job, image, peer, number, cost, ok, sync=0.0, more=0.0):
    """A row of the table: `more` is what a daemon worked for it."""
    if cost.status:
        tell(job, image, peer, f"exit {cost.status}: {cost.stderr.strip()[-300:]}")
    return {"job": job.name, "image": image.name, "peer": peer, "round": number, "wall": cost.wall, "sync": sync,
            "cpu": cost.cpu + more, "rss": cost.rss, "ok": cost.status == 0 and ok}


def in_turns(job, image, rounds, turn):
    """The rows of `turn(who, number)` by both, in another order each round."""
    for number in range(rounds):
        order = [OURS, job.peer]
        random.Random(f"{number} {image.name} {job.name}").shuffle(order)
        for who in order:
            for one in turn(who, number):
                yield one
                tell(job, image, one["peer"], f"{one['wall']:.2f} + {one['sync']:.2f} s, round {number + 1} of {rounds}")


# ---------------------------------------------------------------------------------------------------- engines

class Engine:
    """An image of the registry for one engine: by `apply` with no layers of its own, or by the engine's own pull. Each
    is done on a fresh disk, with the engine's storage, its temporary files and msb-sync's home on it."""

    def run(self, binary, images, disk, rounds):
        for image in images:
            yield from in_turns(self, image, rounds, lambda who, number: self.turn(binary, image, disk, who, number))

    def turn(self, binary, image, disk, who, number):
        mount = disk.fresh()
        image.warm()
        (mount / "tmp").mkdir()
        with self.daemon(mount) as spent:
            ours = [binary, "--home", mount / "home", "-q", "apply", images_file(
                mount / "images.toml", image, f"[settings]\nlayers = false\n{self.table(mount)}")]
            found = [(who, *self.measure(ours if who == OURS else self.pull(mount, image), disk, spent))]
            listed = self.listed(mount, image)
            if who == OURS and listed:
                found.append((AGAIN, *self.measure(ours, disk, spent)))
        return [row(self, image, name, number, cost, listed, sync, more) for name, cost, sync, more in found]

    def measure(self, command, disk, spent):
        """What a command costs, the seconds of a sync after it, and what the daemon worked until then."""
        before = spent()
        cost = rig.run(command, env={**os.environ, "TMPDIR": str(disk.mount / "tmp")})
        return cost, disk.sync(), spent() - before

    def listed(self, mount, image):
        """Whether the engine lists the image by its name and its digest."""
        found = rig.run(self.listing(mount))
        name = f"{image.host}/{image.repository}:{image.tag}"
        done = found.status == 0 and self.has(found.stdout, name, image.digest)
        if not done:
            tell(self, image, self.program, f"does not list {name} as {image.digest}: {found.stdout}{found.stderr}")
        return done

    @contextlib.contextmanager
    def daemon(self, mount):
        """Runs what the engine needs: a function that tells its seconds of CPU so far."""
        yield lambda: 0.0


class Podman(Engine):
    name, words, program, peer, needs = "podman", "into podman", "podman", "podman pull", ["podman"]

    @contextlib.contextmanager
    def daemon(self, mount):
        script = mount / "podman"
        script.write_text(f'#!/bin/sh\nexec podman --root {mount}/root --runroot {mount}/run --storage-driver overlay "$@"\n')
        script.chmod(0o755)
        yield lambda: 0.0

    def table(self, mount):
        return f'[engine.podman]\ncommand = "{mount}/podman"\n'

    def pull(self, mount, image):
        return [mount / "podman", "pull", "-q", "--tls-verify=false", f"{image.host}/{image.repository}:{image.tag}"]

    def listing(self, mount):
        return [mount / "podman", "images", "--format", "json"]

    def has(self, text, name, digest):
        return any(name in one["Names"] and any(digest in other for other in one["RepoDigests"]) for one in json.loads(text or "[]"))


class Containerd(Engine):
    name, words, program, peer, needs = "containerd", "into containerd", "ctr", "ctr pull", ["ctr", "containerd"]

    @contextlib.contextmanager
    def daemon(self, mount):
        with rig.containerd(mount) as pid:
            yield lambda: rig.cpu_seconds(pid)

    def table(self, mount):
        return f'[engine.containerd]\naddress = "{mount}/c.sock"\n'

    def pull(self, mount, image):
        return ["ctr", "-a", mount / "c.sock", "images", "pull", "--plain-http", "--snapshotter", "overlayfs",
                f"{image.host}/{image.repository}:{image.tag}"]

    def listing(self, mount):
        return ["ctr", "-a", mount / "c.sock", "images", "check", "--snapshotter", "overlayfs"]

    def has(self, text, name, digest):
        # What is not whole is listed as well, as incomplete or as not unpacked.
        return any(fields[:1] == [name] and digest in fields and "complete" in fields and fields[-1] == "true"
                   for fields in map(str.split, text.splitlines()))


class Microsandbox(Engine):
    name, words, program, peer, needs = "microsandbox", "into microsandbox", "msb", "msb pull", ["msb"]

    def table(self, mount):
        return f'[engine.microsandbox]\nhome = "{mount}/msb"\n'

    def msb(self, mount, *words):
        return ["env", f"MSB_HOME={mount}/msb", "msb", *words]

    def pull(self, mount, image):
        return self.msb(mount, "pull", "-q", "--insecure", f"{image.host}/{image.repository}:{image.tag}")

    def listing(self, mount):
        return self.msb(mount, "image", "ls", "--format", "json")

    def has(self, text, name, digest):
        return any((one["reference"], one["digest"]) == (name, digest) for one in json.loads(text or "[]"))


# ------------------------------------------------------------------------------------------- bundles and damage

class Here:
    """A job on what an `apply` has brought before, with all of it in the page cache; one disk for all its rounds."""

    def run(self, binary, images, disk, rounds):
        for image in images:
            mount = disk.fresh()
            file = images_file(mount / "images.toml", image, self.settings)
            brought = rig.run([binary, "--home", mount / "home", "-q", "apply", file])
            if brought.status:
                sys.exit(f"{image.name} {self.words}: cannot be brought: {brought.stderr.strip()}")
            disk.sync()
            ours, theirs = self.ours(binary, mount), self.theirs(mount)
            rig.run(theirs)
            rows = list(in_turns(self, image, rounds, lambda who, number: [
                row(self, image, who, number, rig.run(ours if who == OURS else theirs), True)]))
            # Comes last, since it may do damage.
            wrong = self.wrong(binary, image, mount)
            if wrong:
                tell(self, image, OURS, wrong)
            yield from ({**one, "ok": one["ok"] and not (wrong and one["peer"] == OURS)} for one in rows)


class Export(Here):
    """A bundle of an image on standard output, from kept blobs; or the same blobs, and their digest."""

    name, words, peer, needs = "export", "as a bundle", "cat | openssl", ["bash", "cat", "openssl"]
    settings = '[settings]\nlayers = false\nblobs = "keep"\n'

    def bundle(self, binary, mount):
        return [binary, "--home", mount / "home", "-q", "export", "--offline", "--output", "-", mount / "images.toml"]

    def ours(self, binary, mount):
        return ["bash", "-c", 'set -o pipefail; "$@" | cat > /dev/null', "_", *self.bundle(binary, mount)]

    def theirs(self, mount):
        blobs = sorted(path for path in (mount / "home/blobs/blobs").rglob("*") if path.is_file())
        return ["bash", "-c", 'set -o pipefail; cat "$@" | openssl dgst -sha256 > /dev/null', "_", *blobs]

    def wrong(self, binary, image, mount):
        with subprocess.Popen(list(map(str, self.bundle(binary, mount))), stdout=subprocess.PIPE) as process:
            whole = blobs_of(process.stdout)
            process.stdout.read()
        wanted = {image.digest, *(layer["digest"] for layer in image.layers)}
        if process.returncode or not wanted <= whole:
            return f"exit {process.returncode}, and not whole in the bundle: {wanted - whole}"
        return None


class Verify(Here):
    """A look at every byte of the layers; or every file of them to nothing, two processes at a time."""

    name, words, peer, needs = "verify", "looked over for damage", "find | xargs", ["bash", "cat", "find", "xargs"]
    settings = ""

    def ours(self, binary, mount):
        return [binary, "--home", mount / "home", "-q", "verify"]

    def theirs(self, mount):
        return ["bash", "-c", 'set -o pipefail; find "$1" -type f -print0 | xargs -0 -P 2 -n 1000 cat > /dev/null', "_", mount / "home/layers"]

    def wrong(self, binary, image, mount):
        def states():
            return [layer["status"] for layer in json.loads(rig.run([*self.ours(binary, mount), "--json"]).stdout)["layers"]]
        whole = states()
        flip(mount / "home/layers")
        broken = states()
        if whole != ["ok"] * len({layer["digest"] for layer in image.layers}) or "modified" not in broken:
            return f"the layers are {whole}, and with a byte changed {broken}"
        return None


def blobs_of(stream):
    """The digests of those blobs of an OCI archive whose bytes are what their names promise."""
    whole = set()
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            path = pathlib.PurePosixPath(member.name)
            if member.isreg() and path.parts[:2] == ("blobs", "sha256"):
                content, digest = archive.extractfile(member), hashlib.sha256()
                while piece := content.read(1 << 20):
                    digest.update(piece)
                if digest.hexdigest() == path.name:
                    whole.add(f"sha256:{path.name}")
    return whole


def flip(directory):
    """Changes the last byte of the largest file, as a failing disk would: by its times and its size it is the same."""
    files = (pathlib.Path(folder) / name for folder, _, names in os.walk(directory) for name in names)
    largest = max((file for file in files if file.is_file() and not file.is_symlink()), key=lambda file: file.stat().st_size)
    before = largest.stat()
    with open(largest, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    os.utime(largest, ns=(before.st_atime_ns, before.st_mtime_ns))


# --------------------------------------------------------------------------------------------------- all of them

JOBS = {job.name: job for job in [Podman(), Containerd(), Microsandbox(), Export(), Verify()]}
ENGINES = [name for name, job in JOBS.items() if isinstance(job, Engine)]


def named(text):
    """The names of jobs in `text`, with `engines` for all of these; `None` if one is not known."""
    names = [name for word in filter(None, text.split(",")) for name in (ENGINES if word == "engines" else [word])]
    return list(dict.fromkeys(names)) if names and set(names) <= {"pull", *JOBS} else None


def runs(names, binary, images, disk, rounds):
    """The rows of all jobs of `names`. One whose programs are not installed is left out and named."""
    rows = []
    for name in names:
        missing = [program for program in JOBS[name].needs if not shutil.which(program)]
        if missing:
            print(f"left out: {name} (not installed: {' '.join(missing)})", file=sys.stderr)
        else:
            rows += JOBS[name].run(binary, images, disk, rounds)
    return rows


def self_test(directory):
    """Checks what can be checked without an engine: commands, readers of listings, blobs of a bundle, the changed byte."""
    digest = "sha256:" + "1" * 64
    listings = {
        "podman": '[{"Names": ["h/r:t"], "Digest": "", "RepoDigests": ["h/r@%s"]}]',
        "containerd": "REF TYPE DIGEST STATUS SIZE UNPACKED\nh/r:t application/x %s complete (3/3) 8.2 KiB/8.2 KiB true\n",
        "microsandbox": '[{"reference": "h/r:t", "digest": "%s"}]'}
    assert list(listings) == ENGINES and named("pull,engines") == ["pull", *ENGINES] and not named("pull,other") and not named("")
    for name, text in listings.items():
        job = JOBS[name]
        assert job.has(text % digest, "h/r:t", digest) and not job.has(text % digest, "h/r:u", digest), name
        assert not job.has(text % digest, "h/r:t", "sha256:2") and not job.has("", "h/r:t", digest), name
    assert not JOBS["containerd"].has((listings["containerd"] % digest).replace("true", "false"), "h/r:t", digest)

    good, bad = b"good", b"bad"
    blobs = directory / "home/blobs/blobs/sha256"
    blobs.mkdir(parents=True)
    for content in [good, bad]:
        (blobs / hashlib.sha256(good if content is good else b"other").hexdigest()).write_bytes(content)
    with tarfile.open(directory / "bundle.tar", "w") as archive:
        archive.add(directory / "home/blobs", arcname="")
    with open(directory / "bundle.tar", "rb") as stream:
        assert blobs_of(stream) == {"sha256:" + hashlib.sha256(good).hexdigest()}
    layers = directory / "home/layers"
    layers.mkdir()
    (layers / "small").write_bytes(b"a")
    (layers / "large").write_bytes(b"aa")
    before = (layers / "large").stat()
    flip(layers)
    after = (layers / "large").stat()
    assert ((layers / "large").read_bytes(), after.st_mtime_ns) == (b"a`", before.st_mtime_ns)
    for name in ["export", "verify"]:
        cost = rig.run(JOBS[name].theirs(directory))
        assert cost.status == 0, cost
        assert rig.run(JOBS[name].ours("false", directory)).status == 1, name
