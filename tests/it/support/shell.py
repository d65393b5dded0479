"""A shell as a user has it, in a pseudo-terminal, with the completions of msb-sync loaded.

    shell.py bash|zsh|fish < LINES

Each line is typed, and a tab after it; what stands on the command line then is printed.
"""

import os
import pty
import re
import select
import sys
import time

# A key shows the command line between two marks, and empties it. The marks are not in the text that is typed.
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        "source <(msb-sync completions bash); bind 'set enable-bracketed-paste off'; "
        r"""show() { printf '\074\074%s\076\076\n' "$READLINE_LINE"; READLINE_LINE=; READLINE_POINT=0; }; """
        r"""bind -x '"\C-x": show'; echo READY$((1+1))""",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        "unset zle_bracketed_paste; autoload -Uz compinit; compinit -D -u; source <(msb-sync completions zsh); "
        r"""show() { zle -I; print -r -- $'\074\074'"$BUFFER"$'\076\076'; BUFFER=; }; zle -N show; """
        r"""bindkey '^X' show; echo READY$((1+1))""",
    ),
    "fish": (
        ["fish", "--no-config", "--interactive"],
        "msb-sync completions fish | source; "
        r"""bind \cx "printf '\074\074%s\076\076\n' (commandline); commandline ''"; echo READY(math 1+1)""",
    ),
}


class Terminal:
    """A program in a pseudo-terminal."""

    def __init__(self, arguments):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvp(arguments[0], arguments)

    def until(self, pattern):
        """What matches in the output from here on."""
        seen, end = "", time.monotonic() + 30
        while not (match := re.search(pattern, seen)):
            if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
                sys.exit(f"no {pattern} in {seen!r}")
            seen += os.read(self.fd, 4096).decode(errors="replace")
        return match

    def type(self, text):
        os.write(self.fd, text.encode())


def main():
    arguments, setup = SHELLS[sys.argv[1]]
    terminal = Terminal(arguments)
    terminal.type(setup + "\r")
    terminal.until("READY2")
    for line in sys.stdin.read().splitlines():
        terminal.type(line + "\t\x18")
        print(terminal.until("<<(.*?)>>").group(1), flush=True)


main()
