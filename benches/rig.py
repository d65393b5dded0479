"""What the benchmarks stand on: a real registry on loopback, processes with their costs, fresh disks, containerd.

Nothing but Python's standard library. The registry is Debian's docker-registry on a free port with its data in a
directory of ours; its own log counts the requests. Images are written straight into that directory, in the layout
of distribution's filesystem driver, since pushing 100,000 layers by HTTP would take longer than all that is measured.
"""

import collections
import contextlib
import datetime
import gzip
import hashlib
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

# Runs a command and notes what it cost. A process of its own: a child inherits its parent's peak memory, and the
# one that builds images has had much.
PARENT = """
import json, os, sys, time
out = sys.argv[1]; start = time.monotonic(); pid = os.fork()
if pid == 0:
    try: os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error: sys.stderr.write("cannot run %s: %s\\n" % (sys.argv[2], error)); os._exit(127)
status, usage = os.wait4(pid, 0)[1:]
wall = time.monotonic() - start
with open(out, "w") as file:
    json.dump({"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss / 1024,
               "status": os.waitstatus_to_exitcode(status)}, file)
"""

Cost = collections.namedtuple("Cost", "wall cpu rss status stdout stderr")


def run(command, cwd=None, env=None):
    """Runs `command` (a list) to its end: seconds of wall and CPU time, peak MiB of the largest process, output."""
    with tempfile.NamedTemporaryFile() as note:
        done = subprocess.run([sys.executable, "-S", "-E", "-c", PARENT, note.name, *map(str, command)], cwd=cwd, env=env,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            cost = json.load(note)
        except ValueError:
            raise SystemExit(f"cannot measure {shlex.join(map(str, command))}: {done.stderr.decode(errors='replace')}")
    return Cost(**cost, stdout=done.stdout.decode(errors="replace"), stderr=done.stderr.decode(errors="replace"))


def cpu_seconds(pid):
    """Of a running process, and of those children of its that it has waited for."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def system_calls(command, cwd=None):
    """Runs `command` under strace: how often each system call was made, by it and its children."""
    with tempfile.NamedTemporaryFile() as table:
        done = subprocess.run(["strace", "-c", "-f", "-o", table.name, *map(str, command)], cwd=cwd,
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if done.returncode:
            raise RuntimeError(f"strace {shlex.join(map(str, command))}: exit {done.returncode}: "
                               f"{done.stderr.decode(errors='replace')[-300:]}")
        return parse_strace(pathlib.Path(table.name).read_text())


def parse_strace(table):
    """The counts of `strace -c`."""
    calls = {}
    for line in table.splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[3].isdigit() and fields[-1] != "total":
            calls[fields[-1]] = int(fields[3])
    return calls


def machine():
    """The machine in one line."""
    def first(path, pattern):
        with contextlib.suppress(OSError):
            found = re.search(pattern, pathlib.Path(path).read_text(), re.MULTILINE)
            return found and found.group(1).strip()
    model = first("/proc/cpuinfo", r"^model name\s*:\s*(.*)$") or platform.machine()
    memory = int(first("/proc/meminfo", r"^MemTotal:\s*(\d+)") or 0) / 2**20
    return f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, Linux {platform.release()}"


def today():
    return datetime.date.today().isoformat()


# --------------------------------------------------------------------------------------------------- registry

class Registry:
    """docker-registry with its data below `directory`; a context manager."""

    def __init__(self, directory):
        self.root = pathlib.Path(directory) / "registry"
        self.data = self.root / "data" / "docker/registry/v2"
        self.log_path = self.root / "log"
        self.read = 0
        self.process = None
        self.address = None
        (self.data / "blobs").mkdir(parents=True, exist_ok=True)

    def __enter__(self):
        config = {"version": 0.1, "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
                  "storage": {"filesystem": {"rootdirectory": str(self.root / "data"), "maxthreads": 100}},
                  "http": {"addr": "127.0.0.1:0"}}
        (self.root / "config.yml").write_text(json.dumps(config))
        environment = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(["docker-registry", "serve", str(self.root / "config.yml")],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        for _ in range(200):
            found = re.search(r"listening on (127\.0\.0\.1:\d+)", self.log_path.read_text())
            if found:
                self.address = found.group(1)
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        self.__exit__()
        raise SystemExit(f"docker-registry did not start: {self.log_path.read_text()[-500:]}")

    def __exit__(self, *_):
        if self.process:
            self.process.kill()
            self.process.wait()

    def blob(self, content):
        """Stores a blob; its digest."""
        digest = hashlib.sha256(content).hexdigest()
        directory = self.data / "blobs/sha256" / digest[:2] / digest
        if not directory.exists():
            directory.mkdir(parents=True)
            (directory / "data").write_bytes(content)
        return "sha256:" + digest

    def image(self, repository, tag, layers):
        """Stores an image of `layers`: (blob, diff_id, kind) with kind "", "+gzip" or "+zstd". Its manifest's digest."""
        repository = self.data / "repositories" / repository

        def link(below, digest):
            path = repository / below / "link"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(digest)

        def entry(media_type, content):
            digest = self.blob(content)
            link(f"_layers/sha256/{digest[7:]}", digest)
            return {"mediaType": media_type, "digest": digest, "size": len(content)}

        config = json.dumps({"architecture": ARCHITECTURE, "os": "linux", "config": {"Cmd": ["/bin/sh"]},
                             "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id, _ in layers]}})
        manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": entry(CONFIG, config.encode()),
                               "layers": [entry(LAYER + kind, blob) for blob, _, kind in layers]})
        digest = self.blob(manifest.encode())
        for below in [f"_manifests/revisions/sha256/{digest[7:]}", f"_manifests/tags/{tag}/current",
                      f"_manifests/tags/{tag}/index/sha256/{digest[7:]}"]:
            link(below, digest)
        return digest

    def requests(self):
        """The requests since the last call: a Counter of `METHOD what`, what being manifests, blobs, tags or api."""
        # The log comes a little after the answer.
        size = -1
        while size != (size := self.log_path.stat().st_size):
            time.sleep(0.2)
        with open(self.log_path, "rb") as log:
            log.seek(self.read)
            lines = log.read().splitlines()
            self.read = log.tell()
        found = collections.Counter()
        for line in lines:
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if str(entry.get("msg", "")).startswith("response completed"):
                    what = re.search(r"/(manifests|blobs|tags)/", entry["http.request.uri"])
                    found[f"{entry['http.request.method']} {what.group(1) if what else 'api'}"] += 1
        return found


def small_layer(number):
    """A layer of one small file that no other number has, as (blob, diff_id, kind)."""
    content = f"layer {number}\n".encode()
    header = bytearray(512)
    name = f"file-{number}".encode()
    header[:len(name)] = name
    for start, text in [(100, b"0000644\0"), (108, b"0000000\0"), (116, b"0000000\0"), (124, b"%011o\0" % len(content)),
                        (136, b"14524500000\0"), (148, b" " * 8), (156, b"0"), (257, b"ustar\00000")]:
        header[start:start + len(text)] = text
    header[148:156] = b"%06o\0 " % sum(header)
    tar = bytes(header) + content.ljust(512, b"\0") + bytes(1024)
    return gzip.compress(tar, 1, mtime=0), "sha256:" + hashlib.sha256(tar).hexdigest(), "+gzip"


# ------------------------------------------------------------------------------------------------- containerd

@contextlib.contextmanager
def containerd(directory):
    """A containerd with everything below `directory`, its socket there as c.sock: the daemon's process id."""
    config = directory / "containerd.toml"
    config.write_text(f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\n'
                      'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
                      f'[grpc]\naddress = "{directory}/c.sock"\n[ttrpc]\naddress = "{directory}/t.sock"\n')
    process = subprocess.Popen(["containerd", "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if subprocess.run(["ctr", "-a", directory / "c.sock", "version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
                break
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


# ------------------------------------------------------------------------------------------------------ disks

class Disk:
    """A directory to measure in; a context manager. For root each `fresh()` is a new ext4 on a loop file, since ext4
    slows down where many inodes were just deleted; for others an empty directory."""

    def __init__(self, directory, size="24G"):
        self.mount = pathlib.Path(directory) / "disk"
        self.image = pathlib.Path(directory) / "disk.img"
        self.size = size
        self.loop, self.left = None, []

    def __enter__(self):
        self.mount.mkdir()
        tools = all(shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") for tool in ["losetup", "mkfs.ext4"])
        if os.geteuid() == 0 and tools:
            self.loop = self._attach()
        return self

    def _attach(self):
        """An empty file as a device; `None` where there are no such devices."""
        self.image.unlink(missing_ok=True)
        subprocess.run(["truncate", "-s", self.size, self.image], check=True)
        attached = subprocess.run(["losetup", "-f", "--show", "--direct-io=on", self.image],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return attached.stdout.strip() if attached.returncode == 0 else None

    @property
    def kind(self):
        return "a fresh ext4 each" if self.loop else "a fresh directory each (no root or no loop device)"

    def _clear(self):
        if self.loop:
            for _ in range(100):
                if not os.path.ismount(self.mount) or subprocess.run(["umount", self.mount], stderr=subprocess.DEVNULL).returncode == 0:
                    break
                time.sleep(0.1)
            else:
                subprocess.run(["umount", "--lazy", self.mount], stderr=subprocess.DEVNULL)
        else:
            shutil.rmtree(self.mount, ignore_errors=True)
            self.mount.mkdir(exist_ok=True)

    def fresh(self):
        self._clear()
        if self.loop:
            # Whoever made a mount namespace in the meantime, as container tools do, still has the old one mounted, and
            # may for long.
            for number in range(100):
                if number and number % 20 == 0:
                    self.left.append(self.loop)
                    self.loop = self._attach() or self.left.pop()
                made = subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,discard", self.loop],
                                      stderr=subprocess.PIPE, text=True)
                if made.returncode == 0:
                    break
                time.sleep(0.1)
            else:
                raise SystemExit(f"cannot make a file system: {made.stderr}")
            subprocess.run(["mount", "-o", "noinit_itable", self.loop, self.mount], check=True)
        return self.mount

    def sync(self):
        """Seconds until the file system is on disk."""
        start = time.monotonic()
        subprocess.run(["sync", "-f", self.mount], check=True)
        return time.monotonic() - start

    def __exit__(self, *_):
        self._clear()
        for loop in filter(None, [self.loop, *self.left]):
            # One that is still mounted somewhere goes with its mount.
            subprocess.run(["losetup", "-d", loop], stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def scratch(where=None):
    """A temporary directory, on a file system with room: not a /tmp in memory."""
    # A script that is told to stop still removes its files and its registry.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = tempfile.mkdtemp(prefix="msb-bench-", dir=where or "/var/tmp")
    try:
        yield pathlib.Path(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
