#!/usr/bin/python3
"""A daemon for the real docker client: docker_daemon.py DIRECTORY classic|containerd

It listens on DIRECTORY/d.sock, keeps names and digests in DIRECTORY/images.json, and writes each request into
DIRECTORY/requests. What DIRECTORY/in-use lists is used by a container; a file DIRECTORY/full makes loads fail."""

import hashlib
import io
import json
import os
import re
import socketserver
import sys
import tarfile
from http.server import BaseHTTPRequestHandler

DIRECTORY, STORE = sys.argv[1:]
FAMILIAR = re.compile("^docker.io/(library/)?")


def place(name):
    return os.path.join(DIRECTORY, name)


def images():
    try:
        with open(place("images.json")) as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def keep(state):
    with open(place("images.json.new"), "w") as file:
        json.dump(state, file)
    os.rename(place("images.json.new"), place("images.json"))


def load(body):
    """Takes an archive as the image store of its kind does; returns what it says."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        for member in archive:
            if member.isfile():
                files[member.name] = archive.extractfile(member).read()
    state, said = images(), []
    if STORE == "classic":
        if "manifest.json" not in files:
            return ["invalid archive: does not contain a manifest.json"], True
        for entry in json.loads(files["manifest.json"]):
            config = files[entry["Config"]]
            diff_ids = json.loads(config)["rootfs"]["diff_ids"]
            if len(diff_ids) != len(entry["Layers"]) or not all(layer in files for layer in entry["Layers"]):
                return ["layers missing"], True
            for name in entry["RepoTags"]:
                state[FAMILIAR.sub("", name)] = "sha256:" + hashlib.sha256(config).hexdigest()
                said.append("Loaded image: " + name)
    else:
        for descriptor in json.loads(files["index.json"])["manifests"]:
            manifest = json.loads(files["blobs/" + descriptor["digest"].replace(":", "/")])
            for blob in [descriptor, manifest["config"], *manifest["layers"]]:
                content = files.get("blobs/" + blob["digest"].replace(":", "/"), b"")
                if "sha256:" + hashlib.sha256(content).hexdigest() != blob["digest"]:
                    return ["content digest " + blob["digest"] + ": not found"], True
            name = descriptor["annotations"]["io.containerd.image.name"]
            state[FAMILIAR.sub("", name)] = descriptor["digest"]
            said.append("Loaded image: " + name)
    keep(state)
    return said, False


def listed():
    rows = []
    for name, digest in sorted(images().items()):
        row = {"Id": digest, "ParentId": "", "RepoTags": [], "RepoDigests": [], "Created": 1700000000, "Size": 1000,
               "SharedSize": -1, "Containers": -1, "Labels": None}
        if "@" not in name:
            row["RepoTags"].append(name)
        if STORE == "containerd":
            row["RepoDigests"].append(re.sub("(:[^/:]*)?(@.*)?$", "", name) + "@" + digest)
        rows.append(row)
    return rows


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self):
        return "client"

    def log_message(self, *_):
        pass

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Api-Version", "1.49" if STORE == "containerd" else "1.41")
        self.send_header("Ostype", "linux")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def serve(self):
        path = re.sub(r"^/v1\.\d+", "", self.path)
        with open(place("requests"), "a") as log:
            print(self.command, path, file=log)
        body = self.body()
        if path == "/_ping":
            self.answer(200, "OK")
        elif path == "/version":
            self.answer(200, {"Version": "28.2.2", "ApiVersion": "1.49", "MinAPIVersion": "1.24"})
        elif path == "/info" and STORE == "containerd":
            self.answer(200, {"Driver": "overlayfs", "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]})
        elif path == "/info":
            self.answer(200, {"Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "extfs"]]})
        elif path.startswith("/images/json"):
            self.answer(200, listed())
        elif path.startswith("/images/load") and os.path.exists(place("full")):
            message = "write /var/lib/docker/tmp: no space left on device"
            self.answer(200, {"errorDetail": {"message": message}, "error": message})
        elif path.startswith("/images/load"):
            said, failed = load(body)
            if failed:
                self.answer(200, {"errorDetail": {"message": said[0]}, "error": said[0]})
            else:
                self.answer(200, {"stream": "\n".join(said) + "\n"})
        elif self.command == "DELETE" and path.startswith("/images/"):
            name = FAMILIAR.sub("", path.removeprefix("/images/").split("?")[0].replace("%3A", ":"))
            state = images()
            used = open(place("in-use")).read().split() if os.path.exists(place("in-use")) else []
            if name not in state:
                self.answer(404, {"message": "No such image: " + name})
            elif name in used:
                self.answer(409, {"message": f'conflict: unable to remove repository reference "{name}" (must force) '
                                  "- container 0123456789ab is using its referenced image"})
            else:
                del state[name]
                keep(state)
                self.answer(200, [{"Untagged": name}])
        else:
            self.answer(404, {"message": "page not found"})

    do_GET = do_HEAD = do_POST = do_DELETE = serve


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def get_request(self):
        connection, _ = super().get_request()
        return connection, ("client", 0)


with Server(place("d.sock"), Handler) as server:
    print("ready", flush=True)
    server.serve_forever()
