#!/usr/bin/env python3
"""Records a terminal session of msb-sync and draws it: docs/session.svg, the picture in the README.

    docs/recording.py [PROGRAM] [--output FILE] [--width COLUMNS]
    docs/recording.py --self-test

PROGRAM is target/release/msb-sync unless given. A shell runs in a pseudo-terminal and gets keys as a person types them. The
images come from a registry that this script serves on loopback, over a line that it slows down. What the shell and the
program print is read by a small terminal here, several times a second; the screens that differ become the frames of an SVG
that needs nothing else: no script, no font, no other file. Readers who want no motion see the last frame.
"""

import argparse
import codecs
import fcntl
import gzip
import hashlib
import http.server
import io
import json
import os
import pty
import random
import re
import select
import struct
import sys
import tarfile
import tempfile
import termios
import threading
import time
import unicodedata
from html import escape

HERE = os.path.dirname(os.path.abspath(__file__))
REGISTRY = "registry.corp"
IMAGES_FILE = f"""\
[registry."{REGISTRY}"]
images = ["base/python:3.12", "team/api:v1.8", "team/worker:v1.8"]
"""
COMMANDS = ["cat images.toml", "msb-sync plan", "msb-sync apply", "msb-sync verify", "msb-sync apply"]
LINE = 5 << 20  # bytes a second
ROWS = 36
LARGEST = 60_000  # bytes of the picture

# ------------------------------------------------------------------------------------------------ the registry


def layer(seed, mebibytes):
    """A layer of files that do not compress, as a gzipped tar."""
    draw = random.Random(seed)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for number in range(mebibytes * 4):
            entry = tarfile.TarInfo(f"usr/share/{seed}/{number}")
            entry.size = 256 << 10
            tar.addfile(entry, io.BytesIO(draw.randbytes(entry.size)))
    return raw.getvalue()


class Images:
    """What the registry serves: blobs by digest, manifests by repository and by tag or digest."""

    def __init__(self):
        self.blobs, self.manifests = {}, {}
        base = [layer("base", 9), layer("python", 5), layer("pip", 2)]
        self.image("base/python", "3.12", base)
        self.image("team/api", "v1.8", [*base, layer("api", 4)])
        self.image("team/worker", "v1.8", [*base, layer("worker", 3), layer("jobs", 1)])

    def blob(self, media_type, data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def image(self, repository, tag, layers):
        kind = "application/vnd.oci.image."
        config = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
            "os": "linux",
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 86400 * 9)),
            "config": {},
            "rootfs": {
                "type": "layers",
                "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest() for tar in layers],
            },
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": kind + "manifest.v1+json",
            "config": self.blob(kind + "config.v1+json", json.dumps(config).encode()),
            "layers": [
                self.blob(kind + "layer.v1.tar+gzip", gzip.compress(tar, 1, mtime=0)) for tar in layers
            ],
        }
        body = json.dumps(manifest).encode()
        for name in (tag, "sha256:" + hashlib.sha256(body).hexdigest()):
            self.manifests[repository, name] = body


def serve(images):
    """Serves `images` on a port of loopback, all connections together at LINE bytes a second; the server."""
    line = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            found = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/?]+)(\?.*)?", self.path)
            body, media_type = None, "application/octet-stream"
            if found and found[2] == "manifests":
                body = images.manifests.get((found[1], found[3]))
                media_type = "application/vnd.oci.image.manifest.v1+json"
            elif found:
                body = images.blobs.get(found[3])
            self.send_response(200 if body is not None else 404)
            body = body or b""
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            if media_type != "application/octet-stream":
                self.send_header("Docker-Content-Digest", "sha256:" + hashlib.sha256(body).hexdigest())
            self.end_headers()
            if self.command == "HEAD":
                return
            piece = 32 << 10
            for start in range(0, len(body), piece):
                with line:
                    time.sleep(min(piece, len(body) - start) / LINE)
                self.wfile.write(body[start : start + piece])

        do_HEAD = do_GET

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


# ------------------------------------------------------------------------------------------------ the terminal


class Terminal:
    """As much of a terminal as shells and progress bars use. A cell is a pair of text and style."""

    EMPTY = (" ", "")
    SEQUENCE = re.compile(r"\x1b(?:\[([?>=]?)([0-9;]*)([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-B]|[=>78cM])")

    def __init__(self, columns, rows):
        self.columns, self.rows = columns, rows
        self.cells = [[self.EMPTY] * columns for _ in range(rows)]
        self.row = self.column = 0
        self.style = ()
        self.wraps = False
        self.pending = ""

    def feed(self, text):
        text, self.pending = self.pending + text, ""
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                self.put(text[at])
                at += 1
            elif found := self.SEQUENCE.match(text, at):
                if found[3]:
                    self.control(found[1], found[2], found[3])
                at = found.end()
            elif len(text) - at < 64:
                self.pending = text[at:]
                return
            else:
                at += 1

    def put(self, letter):
        if letter == "\n":
            self.wraps = False
            self.down()
        elif letter == "\r":
            self.column, self.wraps = 0, False
        elif letter == "\b":
            self.column = max(0, self.column - 1)
        elif letter == "\t":
            self.column = min(self.columns - 1, (self.column // 8 + 1) * 8)
        elif letter >= " ":
            width = 2 if unicodedata.east_asian_width(letter) in "WF" else 1
            if self.wraps or self.column + width > self.columns:
                self.column, self.wraps = 0, False
                self.down()
            self.cells[self.row][self.column] = (letter, " ".join(self.style))
            for further in range(1, width):
                self.cells[self.row][self.column + further] = ("", "")
            self.column += width
            if self.column >= self.columns:
                self.column, self.wraps = self.columns - 1, True

    def down(self):
        if self.row + 1 < self.rows:
            self.row += 1
        else:
            self.cells = [*self.cells[1:], [self.EMPTY] * self.columns]

    def control(self, private, parameters, letter):
        numbers = [int(number or 0) for number in parameters.split(";")]
        count = max(1, numbers[0])
        if private:
            return
        if letter != "m":
            self.wraps = False
        if letter == "A":
            self.row = max(0, self.row - count)
        elif letter == "B":
            self.row = min(self.rows - 1, self.row + count)
        elif letter == "C":
            self.column = min(self.columns - 1, self.column + count)
        elif letter == "D":
            self.column = max(0, self.column - count)
        elif letter == "E":
            self.row, self.column = min(self.rows - 1, self.row + count), 0
        elif letter == "F":
            self.row, self.column = max(0, self.row - count), 0
        elif letter == "G":
            self.column = min(self.columns, count) - 1
        elif letter in "Hf":
            self.row = min(self.rows, count) - 1
            self.column = min(self.columns, max(1, numbers[1] if len(numbers) > 1 else 1)) - 1
        elif letter == "K":
            self.erase(self.row, numbers[0])
        elif letter == "J":
            self.erase(self.row, numbers[0])
            others = {0: range(self.row + 1, self.rows), 1: range(self.row)}.get(numbers[0], range(self.rows))
            for row in others:
                self.cells[row] = [self.EMPTY] * self.columns
        elif letter == "m":
            self.select(numbers)

    def erase(self, row, how):
        start = self.column if how == 0 else 0
        end = self.column + 1 if how == 1 else self.columns
        self.cells[row][start:end] = [self.EMPTY] * (end - start)

    def select(self, numbers):
        """SGR: bold, dim, and the sixteen colours; of richer ones only that they come first."""
        names = {1: "b", 2: "d", **{30 + n: f"c{n}" for n in range(8)}, **{90 + n: f"c{n}" for n in range(8)}}
        style = list(self.style)
        numbers = iter(numbers)
        for number in numbers:
            if number == 0:
                style = []
            elif number == 22:
                style = [name for name in style if name not in "bd"]
            elif number == 39 or number in names:
                if number == 39 or number >= 30:
                    style = [name for name in style if name[0] != "c"]
                style += [names[number]] if number in names else []
            elif number in (38, 48) and next(numbers, 0) == 5:
                index = next(numbers, 0)
                if number == 38:
                    style = [name for name in style if name[0] != "c"]
                    style += [f"c{index % 8}"] if index < 16 else ["d"] if 232 <= index < 250 else []
        self.style = tuple(dict.fromkeys(style))

    def screen(self):
        """The rows down to the last one with text, and the cursor's place."""
        rows = [tuple(row) for row in self.cells]
        while rows and all(cell == self.EMPTY for cell in rows[-1]):
            rows.pop()
        return tuple(rows), (self.row, self.column)


# --------------------------------------------------------------------------------------------------- recording


def record(program, columns):
    """Plays the session; its frames, as pairs of the second at which they begin and the screen."""
    with tempfile.TemporaryDirectory(prefix="msb-sync-recording-") as directory:
        server = serve(Images())
        home, bin_directory = os.path.join(directory, "home"), os.path.join(directory, "bin")
        for path in (home, bin_directory):
            os.mkdir(path, 0o700)
        os.symlink(os.path.abspath(program), os.path.join(bin_directory, "msb-sync"))
        with open(os.path.join(directory, "images.toml"), "w", encoding="utf-8") as file:
            file.write(IMAGES_FILE)
        with open(os.path.join(home, "registries.toml"), "w", encoding="utf-8") as file:
            file.write(f'[registry."{REGISTRY}"]\nendpoint = "http://127.0.0.1:{server.server_port}"\n')
        child, terminal = pty.fork()
        if child == 0:
            os.chdir(directory)
            os.execvpe(
                "sh",
                ["sh", "-i"],
                {
                    "PATH": bin_directory + ":/usr/bin:/bin",
                    "HOME": home,
                    "MICROSANDBOX_HOME": home,
                    "TERM": "xterm-256color",
                    "LANG": "C.UTF-8",
                    "PS1": "$ ",
                },
            )
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        try:
            return play(terminal, Terminal(columns, ROWS))
        finally:
            os.close(terminal)
            os.waitpid(child, 0)
            server.shutdown()


def play(master, terminal):
    start, frames = time.monotonic(), []
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def watch(seconds, until=lambda: False):
        """Reads what is printed, for a while or until a condition holds, and notes each screen that is new."""
        end = time.monotonic() + seconds
        while not until() and (left := end - time.monotonic()) > 0:
            if select.select([master], [], [], min(left, 0.02))[0]:
                try:
                    terminal.feed(decode(os.read(master, 1 << 16)))
                except OSError:
                    return
            now = time.monotonic() - start
            if not frames or (frames[-1][1] != terminal.screen() and now - frames[-1][0] > 0.24):
                frames.append((now, terminal.screen()))

    def at_prompt():
        row = "".join(text for text, _ in terminal.cells[terminal.row])
        return row.strip() == "$" and terminal.column == 2

    watch(10, at_prompt)
    for command in COMMANDS:
        watch(0.6)
        for letter in command:
            os.write(master, letter.encode())
            watch(0.04)
        watch(0.5)
        os.write(master, b"\n")
        watch(0.15)
        watch(120, at_prompt)
        if not at_prompt():
            sys.exit(f"{command}: no prompt after two minutes")
        frames.append((time.monotonic() - start, terminal.screen()))
        watch(1.6)
    os.write(master, b"\x04")
    return frames


# ----------------------------------------------------------------------------------------------------- drawing

CELL, HEIGHT, PAD, STILL = 8.4, 18, 16, 6.0
STYLE = """\
:root{--p:#f6f8fa;--l:#d0d7de;--t:#1f2328;--d:#656d76;--c1:#cf222e;--c2:#116329;--c3:#7d4e00;--c4:#0550ae;--c5:#8250df;--c6:#1b7c83}
@media (prefers-color-scheme:dark){:root{--p:#0d1117;--l:#30363d;--t:#e6edf3;--d:#8d96a0;--c1:#ff7b72;--c2:#7ee787;--c3:#e3b341;\
--c4:#79c0ff;--c5:#d2a8ff;--c6:#76e3ea}}
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:var(--t);white-space:pre}
.b{font-weight:600}.d,.c0{fill:var(--d)}.c1{fill:var(--c1)}.c2{fill:var(--c2)}.c3{fill:var(--c3)}.c4{fill:var(--c4)}.c5{fill:var(--c5)}.c6{fill:var(--c6)}
"""


def line(cells):
    """One row as SVG text, in runs of one style; nothing for an empty row."""
    while cells and cells[-1] == Terminal.EMPTY:
        cells = cells[:-1]
    if not cells:
        return None
    runs = []
    for text, style in cells:
        # A blank looks the same in every style.
        if runs and (runs[-1][1] == style or not text.strip()):
            runs[-1][0] += text
        else:
            runs.append([text, style])
    body = "".join(
        f'<tspan class="{style}">{escape(text, False)}</tspan>' if style else escape(text, False) for text, style in runs
    )
    return f'textLength="{len(cells) * CELL:.4g}" xml:space="preserve">{body}'


def thinned(frames):
    """The frames without the one that is shown for the shortest time; a prompt's frames are shown long."""
    gaps = [(later[0] - frame[0], place) for place, (frame, later) in enumerate(zip(frames, frames[1:]))]
    del frames[min(gaps)[1]]
    return frames


def draw(frames, columns):
    """An SVG that shows the frames one after the other, and the last one for some seconds."""
    frames = [frame for place, frame in enumerate(frames) if not place or frames[place - 1][1] != frame[1]]
    # The window follows the text; it is as high as the screen ever got.
    height = max(max(len(rows), cursor[0] + 1) for _, (rows, cursor) in frames)
    width = columns * CELL + 2 * PAD
    total = frames[-1][0] - frames[0][0] + STILL
    lines, film, steps = {}, [], []
    for number, (second, (rows, (row, column))) in enumerate(frames):
        uses = "".join(
            f'<use href="#{lines.setdefault(text, f"l{len(lines)}")}" y="{at * HEIGHT}"/>'
            for at, cells in enumerate(rows)
            if (text := line(cells))
        )
        cursor = f'<use href="#k" x="{column * CELL:.4g}" y="{row * HEIGHT}"/>'
        film.append(f'<g transform="translate({number * width:.5g})">{uses}{cursor}</g>')
        steps.append(f"{100 * (second - frames[0][0]) / total:.2f}%{{transform:translateX({-number * width:.5g}px)}}")
    last = f"translateX({-(len(frames) - 1) * width:.5g}px)"
    outer = height * HEIGHT + 2 * PAD
    said = "\n".join("".join(text for text, _ in row).rstrip() for row in frames[-1][1][0])
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.5g} {outer}" width="{width:.5g}" height="{outer}" role="img">
<title>A terminal session of msb-sync</title>
<desc>{escape(said, False)}</desc>
<style>
{STYLE}.f{{animation:f {total:.2f}s step-end infinite}}
@keyframes f{{{"".join(steps)}100%{{transform:{last}}}}}
@media (prefers-reduced-motion:reduce){{.f{{animation:none;transform:{last}}}}}
</style>
<defs>
<rect id="k" width="{CELL}" height="{HEIGHT}" style="fill:var(--d);opacity:.5"/>
{chr(10).join(f'<text id="{name}" y="14" {text}</text>' for text, name in lines.items())}
</defs>
<rect x=".5" y=".5" width="{width - 1:.5g}" height="{outer - 1}" rx="8" style="fill:var(--p);stroke:var(--l)"/>
<svg x="{PAD}" y="{PAD}" width="{width - 2 * PAD:.5g}" height="{height * HEIGHT}"><g class="f">
{chr(10).join(film)}
</g></svg>
</svg>
"""


def self_test():
    terminal = Terminal(10, 3)
    terminal.feed("one\r\n\x1b[1;32mtwo\x1b[0m three four")
    text = ["".join(text for text, _ in row).rstrip() for row in terminal.screen()[0]]
    assert text == ["one", "two three", "four"], text
    assert terminal.cells[1][0] == ("t", "b c2") and terminal.cells[1][4] == ("t", ""), terminal.cells[1]
    terminal.feed("\x1b[2A\x1b[2K\r\x1b[")
    terminal.feed("?25lnew\x1b[1B\r\x1b[J")
    text = ["".join(text for text, _ in row).rstrip() for row in terminal.screen()[0]]
    assert text == ["new"], text
    terminal.feed("\r\n\n\n\x1b[38;5;8mx")
    assert terminal.screen()[0][2][0] == ("x", "c0") and terminal.screen()[1] == (2, 1), terminal.screen()
    svg = draw([(0.0, (((("<", ""), ("&", "b")),), (0, 2))), (1.0, ((), (0, 0)))], 10)
    assert "&lt;<tspan class=\"b\">&amp;</tspan>" in svg and svg.count("<g transform") == 2, svg
    print("ok")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", default=os.path.join(HERE, "../target/release/msb-sync"))
    parser.add_argument("--output", default=os.path.join(HERE, "session.svg"))
    parser.add_argument("--width", type=int, default=80, help="columns")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    frames = record(arguments.program, arguments.width)
    svg = draw(frames, arguments.width)
    while len(svg.encode()) > LARGEST:
        frames = thinned(frames)
        svg = draw(frames, arguments.width)
    with open(arguments.output, "w", encoding="utf-8") as file:
        file.write(svg)
    print(f"{arguments.output}: {len(svg.encode())} bytes")


if __name__ == "__main__":
    main()
