"""What programs do all day, and what a store of which only a part can be used may break. One line for each: name, and
`ok` or what came instead."""

import ctypes
import errno
import fcntl
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile

STORE = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def write(path, text="text"):
    with open(path, "w") as file:
        file.write(text)
    return path


def read(path):
    with open(path) as file:
        return file.read()


def folders(root):
    base = tempfile.mkdtemp(dir=root)
    for name in ("one", "two"):
        os.mkdir(f"{base}/{name}")
    return f"{base}/one", f"{base}/two"


def run(*argv):
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def rename_across(root):
    one, two = folders(root)
    os.rename(write(one + "/file"), two + "/file")
    os.mkdir(one + "/folder")
    os.rename(one + "/folder", two + "/folder")
    return read(two + "/file")


def exchange(root):
    one, two = folders(root)
    write(one + "/file", "first")
    write(two + "/file", "second")
    check(libc.renameat2(-100, (one + "/file").encode(), -100, (two + "/file").encode(), 2))
    assert read(one + "/file") == "second"


def link_across(root):
    one, two = folders(root)
    os.link(write(one + "/file"), two + "/file")
    return read(two + "/file")


def nameless(root):
    one, two = folders(root)
    descriptor = os.open(one, os.O_TMPFILE | os.O_RDWR)
    os.write(descriptor, b"text")
    by_number = f"/proc/self/fd/{descriptor}".encode()
    check(libc.linkat(-100, by_number, -100, (two + "/file").encode(), 0x400))
    return read(two + "/file")


def reopen_deleted():
    descriptor = os.open(write("/tmp/deleted"), os.O_RDONLY)
    os.unlink("/tmp/deleted")
    assert read(f"/proc/self/fd/{descriptor}") == "text"


def reopen_pipe():
    reader, writer = os.pipe()
    with open(f"/proc/self/fd/{writer}", "w") as again:
        again.write("text")
    assert os.read(reader, 4) == b"text"


def memory_file():
    descriptor = os.memfd_create("program")
    os.write(descriptor, b"#!/bin/sh\nexit 7\n")
    os.fchmod(descriptor, 0o755)
    assert subprocess.run([f"/proc/self/fd/{descriptor}"], pass_fds=[descriptor]).returncode == 7
    assert mmap.mmap(descriptor, 4)[:2] == b"#!"


def sockets():
    for address in ("/tmp/socket", "\0of-the-sandbox"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
        client = socket.socket(socket.AF_UNIX)
        client.connect(address)
        descriptor = os.open("/usr/bin/env", os.O_RDONLY)
        socket.send_fds(client, [b"x"], [descriptor])
        assert len(socket.recv_fds(listener.accept()[0], 1, 1)[1]) == 1


def watch():
    descriptor = check(libc.inotify_init1(0))
    check(libc.inotify_add_watch(descriptor, b"/workspace", 0x100))
    write("/workspace/watched")
    assert select.select([descriptor], [], [], 10)[0]
    assert b"watched" in os.read(descriptor, 4096)


def trace():
    """Attach to a child, read its memory, let it go."""
    child = subprocess.Popen(["sleep", "100"])
    try:
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        check(libc.ptrace(0x4206, child.pid, None, None))
        check(libc.ptrace(0x4207, child.pid, None, None))
        os.waitpid(child.pid, 0x40000000)
        with open(f"/proc/{child.pid}/maps") as maps:
            start = int(maps.readline().split("-")[0], 16)
        with open(f"/proc/{child.pid}/mem", "rb") as memory:
            memory.seek(start)
            assert memory.read(4) == b"\x7fELF"
        check(libc.ptrace(17, child.pid, None, None))
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


def processes():
    child = subprocess.Popen(["sleep", "100"])
    # For a moment after execve there is none.
    while not (line := read(f"/proc/{child.pid}/cmdline")):
        pass
    assert line.startswith("sleep"), line
    with open(f"/proc/{child.pid}/exe", "rb") as program:
        assert program.read(4) == b"\x7fELF"
    child.terminate()
    assert child.wait() == -signal.SIGTERM, child.returncode


def landlock(allowed):
    """A domain in the child: only these paths can be read."""
    attributes = (ctypes.c_uint64 * 1)(0b1101)
    rules = check(libc.syscall(444, attributes, 8, 0))

    class Rule(ctypes.Structure):
        _pack_ = 1
        _fields_ = [("access", ctypes.c_uint64), ("parent", ctypes.c_int)]

    for path in allowed:
        rule = Rule(0b1101, os.open(path, os.O_PATH))
        check(libc.syscall(445, rules, 1, ctypes.byref(rule), 0))
    check(libc.prctl(38, 1, 0, 0, 0))
    check(libc.syscall(446, rules, 0))


def in_child(action):
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException as error:
            print("in a child:", repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def own_landlock():
    """As agents do that sandbox their tools with it: everything may be read, or hardly anything."""

    def all_may_be_read():
        landlock(["/"])
        read("/etc/passwd")
        read(STORE + "/bbb-file")
        run(STORE + "/aaa-tool/bin/tool")

    def little_may_be_read():
        landlock(["/workspace"])
        write("/workspace/mine")
        read("/workspace/mine")
        for path in ("/etc/passwd", STORE + "/bbb-file"):
            try:
                read(path)
            except PermissionError:
                continue
            raise AssertionError(f"{path} can be read")

    in_child(all_may_be_read)
    in_child(little_may_be_read)


def many_domains():
    """The kernel stacks sixteen; ours is one."""

    def stack():
        for _ in range(15):
            landlock(["/"])

    in_child(stack)


def locks():
    with open(write("/workspace/locked"), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX)


def terminal():
    leader, follower = os.openpty()
    again = os.open(os.ttyname(follower), os.O_RDWR | os.O_NOCTTY)
    os.write(leader, b"x\n")
    assert os.read(again, 2) == b"x\n"


def shared_memory():
    write("/dev/shm/page")
    run("sh", "-c", "echo x > /dev/shm/other; cat /dev/shm/page; mkfifo /tmp/fifo; cat < /tmp/fifo & echo y > /tmp/fifo; wait")


def new_folders():
    os.makedirs("/tmp/new/deep", exist_ok=True)
    write("/tmp/new/deep/script", "#!/bin/sh\nexit 0\n")
    os.chmod("/tmp/new/deep/script", 0o755)
    run("/tmp/new/deep/script")
    run("ls", "/tmp/new/deep", "/usr/bin", "/etc", "/home", "/dev", "/proc", "/run", "/workspace", "/home/sandbox")


def of_the_closure():
    run(STORE + "/aaa-tool/bin/tool")
    run("sh", STORE + "/aaa-tool/bin/tool")
    assert read(STORE + "/bbb-file") == read(STORE + "/ccc-link") == "a file\n"
    assert os.listdir(STORE + "/aaa-tool") == ["bin"]
    assert os.path.realpath(STORE + "/ccc-link") == STORE + "/bbb-file"
    os.chdir(STORE + "/aaa-tool/bin")
    assert os.getcwd() == STORE + "/aaa-tool/bin"
    run("./tool")
    os.chdir("/")


def ways_to_the_root():
    os.chdir("/")
    os.stat("/"), os.stat(os.path.dirname(STORE))
    assert os.path.realpath(".") == os.getcwd() == "/"
    descriptor = os.open("/", os.O_PATH | os.O_DIRECTORY)
    os.close(os.open("usr/bin/env", os.O_RDONLY, dir_fd=descriptor))
    run("sh", "-c", f"cd / && cd $(dirname {STORE}) && pwd && [ -d {STORE} ]")


def git():
    run("sh", "-c", "cd /workspace && git init -q repo && cd repo && echo x > f && git add f &&"
        " git -c user.name=x -c user.email=x commit -qm x && git clone -q . ../clone && git -C ../clone gc -q")


def denied(action):
    try:
        action()
        return "works"
    except OSError as error:
        return errno.errorcode[error.errno]


TESTS = [(f"{what.__name__} in {root}", what, root) for what in (rename_across, exchange, link_across, nameless)
         for root in ("/tmp", "/workspace", "/home/sandbox", "/dev/shm")]
TESTS += [(what.__name__, what) for what in (
    reopen_deleted, reopen_pipe, memory_file, sockets, watch, trace, processes, own_landlock, many_domains, locks,
    terminal, shared_memory, new_folders, of_the_closure, ways_to_the_root, git)]
for name, test, *args in TESTS:
    try:
        test(*args)
        print(name, "ok", sep=": ", flush=True)
    except BaseException as error:
        print(name, repr(error), sep=": ", flush=True)

# What can be learned of the rest, and what it costs to keep it: written down in docs/store.md.
OTHER = STORE + "/xxx-other"


def watched(path):
    check(libc.inotify_add_watch(check(libc.inotify_init1(0)), path.encode(), 0xFFF))


LEARNED = {
    "list /": lambda: os.listdir("/"),
    "list the store's parent": lambda: os.listdir(os.path.dirname(STORE)),
    "list the store": lambda: os.listdir(STORE),
    "list another package": lambda: os.listdir(OTHER),
    "read another package": lambda: read(OTHER + "/secret"),
    "stat another package": lambda: os.stat(OTHER + "/secret"),
    "follow another package's link": lambda: os.readlink(OTHER + "/link"),
    "enter another package": lambda: (os.chdir(OTHER), os.chdir("/")),
    "watch the store": lambda: watched(STORE),
    "watch another package": lambda: watched(OTHER),
}
for name, action in LEARNED.items():
    print("learned", name, denied(action), sep="\t", flush=True)
