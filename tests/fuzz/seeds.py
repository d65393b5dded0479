#!/usr/bin/env python3
"""Writes the first inputs of every fuzz target into tests/fuzz/corpus.

Each is small and does one thing, so that mutations stay close to something that makes sense. Inputs that fuzzing
found lie beside them; this script leaves those alone.
"""

import base64
import gzip
import hashlib
import io
import json
import pathlib
import tarfile

CORPUS = pathlib.Path(__file__).parent / "corpus"


def write(target, name, data):
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


# ------------------------------------------------------------------------------------------------------- layers

TYPES = {
    "file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE, "link": tarfile.LNKTYPE,
    "char": tarfile.CHRTYPE, "block": tarfile.BLKTYPE, "fifo": tarfile.FIFOTYPE,
}


def tar(entries, form=tarfile.GNU_FORMAT, pax_global=None):
    out = io.BytesIO()
    archive = tarfile.open(fileobj=out, mode="w", format=form, pax_headers=pax_global or {},
                           encoding="utf-8", errors="surrogateescape")
    for kind, name, *rest in entries:
        info = tarfile.TarInfo(name)
        info.type = TYPES[kind]
        info.mode, info.uid, info.gid, info.mtime = 0o4755, 1000, 50, 1_000_000_000
        data = b""
        for extra in rest:
            if isinstance(extra, bytes):
                data = extra
            elif isinstance(extra, str):
                info.linkname = extra
            else:
                for key, value in extra.items():
                    setattr(info, key, value)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    # Without tarfile's padding to 10 KiB: an end is two blocks.
    end = archive.offset
    return out.getvalue()[:end] + bytes(1024)


def header(name, typeflag=b"0", size=b"00000000000\0", link=b"", magic=b"ustar\0" b"00", prefix=b"", mtime=b"07346545000\0"):
    block = bytearray(512)
    block[0:len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0001750\0", b"0000062\0"
    block[124:136], block[136:148] = size, mtime
    block[156:157] = typeflag
    block[157:157 + len(link)] = link
    block[257:265] = magic
    block[345:345 + len(prefix)] = prefix
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data):
    return data + bytes(-len(data) % 512)


def layers():
    tree = [
        ("dir", "usr/"), ("file", "usr/tool", b"#!/bin/sh\n"), ("symlink", "usr/link", "/etc/passwd"),
        ("link", "usr/hard", "usr/tool"), ("file", "deep/er/file", b"x"), ("file", "usr/.wh.gone"),
        ("file", ".wh..wh..opq"), ("char", "dev/null"), ("block", "dev/sda"), ("fifo", "dev/pipe"),
    ]
    plain = tar(tree)
    write("layer", "tree.tar", plain)
    write("layer", "tree.tar.gz", gzip.compress(plain, mtime=0))
    write("layer", "tree-in-three-members.tar.gz",
          b"".join(gzip.compress(part, mtime=0) for part in (plain[:700], b"", plain[700:])))
    # A zstd frame of raw blocks (RFC 8878): no encoder needed, and every byte is there to be changed.
    write("layer", "tree.tar.zst", b"\x50\x2a\x4d\x18\x04\0\0\0skip" + zstd_raw(plain))
    write("layer", "large.tar.gz", gzip.compress(tar([("file", "large", bytes(300_000)), ("file", "b", b"b")]), mtime=0))
    write("layer", "root-entry.tar", tar([("dir", "./"), ("file", "./a", b"a")]))
    write("layer", "duplicates.tar", tar([
        ("file", "x", b"one"), ("link", "y", "x"), ("file", "x", b"two"), ("dir", "x"), ("file", "x/z", b"z"),
        ("symlink", "x", "../outside"), ("file", "x", b"three")]))
    write("layer", "forward-links.tar", tar([
        ("link", "one", "two"), ("link", "two", "dir/three"), ("file", "dir/three", b"content"),
        ("symlink", "sym", "nowhere"), ("link", "symlinked", "sym")]))
    write("layer", "link-in-replaced-directory.tar", tar([
        ("dir", "d"), ("link", "d/l", "later"), ("file", "d", b"now a file"), ("file", "later", b"x")]))
    for name, entries in {
        "waiting-link-takes-a-name": [
            ("link", "b", "a"), ("symlink", "a", "x"), ("link", "a", "c"), ("file", "c", b"content")],
        "waiting-link-takes-a-name-exchanged": [
            ("link", "a", "b"), ("symlink", "b", "x"), ("link", "b", "c"), ("file", "c", b"content")],
        "waiting-links-to-symlinks": [
            ("link", "c/x", "a"), ("symlink", "a", "a"), ("link", "a", "b/x/z"), ("symlink", "b/x/z", "b")],
        "waiting-link-takes-a-directory": [
            ("dir", "a"), ("file", "a/x", b"old"), ("link", "a", "c"), ("file", "a/y", b"y"), ("file", "c", b"x")],
        "through-symlinks": [
            ("symlink", "lib", "/usr/../usr/lib"), ("file", "lib/x", b"x"), ("link", "lib/y", "lib/x"),
            ("file", "lib/.wh.z"), ("dir", "lib"), ("file", "lib/x", b"y"), ("symlink", "loop", "loop"),
            ("file", "usr/w", b"w")],
        "through-a-loop": [("symlink", "a", "b"), ("symlink", "b", "a"), ("file", "a/x", b"x")],
        "escape-dots": [("file", "../outside/new", b"x")],
        "escape-symlink": [("symlink", "s", "../outside"), ("file", "s/precious", b"gotcha")],
        "escape-symlink-chain": [("symlink", "a", "b"), ("symlink", "b", "../outside"), ("file", "a/precious", b"x")],
        "escape-swapped-directory": [("dir", "d"), ("symlink", "d", "../outside"), ("file", "d/precious", b"x")],
        "escape-hard-link": [("symlink", "s", "../outside"), ("link", "stolen", "s/precious")],
        "escape-link-to-outside": [("link", "stolen", "../outside/precious")],
        "escape-times": [("dir", "d"), ("dir", "d/e"), ("symlink", "d", "../outside")],
        "escape-whiteout": [("file", ".wh..."), ("file", ".wh."), ("file", "a/.wh...", b"")],
        "loop-of-links": [("link", "l", "m"), ("link", "m", "l")],
    }.items():
        write("layer", f"{name}.tar", tar(entries))
    write("layer", "pax.tar", tar([
        ("file", "n" * 120, b"long", {"pax_headers": {
            "SCHILY.xattr.user.mime": "text/plain", "SCHILY.xattr.security.capability": "no",
            "SCHILY.xattr.user.containers.override_stat": "0:0:0100777", "mtime": "1234567890.123456789"}}),
        ("symlink", "far", "t" * 150), ("file", "old", {"mtime": -1.5}), ("file", "big-id", {"uid": 5_000_000_000}),
        ("file", "not\udcff-utf8", b"x"),
    ], tarfile.PAX_FORMAT))
    write("layer", "pax-global.tar", tar([("file", "a", b"a")], tarfile.PAX_FORMAT, {"comment": "hello"}))
    write("layer", "pax-size.tar",
          header(b"p", b"x", b"%011o\0" % 11) + padded(b"11 size=51\n") + header(b"f", size=b"%011o\0" % 5) +
          padded(b"fifty-one bytes, whatever the ustar header may say.") + bytes(1024))
    write("layer", "gnu-long-names.tar", tar([("file", "d/" + "n" * 200, b"x"), ("link", "l", "d/" + "n" * 200)]))
    write("layer", "gnu-base-256.tar", tar([("file", "a", b"a", {"uid": 1 << 40, "mtime": -5})]))
    write("layer", "prefix.tar", header(b"name", prefix=b"some/where") + bytes(1024))
    write("layer", "v7.tar", header(b"old", b"\0", magic=bytes(8)) + header(b"dir/", b"\0", magic=bytes(8)) + bytes(1024))
    write("layer", "sparse-gnu.tar", header(b"s", b"S", magic=b"ustar  \0") + bytes(1024))
    write("layer", "sparse-1.0.tar", sparse({"major": "1", "minor": "0", "name": "s", "realsize": "100000"},
                                            padded(b"2\n0\n5\n90000\n5\n") + b"firstlast!"))
    write("layer", "sparse-0.1.tar", sparse({"size": "3000", "numblocks": "2", "map": "0,5,2000,5"}, b"firstlast!"))
    write("layer", "sparse-0.0.tar", sparse([("size", "3000"), ("numblocks", "2"), ("offset", "0"), ("numbytes", "5"),
                                             ("offset", "2000"), ("numbytes", "5")], b"firstlast!"))
    write("layer", "sparse-overlap.tar", sparse({"size": "9", "numblocks": "2", "map": "0,5,3,5"}, b"firstlast!"))
    old = bytearray(header(b"s", b"S", size=b"%011o\0" % 10, magic=b"ustar  \0"))
    for place, value in ((386, 0), (398, 5), (410, 2000), (422, 5), (483, 3000)):
        old[place:place + 12] = b"%011o\0" % value
    old[148:156] = b" " * 8
    old[148:156] = b"%06o\0 " % sum(old)
    write("layer", "sparse-old-gnu.tar", bytes(old) + padded(b"firstlast!") + bytes(1024))
    # A window of 128 MiB, and one that nobody decodes.
    write("layer", "window-128-mib.tar.zst", b"".join(zstd_raw(part, 17 << 3) for part in (plain[:512], plain[512:])))
    write("layer", "window-2-gib.tar.zst", zstd_raw(plain, 21 << 3))
    write("layer", "no-end.tar", header(b"a") + header(b"b", size=b"%011o\0" % 3) + b"abc")
    write("layer", "after-the-end.tar", header(b"a") + bytes(1024) + header(b"b") + b"garbage")
    write("layer", "empty.tar", bytes(1024))
    write("layer", "nothing", b"")


def sparse(records, data):
    items = records.items() if isinstance(records, dict) else records
    body = b""
    for key, value in items:
        rest = f" GNU.sparse.{key}={value}\n".encode()
        length = len(rest) + 2
        body += b"%d" % (length if length < 100 else length + 1) + rest
    return (header(b"p", b"x", b"%011o\0" % len(body)) + padded(body) +
            header(b"s", size=b"%011o\0" % len(data)) + padded(data) + bytes(1024))


def zstd_raw(data, window=0x58):
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([window])  # magic, no content size, a window of 2 MiB
    for start in range(0, len(data), 1 << 16):
        block = data[start:start + (1 << 16)]
        last = start + len(block) == len(data)
        frame += (len(block) << 3 | last).to_bytes(3, "little") + block
    return frame


# -------------------------------------------------------------------------------------------------- inventories

def number(value):
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def text(value):
    return number(len(value)) + value


def entry(kind, shared, rest, mode=0o644, modified=None, xattrs=(), tail=b""):
    time = b"\0" if modified is None else b"\1" + number(modified << 1) + number(5)
    attributes = number(len(xattrs)) + b"".join(text(name) + text(value) for name, value in xattrs)
    return bytes([kind]) + number(shared) + text(rest) + number(mode) + time + attributes + tail


def inventories():
    # The content's XXH3-128 is not that of the file on disk; to be told is part of the test.
    content = number(7) + bytes(16)
    end = b"\0" + number(4) + number(7) + number(4096) + number(0)
    root = entry(2, 0, b"", 0o755, xattrs=[(b"user.containers.override_stat", b"0:0:040755")])
    write("inventory", "tree", root + entry(2, 0, b"d", 0o755, 10**9) + entry(1, 1, b"/f", tail=content) +
          entry(4, 0, b"h", tail=text(b"d/f")) + entry(3, 0, b"s", 0o777, tail=text(b"../outside")) + end)
    write("inventory", "empty", end)
    write("inventory", "cut", root + entry(2, 0, b"d"))
    write("inventory", "replaced", entry(2, 0, b"d") + entry(1, 1, b"/f", tail=content) + entry(1, 1, b"", tail=content) +
          entry(4, 0, b"h", tail=text(b"d/f")) + entry(1, 0, b"d/f", tail=content) + end)
    write("inventory", "forward-links", entry(4, 0, b"a", tail=text(b"b")) + entry(4, 0, b"b", tail=text(b"c")) +
          entry(1, 0, b"c", tail=content) + entry(4, 0, b"x", tail=text(b"x")) + end)
    write("inventory", "outside", entry(2, 0, b"..") + entry(1, 0, b"/etc/passwd", tail=content) +
          entry(1, 0, b"s/precious", tail=content) + entry(1, 0, b"../outside/precious", tail=content) + end)
    write("inventory", "lengths", entry(1, 200, b"x") + b"\x01\0" + number(1 << 40))


# ------------------------------------------------------------------------------------------- registry documents

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."


def digest(name):
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()


def descriptor(kind, name, size=7, **more):
    return {"mediaType": kind, "digest": digest(name), "size": size, **more}


def documents():
    layer = descriptor(OCI + "layer.v1.tar+gzip", "layer", urls=["http://elsewhere/"])
    manifest = {"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json",
                "config": descriptor(OCI + "config.v1+json", "config"), "layers": [layer],
                "annotations": {"org.opencontainers.image.created": "2024-01-01T00:00:00Z"}}
    config = {"architecture": "arm64", "os": "linux", "variant": "v8", "created": "2024-01-01T00:00:00.5+02:00",
              "config": {"Env": ["A=b"], "Cmd": ["sh"], "Entrypoint": None, "WorkingDir": "/", "User": "0",
                         "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}}, "Labels": {"a": "b"},
                         "StopSignal": "SIGINT"},
              "rootfs": {"type": "layers", "diff_ids": [digest("diff")]},
              "history": [{"created_by": "x", "empty_layer": True}]}
    platform = {"os": "linux", "architecture": "arm64", "variant": "v8"}
    attestation = descriptor(OCI + "manifest.v1+json", "attestation", platform={"os": "unknown", "architecture": "unknown"},
                             annotations={"vnd.docker.reference.type": "attestation-manifest"})
    index = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": [
        attestation, descriptor(OCI + "manifest.v1+json", "m", platform={"os": "linux", "architecture": "amd64"}),
        descriptor(OCI + "manifest.v1+json", "m", platform=platform)]}
    nested = {"schemaVersion": 2, "manifests": [descriptor(OCI + "index.v1+json", "i")]}
    unnamed = {"schemaVersion": 2, "manifests": [descriptor(OCI + "manifest.v1+json", "a"), descriptor(OCI + "manifest.v1+json", "b")]}
    docker = {"schemaVersion": 2, "mediaType": DOCKER + "distribution.manifest.v2+json",
              "config": descriptor(DOCKER + "container.image.v1+json", "config"),
              "layers": [descriptor(DOCKER + "image.rootfs.foreign.diff.tar.gzip", "layer")]}
    old = {"schemaVersion": 1, "fsLayers": [], "history": []}
    helm = {**manifest, "config": descriptor("application/vnd.cncf.helm.config.v1+json", "c"), "artifactType": "x"}
    for name, parts in {
        "manifest": [manifest["mediaType"], manifest, config],
        "manifest-unnamed-type": ["application/json; charset=utf-8", {**manifest, "mediaType": ""}, config],
        "docker": ["", docker, {**config, "config": {"Cmd": "sh"}}],
        "index": ["", index, manifest, config],
        "index-nested": ["", nested, nested, index, manifest, config],
        "index-unnamed": ["", unnamed, helm, manifest, config],
        "both": ["", {**manifest, "manifests": []}],
        "other-type": [OCI + "index.v1+json", manifest],
        "schema-1": ["application/vnd.docker.distribution.manifest.v1+prettyjws", old],
        "artifact": ["", helm],
        "config-without-diff-ids": ["", manifest, {**config, "rootfs": {"type": "layers"}}],
        "html": ["text/html", "<html>"],
    }.items():
        shown = [part if isinstance(part, str) else json.dumps(part) for part in parts]
        write("documents", name, "\0".join(shown))


# -------------------------------------------------------------------------------------------------------- trust

SIGNING = pathlib.Path(__file__).parent.parent / "fixtures" / "signing"


def trust():
    """A manifest and its first layer, with a zero byte between; and files of keys, roots and a certificate."""
    for name in (
        "cosign2-p256", "cosign2-log", "cosign2-keyless", "cosign2-keyless-late", "cosign2-slsaprovenance-keyless",
        "cosign3-p256", "cosign3-p256-log", "cosign3-keyless", "cosign3-keyless-mail", "cosign3-slsaprovenance1-keyless",
        "message-p256", "message-keyless", "message-ed25519",
        "notation-jws", "notation-jws-stamped", "notation-cose", "notation-cose-stamped",
    ):
        artifact = json.loads((SIGNING / f"{name}.json").read_text())
        manifest = artifact["manifest"]
        blob = artifact["blobs"][json.loads(manifest)["layers"][0]["digest"]]
        layer = blob["text"].encode() if "text" in blob else base64.b64decode(blob["base64"])
        write("trust", name, manifest.encode() + b"\0" + layer)
        if name == "cosign3-keyless":
            material = json.loads(layer)["verificationMaterial"]
            write("trust", "certificate", base64.b64decode(material["certificate"]["rawBytes"]))
    for name in ("p256.pub", "rsa1024.pub", "trusted_root.json", "notation-roots.pem"):
        write("trust", name, (SIGNING / name).read_bytes())


# -------------------------------------------------------------------------------------------------------- texts

def texts():
    for name, value in {
        "hub": 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"',
        "basic": 'Basic realm="a \\"quoted\\" one", charset=UTF-8',
        "several": "Negotiate, Basic realm=x, BEARER realm=/token?a=b , scope = \"s\"",
        "unterminated": 'Bearer realm="unterminated\\',
        "relative-realm": 'Bearer realm="../token#fragment",service=//other.corp:99999/x',
        "odd-realms": 'Bearer realm="http://user:secret@[::1]:5000/a b?c",x="HTTPS://\u00e9.corp",y="ftp://a",z=":80"',
    }.items():
        write("www_authenticate", name, value)
    hexadecimal = hashlib.sha256(b"").hexdigest()
    for name, value in {
        "short": "alpine", "tag": "alpine:3.20", "full": "registry.corp:5000/team/app:v1",
        "digest": f"ghcr.io/a/b@sha256:{hexadecimal}", "tag-and-digest": f"a/b:1@sha256:{hexadecimal}",
        "sha512": "x@sha512:" + hashlib.sha512(b"").hexdigest(), "bare-digest": f"sha256:{hexadecimal}",
        "ipv6": "[::1]:5000/a__b/c-d.e:T_1", "sandboxes": "sandboxes.io/library/alpine:latest",
        "upper": "UPPER/x", "dots": "a/../b:..", "empty": "",
    }.items():
        write("references", name, value)
    for name, value in {
        "containerd": 'server = "https://registry-1.docker.io"\nca = "/etc/own.pem"\n[host."https://mirror.corp"]\n'
                      'capabilities = ["pull", "resolve"]\nca = ["a.pem"]\nskip_verify = true\n'
                      'client = [["c.cert", "c.key"], ["d.pem", ""]]\n[host."https://mirror.corp".header]\nX-A = ["1"]\n'
                      'Authorization = "Basic x"\n',
        "spegel": '[host."http://10.0.0.1:30020"]\ncapabilities = ["pull"]\ndial_timeout = "200ms"\n'
                  '[host."http://10.0.0.1:30021/v2/x"]\noverride_path = true\n',
        "unknown-keys": 'proxy = "x"\n[host.a]\nport = 5\n[other]\n',
        "user-in-url": '[host."https://u:p@a"]\n', "wrong-types": 'ca = [1]\nserver = 1\nhost = []\n',
        "header-refused": '[header]\nhost = "x"\n', "broken": 'server = "unterminated\n[host.',
    }.items():
        write("hosts", name, value)
    write_images_files()
    locked = (f'version = 1\n\n[[image]]\nreference = "docker.io/library/alpine:3.20"\nplatform = "linux/amd64"\n'
              f'digest = "sha256:{hexadecimal}"\nmanifest = "sha256:{hexadecimal}"\nlayers = [\n'
              f'  {{ digest = "sha256:{hexadecimal}", diff_id = "sha256:{hexadecimal}", size = 3623807 }},\n]\n')
    for name, value in {
        "one": locked, "two": locked + locked.split("\n\n", 1)[1].replace("alpine", "busybox"),
        "twice": locked + locked.split("\n\n", 1)[1], "empty": "version = 1\n", "newer": "version = 2\n",
        "no-version": "", "bad-digest": locked.replace(hexadecimal[:8], "../../..", 1), "broken": locked[:150],
    }.items():
        write("lockfile", name, value)


def write_images_files():
    for name, value in {
        "starter": (pathlib.Path(__file__).parents[2] / "src/images_file/starter.toml").read_text(),
        "everything": '''[settings]
layers = "~/layers"
platform = "linux/arm64"
pull = "missing"
prune = true
downloads = 3
interval = "1h 30m"
hosts-dir = "certs.d"
ownership = "none"
[settings.limits]
layer-size = "64GiB"
layer-entries = 4000000
manifest-size = 4096
[registry."docker.io"]
images = ["alpine:3.20", { name = "nginx", tag = "1", platform = "linux/arm64/v8", pull = "never", groups = ["web"] },
  { name = "redis", tags = { semver = ">=7, <8", newest = 2 } }, { name = "node", tags = { match = "^22\\\\.[0-9]+$", newest = 1 } }]
[registry."ghcr.io"]
username = "octocat"
password-env = "TOKEN"
images = ["github/super-linter:v7"]
[registry."registry.corp:5000"]
endpoint = "https://registry.corp:5000"
mirrors = ["https://mirror.corp", { url = "http://[::1]:5000/x", resolve = true }]
ca = "ca.pem"
insecure = false
headers = { "X-Team" = "infra" }
images = ["team/app:v1"]
[registry."vendored.local"]
layout = "vendor/oci"
images = ["tools/busybox:1"]
[groups]
dev = ["docker.io/library/alpine:3.20", "@web"]
''',
        "password": '[registry."a.io"]\nusername = "u"\npassword = "hunter2"\nimages = []\n',
        "many-mistakes": '[settings]\nlayer = 1\npull = "allways"\ninterval = "-5x"\n[registry.A]\nimages = ["UP/x", 1, "a", "a"]\n'
                         '[groups]\na = ["@a", "@b", "nothing"]\nb = []\nc = ["@b"]\n',
        "bad-selections": '[registry.a]\nimages = [{ name = "x", tags = { newest = 0 } }, { name = "y", tags = {} }, '
                          '{ name = "z", tags = { match = "(((((a*)*)*)*", semver = ">>1" } }]\n',
        "broken": '[registry."docker.io"\nimages = ["alpine:3.20", \'x\', """\nunterminated\n',
        "byte-order-mark": "\ufeff[settings]\r\npull = 'always'\r\n",
        "deep": "a = " + "[" * 200 + "]" * 200 + "\n",
        "control": '[registry.a]\nimages = ["\\u001b[31m", "\\u202e", "\x1b[2J"]\n',
    }.items():
        write("images_file", name, value)


if __name__ == "__main__":
    layers()
    inventories()
    documents()
    texts()
    trust()
