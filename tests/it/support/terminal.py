"""Runs a program in a terminal of its own: terminal.py COLUMNS ROWS PLAN PROGRAM ARGUMENTS...

The plan is a JSON list of [TEXT, ACTION]: when the program has written TEXT since the last action, ACTION is done.
`^C` is typed once all that was written is read, as people type who see what there is: the kernel drops the rest.
`COLUMNSxROWS` is the new size. All that the program writes goes to standard output as it is, with
`<COLUMNSxROWS>` where the size changed. Exits as the program did.
"""

import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios

columns, rows, plan = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])


def resize(columns, rows):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


ready, go = os.pipe()
pid, terminal = pty.fork()
if pid == 0:
    os.close(go)
    os.read(ready, 1)
    os.execv(sys.argv[4], sys.argv[4:])
resize(columns, rows)
os.close(ready)
os.close(go)
seen = b""
is_typing = False
while True:
    if is_typing and not select.select([terminal], [], [], 0)[0]:
        os.write(terminal, b"\x03")
        is_typing = False
    try:
        read = os.read(terminal, 65536)
    except OSError:
        break
    if not read:
        break
    seen += read
    sys.stdout.buffer.write(read)
    if plan and plan[0][0].encode() in seen:
        action, seen = plan.pop(0)[1], b""
        if action == "^C":
            is_typing = True
        else:
            resize(*map(int, action.split("x")))
            sys.stdout.buffer.write(f"<{action}>".encode())
sys.stdout.buffer.flush()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
