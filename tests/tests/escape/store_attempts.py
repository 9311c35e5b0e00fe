"""Ways to a package of the store that is not in the closure. One line for each: name, outcome, detail, and what a store
that is there as a whole makes of it (`open` proves that the attempt works where nothing prevents it)."""

import ctypes
import glob
import mmap
import os
import shutil
import socket
import subprocess
import sys

STORE = sys.argv[1]
# Backwards, so that looking for it does not bring it about.
SECRET = sys.argv[2][::-1]
OTHER, FILE, ELF = STORE + "/xxx-other", STORE + "/yyy-file", STORE + "/zzz-elf/bin/true"
libc = ctypes.CDLL(None, use_errno=True)


def read(path):
    with open(path) as file:
        return file.read()


def output(*argv, **more):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    if done.returncode != 0 and not done.stdout:
        raise OSError(f"exit {done.returncode}: {done.stderr}")
    return done.stdout


def in_child(action):
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def through(descriptor, path):
    return os.fdopen(os.open(path, os.O_RDONLY, dir_fd=descriptor)).read()


def o_path(path):
    return os.open(path, os.O_PATH | os.O_CLOEXEC)


def linked(target):
    link = "/tmp/link"
    if os.path.lexists(link):
        os.unlink(link)
    os.symlink(target, link)
    return link


def mapped():
    with open(FILE) as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        return memory[:].decode()


def passed():
    """A descriptor that another process opened, through a socket."""
    ours, theirs = socket.socketpair()
    in_child(lambda: socket.send_fds(theirs, [b"x"], [os.open(FILE, os.O_RDONLY)]))
    theirs.close()
    _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise OSError("nothing was opened")
    return os.fdopen(descriptors[0]).read()


def through_another_root():
    other = subprocess.Popen(["sleep", "10"])
    try:
        return read(f"/proc/{other.pid}/root" + FILE)
    finally:
        other.kill()
        other.wait()


def own_rules():
    """A Landlock domain of our own that allows what the outer one does not."""
    attributes = (ctypes.c_uint64 * 1)(0b1101)
    rules = libc.syscall(444, attributes, 8, 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "no Landlock")

    class Rule(ctypes.Structure):
        _pack_ = 1
        _fields_ = [("access", ctypes.c_uint64), ("parent", ctypes.c_int)]

    for path in ("/", OTHER):
        if libc.syscall(445, rules, 1, ctypes.byref(Rule(0b1101, o_path(path))), 0) != 0:
            raise OSError(ctypes.get_errno(), "no rule")

    def confined():
        ok = libc.syscall(446, rules, 0) == 0
        with open("/tmp/own-rules", "w") as file:
            file.write(read(OTHER + "/secret") if ok else "no domain")

    in_child(confined)
    return read("/tmp/own-rules")


def descriptor_exec():
    os.set_inheritable(descriptor := o_path(ELF), True)
    return SECRET if in_child(lambda: os.execve(descriptor, [ELF], {})) == 0 else ""


def runs(*argv, **more):
    """A program whose success is what counts."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    return SECRET if done.returncode == 0 and not done.stderr else done.stderr


def script_with(interpreter):
    path = "/tmp/script"
    with open(path, "w") as file:
        file.write(f"#!{interpreter}\n")
    os.chmod(path, 0o755)
    return runs(path)


def loader():
    return glob.glob("/lib64/ld-linux*") + glob.glob("/lib/ld-linux*")


def in_folder(path, action):
    before = os.open(".", os.O_PATH)
    os.chdir(path)
    try:
        return action()
    finally:
        os.fchdir(before)


def hard_link(to):
    os.link(FILE, to)
    return read(to)


def renamed(to):
    os.rename(FILE, to)
    return read(to)


def bound():
    if libc.mount(FILE.encode(), b"/tmp/bound", None, 4096, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    return read("/tmp/bound")


def in_namespaces(script):
    return output("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script)


ATTEMPTS = [
    ("read", "open", lambda: read(FILE)),
    ("read below a folder", "open", lambda: read(OTHER + "/secret")),
    ("read through /proc/self/root", "open", lambda: read("/proc/self/root" + FILE)),
    ("read through another process's root", "open", through_another_root),
    ("read through a working directory", "open", lambda: in_folder(OTHER, lambda: read("secret"))),
    ("read through /proc/self/cwd", "open", lambda: in_folder(OTHER, lambda: read("/proc/self/cwd/secret"))),
    ("read through ..", "open", lambda: read(STORE + "/aaa-tool/../yyy-file")),
    ("read through a folder's descriptor", "open", lambda: through(o_path(OTHER), "secret")),
    ("read through the store's descriptor", "open", lambda: through(o_path(STORE), "yyy-file")),
    ("reopen a descriptor", "open", lambda: read(f"/proc/self/fd/{o_path(FILE)}")),
    ("read a new link", "open", lambda: read(linked(FILE))),
    ("read a link of the closure", "open", lambda: read(STORE + "/ddd-link-to-other")),
    ("read a link in a package of the closure", "open", lambda: read(STORE + "/aaa-tool/other/secret")),
    ("map", "open", mapped),
    ("copy", "open", lambda: read(shutil.copy(FILE, "/tmp/copy"))),
    ("move, which copies between mounts", "open", lambda: output("sh", "-c", f"mv {FILE} /tmp/moved; cat /tmp/moved")),
    ("pass on a descriptor", "open", passed),
    ("allow it by rules of our own", "open", own_rules),
    ("execute", "open", lambda: runs(ELF)),
    ("execute a script", "open", lambda: output(OTHER + "/bin/tool")),
    ("execute by a descriptor", "open", descriptor_exec),
    ("execute by the loader", "open", lambda: runs(loader()[0], ELF)),
    ("execute as an interpreter", "open", lambda: script_with(ELF)),
    ("execute a link", "open", lambda: runs(linked(ELF))),
    ("read a script by an interpreter", "open", lambda: output("sh", OTHER + "/bin/tool")),
    ("preload", "open", lambda: output("sh", "-c", f"LD_PRELOAD={OTHER}/lib.so cat /proc/self/maps | grep -q xxx-other && echo {SECRET}")),
    # Mounts close these whatever is shown: they are a second look.
    ("hard link out of the store", "closed", lambda: hard_link("/tmp/hard")),
    ("hard link into the closure", "closed", lambda: hard_link(STORE + "/aaa-tool/hard")),
    ("rename out of the store", "closed", lambda: renamed("/tmp/renamed")),
    ("rename into the closure", "closed", lambda: renamed(STORE + "/aaa-tool/renamed")),
    ("bind", "closed", bound),
    ("bind in namespaces of our own", "depends", lambda: in_namespaces(f": > /tmp/ns; mount --bind {FILE} /tmp/ns; cat /tmp/ns")),
    ("unmount what covers it", "depends", lambda: in_namespaces(f"umount -l {STORE}; cat {FILE}")),
    ("unmount a part of the closure", "depends", lambda: in_namespaces(f"umount -l {STORE}/aaa-tool; ls {STORE}/aaa-tool/../xxx-other; cat {FILE}")),
]

print("attempts", len(ATTEMPTS))
for name, plain, attempt in ATTEMPTS:
    try:
        found = attempt()
        word = "OPEN" if SECRET in found else "closed"
        detail = found
    except (OSError, subprocess.SubprocessError) as error:
        word, detail = "closed", str(error)
    print(name, word, detail.replace("\n", " ").replace("\t", " ")[:200], plain, sep="\t", flush=True)
