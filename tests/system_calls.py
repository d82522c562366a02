"""A child process whose every system call that changes the file system is counted, and may be failed or be its last.

Seccomp's user notification (Linux 5.5) hands each call to a supervisor before the kernel runs it, whoever makes it:
Python, Arrow, NumPy or DuckDB, on any thread. So the steps are those that the code really takes, not a list of them.
See seccomp(2), seccomp_unotify(2) and <linux/seccomp.h>.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import platform
import select
import signal
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DESCRIPTOR, PATH, AT_PATH = "descriptor", "path", "path below a directory's descriptor"

# Numbers of x86-64, and which arguments say what is changed: (kind, position), the first one first.
_CALLS: dict[int, tuple[str, tuple[tuple[str, int], ...]]] = {
    1: ("write", ((DESCRIPTOR, 0),)),
    2: ("open", ((PATH, 0),)),
    18: ("pwrite64", ((DESCRIPTOR, 0),)),
    20: ("writev", ((DESCRIPTOR, 0),)),
    40: ("sendfile", ((DESCRIPTOR, 0),)),
    74: ("fsync", ((DESCRIPTOR, 0),)),
    75: ("fdatasync", ((DESCRIPTOR, 0),)),
    76: ("truncate", ((PATH, 0),)),
    77: ("ftruncate", ((DESCRIPTOR, 0),)),
    82: ("rename", ((PATH, 0), (PATH, 1))),
    83: ("mkdir", ((PATH, 0),)),
    84: ("rmdir", ((PATH, 0),)),
    85: ("open", ((PATH, 0),)),
    86: ("link", ((PATH, 1),)),
    87: ("unlink", ((PATH, 0),)),
    88: ("symlink", ((PATH, 1),)),
    90: ("chmod", ((PATH, 0),)),
    91: ("fchmod", ((DESCRIPTOR, 0),)),
    257: ("open", ((AT_PATH, 0),)),
    258: ("mkdir", ((AT_PATH, 0),)),
    263: ("unlink", ((AT_PATH, 0),)),
    264: ("rename", ((AT_PATH, 0), (AT_PATH, 2))),
    265: ("link", ((AT_PATH, 2),)),
    266: ("symlink", ((AT_PATH, 1),)),
    268: ("chmod", ((AT_PATH, 0),)),
    285: ("fallocate", ((DESCRIPTOR, 0),)),
    296: ("pwritev", ((DESCRIPTOR, 0),)),
    316: ("rename", ((AT_PATH, 0), (AT_PATH, 2))),
    326: ("copy_file_range", ((DESCRIPTOR, 2),)),
    328: ("pwritev", ((DESCRIPTOR, 0),)),
}
_FLAGS_OF_OPEN = {2: 1, 257: 2}
_CREAT = 85

_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # id, thread, flags, number, architecture, instruction, arguments
_ANSWER = struct.Struct("=QqiI")  # id, value, error, flags
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Call:
    """One system call that is about to change what `paths` name; a rename has two, from and to."""

    name: str
    paths: tuple[Path, ...]
    creates: bool  # whether it needs a new inode: a file that is not there, a directory, a link


@dataclass(frozen=True)
class Outcome:
    """How the child ended: killed, or with an error (its type and words), or well if that is None."""

    killed: bool
    error: tuple[str, str] | None
    calls: tuple[Call, ...]


Decision = Callable[[int, Call], int]
"""From a call's number and the call: 0 to let it be, an errno to fail it with, KILL to kill the process before it."""

KILL = -1


def supervised(work: Callable[[], object], root: Path, decide: Decision = lambda number, call: 0) -> Outcome:
    """Run `work` in a fork of this process; `decide` is asked about each call that would change something in `root`."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise NotImplementedError(f"expected Linux on x86-64 to count system calls, got {platform.platform()}")
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        _run(work, theirs)
    theirs.close()
    with ours:
        _, (listener, *_), _, _ = socket.recv_fds(ours, 1, 1)
        try:
            calls = _supervise(child, listener, root, decide)
        finally:
            os.close(listener)
        told = b"".join(iter(lambda: ours.recv(65536), b""))
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or told, f"the child ended with status {status} and said nothing"
    error = json.loads(told) if told else None
    return Outcome(killed, tuple(error) if error else None, tuple(calls))


def _run(work: Callable[[], object], supervisor: socket.socket) -> None:
    """The child: install the filter, hand its listener over, work, tell, and end without unwinding."""
    try:
        listener = _install_filter()
        socket.send_fds(supervisor, [b"-"], [listener])
        os.close(listener)
        error = None
        try:
            work()
        except BaseException as raised:
            error = [type(raised).__name__, str(raised)]
        supervisor.sendall(json.dumps(error).encode())
    finally:
        os._exit(0)


def _install_filter() -> int:
    """A filter that notifies of the calls above and allows the others; the descriptor that the notices come from."""
    jump, back = 0x15, 0x06  # BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
    instruction = struct.Struct("=HBBI")
    code = [instruction.pack(0x20, 0, 0, 0)]  # load the call's number
    code += [instruction.pack(jump, len(_CALLS) - at, 0, number) for at, number in enumerate(_CALLS)]
    code += [instruction.pack(back, 0, 0, 0x7FFF0000), instruction.pack(back, 0, 0, 0x7FC00000)]  # ALLOW, USER_NOTIF
    program = ctypes.create_string_buffer(b"".join(code))
    told = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_mode_filter, new_listener, seccomp = 38, 1, 1 << 3, 317
    if libc.prctl(no_new_privileges, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    listener = int(libc.syscall(seccomp, set_mode_filter, new_listener, told))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return listener


def _supervise(child: int, listener: int, root: Path, decide: Decision) -> list[Call]:
    calls: list[Call] = []
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        (_, event), *_ = poll.poll()
        if not event & select.POLLIN:
            return calls  # hung up: nobody is left who runs under the filter
        notice = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, notice)
        except FileNotFoundError:
            continue  # the thread was killed meanwhile
        identity, thread, _, number, _, _, *arguments = _NOTIFICATION.unpack(notice)
        call = _call(thread, number, arguments)
        decision = 0
        if call is not None and any(root in (path, *path.parents) for path in call.paths):
            decision = decide(len(calls), call)
            calls.append(call)
        if decision == KILL:
            os.kill(child, signal.SIGKILL)
            continue
        answer = _ANSWER.pack(identity, 0, -decision, 0 if decision else _CONTINUE)
        fcntl.ioctl(listener, _SEND, answer)


def _call(thread: int, number: int, arguments: list[int]) -> Call | None:
    """The call, if it changes files; None for opening to read, and for pipes and sockets."""
    name, changed = _CALLS[number]
    if number in _FLAGS_OF_OPEN and not arguments[_FLAGS_OF_OPEN[number]] & _WRITES:
        return None
    paths = [_path(thread, kind, arguments[at:]) for kind, at in changed]
    if not all(path.startswith("/") for path in paths):
        return None
    created = name in {"mkdir", "link", "symlink"} or (name == "open" and not os.path.lexists(paths[0]))
    return Call(name, tuple(Path(path) for path in paths), created)


def _path(thread: int, kind: str, arguments: list[int]) -> str:
    if kind == DESCRIPTOR:
        return os.readlink(f"/proc/{thread}/fd/{arguments[0]}")
    path = _text(thread, arguments[1 if kind == AT_PATH else 0])
    if path.startswith("/"):
        return path
    descriptor = ctypes.c_int(arguments[0]).value
    at_here = kind == PATH or descriptor == -100  # AT_FDCWD
    return os.path.join(os.readlink(f"/proc/{thread}/cwd" if at_here else f"/proc/{thread}/fd/{descriptor}"), path)


def _text(thread: int, address: int) -> str:
    """The text that ends with a zero byte at `address` of the thread's memory, read page by page."""
    page, text = 4096, b""
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        while b"\0" not in text:
            memory.seek(address + len(text))
            text += memory.read(page - (address + len(text)) % page)
    return os.fsdecode(text.partition(b"\0")[0])
