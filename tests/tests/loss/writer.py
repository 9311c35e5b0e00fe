"""An agent that never rests: it commits, branches, rebases, renames, collects garbage, and is killed in the middle of it.

What it has done for good it writes into ~/done, a line each: a number and the commit. What it has written and not committed it
counts in ~/dirty. It begins as a person would after a crash: nobody else works here, so locks are nobody's.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

os.chdir("/workspace")
DONE, DIRTY = os.path.expanduser("~/done"), os.path.expanduser("~/dirty")
GIT = ["git", "-c", "user.name=A", "-c", "user.email=a@b", "-c", "gc.auto=0", "-c", "advice.detachedHead=false"]


def others():
    """Git that the one before us has left running. Not what serves somebody else."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if words[0] == b"git" and b"user.name=A" in words:
                yield int(pid)
        except OSError:
            pass


def git(*args, must=False):
    done = subprocess.run([*GIT, *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    if must and done.returncode:
        sys.exit(f"git {args} failed")
    return done.stdout.decode().strip()


def note(path, text):
    with open(path, "a") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def recover():
    while left := list(others()):
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    for folder, _, files in os.walk(".git"):
        for name in files:
            if name.endswith(".lock"):
                os.unlink(os.path.join(folder, name))
    for name in ("rebase-merge", "rebase-apply"):
        shutil.rmtree(os.path.join(".git", name), ignore_errors=True)
    git("reset", "-q", "--hard")
    git("checkout", "-q", "-f", "main")


def add():
    """Everything but what is never committed."""
    git("add", "-A", "--", ":!dirty*")


def commit(number):
    with open(f"file-{number % 40}", "a") as file:
        file.write(f"{number}\n")
    add()
    git("commit", "-q", "-m", str(number), must=True)
    head = git("rev-parse", "HEAD", must=True)
    git("update-ref", f"refs/tags/done/{number}", head, must=True)
    note(DONE, f"{number} {head}\n")


def dirty(number):
    with open("dirty.new", "w") as file:
        file.write(f"{number}\n")
    os.replace("dirty.new", "dirty")
    note(DIRTY, f"{number}\n")


def rename(number):
    names = [name for name in os.listdir(".") if name.startswith("file-")]
    if names:
        os.rename(random.choice(names), f"file-{number % 40}")


def rebase(number):
    git("checkout", "-q", "-f", "-B", "topic", "HEAD~2")
    for name in ("x", "y"):
        with open(f"topic-{name}-{number}", "w") as file:
            file.write("topic\n")
        add()
        git("commit", "-q", "-m", f"{name} {number}")
    git("rebase", "-q", "main")
    git("checkout", "-q", "-f", "main")


def branch(number):
    git("branch", "-f", f"branch-{number % 5}")
    git("branch", "-D", f"branch-{(number + 2) % 5}")


def stash(number):
    rename(number)
    add()
    git("stash", "-q")


def collect(_):
    git("gc", "-q", "--prune=now")


def repack(_):
    git("repack", "-adq")
    git("prune")


def pack_refs(_):
    git("pack-refs", "--all", "--prune")


def amend(number):
    git("commit", "-q", "--amend", "-m", f"again {number}")


WORK = [commit] * 8 + [dirty] * 3 + [rename, rebase, branch, branch, stash, collect, repack, pack_refs, amend]

def last(path):
    """The highest number in a file whose last line may not be whole."""
    if not os.path.exists(path):
        return 0
    with open(path) as file:
        words = [line.split()[0] for line in file.read().splitlines() if line.strip()]
    return max([int(word) for word in words if word.isdigit()] or [0])


recover()
# Behind both: a number stands for one thing.
number = max(last(DONE), last(DIRTY))
random.seed(number * 7919 + len(os.listdir(".")))
while True:
    number += 1
    random.choice(WORK)(number)
