#!/usr/bin/env python3
"""Builds the OCI image layout `oci/` beside this file from the text files in `rootfs/`.

    build.py            writes oci/ anew
    build.py --check    writes nothing; exits 1 and says why if oci/ is not what rootfs/ makes

The same input gives the same bytes on every machine: names are sorted, times and owners are fixed, and the
tar and gzip formats are written here and not by libraries, whose bytes change from version to version.
Python's standard library is all it needs.
"""

import argparse
import hashlib
import json
import os
import shutil
import struct
import sys
import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOTFS = HERE / "rootfs"
LAYOUT = HERE / "oci"

CREATED = "2024-01-01T00:00:00Z"
MTIME = 1704067200  # the same moment, in seconds
ARCHITECTURES = ("amd64", "arm64")

# The layers of each image, base first. Both share the first one.
IMAGES = {"hello:1": ["base", "hello"], "greeter:1": ["base", "greeter"]}
# One layer is gzip, the others are plain tars: a registry may serve either.
GZIPPED = {"base"}
# What a git checkout cannot hold, by layer.
HARD_LINKS = {"base": {"usr/bin/hi": "usr/bin/hello"}}
EXTRA_DIRECTORIES = {"base": {"tmp": 0o1777}}
OWNERS = {"hello": {"home/guest": (1000, 1000), "home/guest/notes": (1000, 1000)}}

OCI = "application/vnd.oci.image"


def header(name, kind, mode, size=0, target="", owner=(0, 0)):
    """One 512-byte ustar header (POSIX.1-1988); every name here fits its 100 bytes."""
    name, target = name.encode(), target.encode()
    if len(name) > 100 or len(target) > 100:
        raise SystemExit(f"build.py: the name is longer than 100 bytes: {name!r}")

    def octal(value, width):
        return b"%0*o\0" % (width - 1, value)

    fields = struct.pack(
        "100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x",
        name, octal(mode, 8), octal(owner[0], 8), octal(owner[1], 8), octal(size, 12), octal(MTIME, 12),
        b" " * 8, kind, target, b"ustar\0", b"00", b"", b"", octal(0, 8), octal(0, 8), b"",
    )
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def entries(layer):
    """The entries of a layer as (name, kind, mode, content, link target), parents before children."""
    root = ROOTFS / layer
    found = [(name + "/", b"5", mode, b"", "") for name, mode in EXTRA_DIRECTORIES.get(layer, {}).items()]
    for folder, directories, files in os.walk(root):
        for name in directories + files:
            path = Path(folder) / name
            inside = path.relative_to(root).as_posix()
            if path.is_symlink():
                found.append((inside, b"2", 0o777, b"", os.readlink(path)))
            elif path.is_dir():
                found.append((inside + "/", b"5", 0o755, b"", ""))
            else:
                # Only the owner's x bit: the others depend on the umask of the checkout.
                mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
                found.append((inside, b"0", mode, path.read_bytes(), ""))
    # Hard links come last, after what they name.
    links = [(name, b"1", 0o755, b"", target) for name, target in HARD_LINKS.get(layer, {}).items()]
    return sorted(found) + sorted(links)


def tar(layer):
    """The layer as an uncompressed tar."""
    out = bytearray()
    owners = OWNERS.get(layer, {})
    for name, kind, mode, content, target in entries(layer):
        out += header(name, kind, mode, len(content), target, owners.get(name.rstrip("/"), (0, 0)))
        out += content + b"\0" * (-len(content) % 512)
    return bytes(out) + b"\0" * 1024


def gzip(data):
    """gzip (RFC 1952) made of stored blocks: valid everywhere, and the same bytes with any zlib."""
    out = bytearray(b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
    blocks = [data[start:start + 0xFFFF] for start in range(0, len(data), 0xFFFF)] or [b""]
    for number, block in enumerate(blocks, 1):
        out += struct.pack("<BHH", number == len(blocks), len(block), len(block) ^ 0xFFFF) + block
    return bytes(out) + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def text(document):
    return (json.dumps(document, indent=2) + "\n").encode()


def build():
    """All files of the layout: path below oci/ -> bytes."""
    files = {}

    def blob(media_type, data, **more):
        files["blobs/sha256/" + digest(data).split(":")[1]] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}

    def layer(name):
        plain = tar(name)
        if name in GZIPPED:
            return digest(plain), blob(f"{OCI}.layer.v1.tar+gzip", gzip(plain))
        return digest(plain), blob(f"{OCI}.layer.v1.tar", plain)

    def manifest(image, architecture):
        layers = [layer(name) for name in IMAGES[image]]
        config = text({
            "created": CREATED,
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/bin", "LANG=en"],
                "Cmd": ["/usr/bin/hello"],
                "WorkingDir": "/",
                "Labels": {"org.opencontainers.image.title": image},
            },
            "rootfs": {"type": "layers", "diff_ids": [diff_id for diff_id, _ in layers]},
            "history": [{"created": CREATED, "created_by": f"rootfs/{name}"} for name in IMAGES[image]],
        })
        return blob(f"{OCI}.manifest.v1+json", text({
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": blob(f"{OCI}.config.v1+json", config),
            "layers": [descriptor for _, descriptor in layers],
        }), platform={"architecture": architecture, "os": "linux"})

    def index(manifests):
        return text({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": manifests})

    files["oci-layout"] = text({"imageLayoutVersion": "1.0.0"})
    files["index.json"] = index([
        blob(f"{OCI}.index.v1+json", index([manifest(image, architecture) for architecture in ARCHITECTURES]),
             annotations={"org.opencontainers.image.ref.name": image})
        for image in IMAGES
    ])
    return files


def differences(wanted):
    """What of oci/ on disk is not as `wanted`, one line each."""
    present = {path.relative_to(LAYOUT).as_posix() for path in LAYOUT.rglob("*") if not path.is_dir()}
    lines = [f"missing: oci/{name}" for name in wanted.keys() - present]
    lines += [f"not wanted: oci/{name}" for name in present - wanted.keys()]
    lines += [f"differs: oci/{name}" for name in present & wanted.keys()
              if (LAYOUT / name).read_bytes() != wanted[name]]
    return sorted(lines)


def main():
    parser = argparse.ArgumentParser(description="Builds the quickstart's OCI image layout.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if oci/ is out of date")
    check = parser.parse_args().check
    wanted = build()
    if check:
        lines = differences(wanted)
        for line in lines:
            print(line, file=sys.stderr)
        if lines:
            print("run examples/quickstart/build.py and commit oci/", file=sys.stderr)
        return 1 if lines else 0
    if LAYOUT.exists():
        shutil.rmtree(LAYOUT)
    for name, data in wanted.items():
        path = LAYOUT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
