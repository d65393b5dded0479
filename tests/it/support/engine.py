#!/usr/bin/python3
"""An engine that keeps nothing but names: msb, ctr, podman and docker as far as msb-sync, and the docs, talk to them.

It takes an OCI archive, checks every blob against its digest, and lists what it has been given. With a home of its own
msb also keeps an "EROFS" file a layer, which it never writes again, and says that a sandbox uses every image while
there is a file `in-use`. A file `ctr.incomplete` names the images that ctr lists and has lost a part of, until the next
load; with a file `PROGRAM.broken` no load succeeds."""

import hashlib
import io
import json
import os
import sys
import tarfile

PROGRAM = os.path.basename(sys.argv[0])
HOME = os.environ.get("MSB_HOME", os.environ["HOME"])
STATE = os.path.join(HOME, PROGRAM + ".images")
INCOMPLETE = os.path.join(HOME, PROGRAM + ".incomplete")
VERSIONS = {
    "msb": "msb 0.7.11",
    "ctr": "ctr github.com/containerd/containerd 1.6.20",
    "podman": "podman version 4.3.1",
    "docker": "Docker version 28.2.2, build e6534b4",
}


def known():
    try:
        with open(STATE) as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def keep(images):
    os.makedirs(HOME, exist_ok=True)
    with open(STATE + ".new", "w") as file:
        json.dump(images, file)
    os.rename(STATE + ".new", STATE)


def load():
    if os.path.exists(STATE.replace(".images", ".broken")):
        sys.stdin.buffer.read()
        sys.exit("no space left on device")
    files, links = {}, []
    with tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read())) as archive:
        for member in archive:
            if member.isfile():
                files[member.name] = archive.extractfile(member).read()
            elif member.issym():
                links.append(member)
    os.makedirs(HOME, exist_ok=True)
    with open(os.path.join(HOME, PROGRAM + ".loads"), "a") as log:
        print("links" if links else "bytes", file=log)
    for member in links:
        # podman follows them where it sees what they lead to.
        if PROGRAM != "podman" or os.path.exists(STATE + ".elsewhere"):
            sys.exit("Error: open " + member.name + ": no such file or directory")
        assert os.path.isabs(member.linkname), member.linkname
        with open(member.linkname, "rb") as file:
            files[member.name] = file.read()
    for name, content in files.items():
        if name.startswith("blobs/sha256/"):
            assert hashlib.sha256(content).hexdigest() == name.rsplit("/", 1)[1], name
    described = json.loads(files["index.json"])["manifests"]
    if PROGRAM == "podman" and len(described) > 1:
        sys.exit("Error: payload does not match any of the supported image formats")
    images = known()
    for descriptor in described:
        manifest = json.loads(files["blobs/" + descriptor["digest"].replace(":", "/")])
        blobs = [manifest["config"], *manifest["layers"]] if "config" in manifest else manifest["manifests"][:0]
        missing = [blob["digest"] for blob in blobs if "blobs/" + blob["digest"].replace(":", "/") not in files]
        if missing and PROGRAM == "msb":
            sys.exit("missing blobs: " + ", ".join(missing))
        if "MSB_HOME" in os.environ:
            keep_layers(manifest, files)
        images[descriptor["annotations"]["io.containerd.image.name"]] = descriptor["digest"]
    keep(images)
    if os.path.exists(INCOMPLETE):
        os.remove(INCOMPLETE)


def keep_layers(manifest, files):
    config = json.loads(files["blobs/" + manifest["config"]["digest"].replace(":", "/")])
    directory = os.path.join(HOME, "cache/layers")
    os.makedirs(directory, exist_ok=True)
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"]):
        path = os.path.join(directory, diff_id.replace(":", "_") + ".erofs")
        if not os.path.exists(path):
            with open(path, "wb") as file:
                file.write(b"EROFS of " + files["blobs/" + layer["digest"].replace(":", "/")])


def remove(names):
    if os.path.exists(os.path.join(HOME, "in-use")):
        sys.exit("error: image is in use by sandbox build-7")
    images = known()
    gone = [images.pop(name, None) for name in names]
    keep(images)
    if None in gone:
        sys.exit("error: no such image")


def listing():
    images = sorted(known().items())
    if PROGRAM == "msb":
        return json.dumps([{"reference": name, "digest": digest} for name, digest in images])
    if PROGRAM == "podman":
        rows = [
            {"Names": [name], "Digest": digest, "RepoDigests": [name.rsplit(":", 1)[0] + "@" + digest]}
            for name, digest in images
        ]
        return json.dumps(rows)
    if PROGRAM == "docker":
        rows = [
            {"Repository": name.rsplit(":", 1)[0], "Tag": name.rsplit(":", 1)[1], "Digest": digest, "ID": digest}
            for name, digest in images
        ]
        return "\n".join(map(json.dumps, rows))
    rows = ["REF TYPE DIGEST SIZE PLATFORMS LABELS"]
    rows += [f"{name} application/vnd.oci.image.manifest.v1+json {digest} 8.2 KiB linux/amd64 -" for name, digest in images]
    return "\n".join(rows)


def main():
    words = sys.argv[1:]
    if "--version" in words or "version" in words:
        print(VERSIONS[PROGRAM])
    elif "info" in words:
        print('[["driver-type","io.containerd.snapshotter.v1"]]')
    elif "load" in words or "import" in words:
        load()
    elif "check" in words:
        print("REF TYPE DIGEST STATUS SIZE UNPACKED")
        lacking = open(INCOMPLETE).read().split() if os.path.exists(INCOMPLETE) else []
        for name, digest in sorted(known().items()):
            status = "incomplete (2/3)" if name in lacking else "complete (3/3)"
            print(f"{name} application/vnd.oci.image.manifest.v1+json {digest} {status} 8.2 KiB/8.2 KiB true")
    elif "rm" in words or "rmi" in words:
        remove(words[words.index("rm" if "rm" in words else "rmi") + 1 :])
    else:
        print(listing())


main()
