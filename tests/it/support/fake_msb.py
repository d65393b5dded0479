#!/usr/bin/env python3
"""A stand-in for microsandbox's msb: keeps names in a file, and an "EROFS" file a layer, which it never rewrites."""

import hashlib
import json
import os
import sys
import tarfile

HOME = os.environ["MSB_HOME"]
STATE = os.path.join(HOME, "state.json")


def read():
    try:
        with open(STATE) as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def write(state):
    os.makedirs(HOME, exist_ok=True)
    with open(STATE, "w") as file:
        json.dump(state, file)


def load():
    blobs, index = {}, None
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        for member in archive:
            data = archive.extractfile(member)
            if data is None:
                continue
            data = data.read()
            if member.name == "index.json":
                index = json.loads(data)
            elif member.name.startswith("blobs/sha256/"):
                digest = "sha256:" + member.name.rsplit("/", 1)[1]
                assert digest == "sha256:" + hashlib.sha256(data).hexdigest(), member.name
                blobs[digest] = data
    state = read()
    for descriptor in index["manifests"]:
        manifest = json.loads(blobs[descriptor["digest"]])
        config = json.loads(blobs[manifest["config"]["digest"]])
        os.makedirs(os.path.join(HOME, "cache/layers"), exist_ok=True)
        for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"]):
            path = os.path.join(HOME, "cache/layers", diff_id.replace(":", "_") + ".erofs")
            if not os.path.exists(path):
                with open(path, "wb") as file:
                    file.write(b"EROFS of " + blobs[layer["digest"]])
        state[descriptor["annotations"]["org.opencontainers.image.ref.name"]] = descriptor["digest"]
    write(state)


def main():
    arguments = sys.argv[1:]
    with open(os.path.join(os.path.dirname(HOME), "msb.log"), "a") as log:
        log.write(" ".join(arguments) + "\n")
    if arguments == ["--version"]:
        print("msb 0.7.11")
    elif arguments == ["load"]:
        load()
    elif arguments[:2] == ["image", "ls"]:
        print(json.dumps([{"reference": name, "digest": digest} for name, digest in read().items()]))
    elif arguments[:2] == ["image", "rm"]:
        if os.path.exists(os.path.join(HOME, "in-use")):
            sys.exit("error: image is in use by sandbox build-7")
        state = read()
        if state.pop(arguments[2], None) is None:
            sys.exit("error: no such image")
        write(state)
    else:
        sys.exit("error: unknown command " + " ".join(arguments))


main()
