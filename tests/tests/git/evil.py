"""A server of git's pack protocol that lies. Its one argument says how."""

import hashlib
import os
import struct
import sys
import time
import zlib

CANARY = os.environ.get("CANARY", "/tmp/canary")
TYPES = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}


class Pack:
    """Objects, and the bytes of a pack that holds them."""

    def __init__(self):
        self.entries = []

    def add(self, kind, data, leave_out=False):
        name = hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data)
        if not leave_out:
            self.raw(TYPES[kind], len(data), zlib.compress(data))
        return name.hexdigest()

    def raw(self, number, size, rest):
        byte, size = (number << 4) | (size & 15), size >> 4
        head = bytearray()
        while size:
            head.append(byte | 0x80)
            byte, size = size & 0x7F, size >> 7
        head.append(byte)
        self.entries.append(bytes(head) + rest)

    def bytes(self, count=None, version=2):
        count = len(self.entries) if count is None else count
        body = b"PACK" + struct.pack(">II", version, count) + b"".join(self.entries)
        return body + hashlib.sha1(body).digest()

    def blob(self, data=b"touch " + CANARY.encode() + b"\n", **more):
        return self.add("blob", data, **more)

    def tree(self, *entries, **more):
        data = b"".join(
            b"%s %s\0" % (mode.encode(), name if isinstance(name, bytes) else name.encode()) + bytes.fromhex(to)
            for mode, name, to in entries
        )
        return self.add("tree", data, **more)

    def commit(self, tree, parents=(), author="A <a@b> 1 +0000", extra="", **more):
        text = f"tree {tree}\n" + "".join(f"parent {one}\n" for one in parents)
        text += f"author {author}\ncommitter {author}\n{extra}\nmessage\n"
        return self.add("commit", text.encode(), **more)


def say(*packets):
    for packet in packets:
        if packet in (b"0000", b"0001", b"0002"):
            sys.stdout.buffer.write(packet)
        else:
            sys.stdout.buffer.write(b"%04x" % (len(packet) + 4) + packet)
    sys.stdout.buffer.flush()


def raw(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def hear():
    """Reads to the end of a request."""
    while True:
        head = sys.stdin.buffer.read(4)
        if head in (b"", b"0000"):
            return
        size = int(head, 16)
        if size > 4:
            sys.stdin.buffer.read(size - 4)


def greet(fmt=b"sha1"):
    say(b"version 2\n", b"agent=evil\n", b"ls-refs\n", b"fetch=shallow\n", b"object-format=" + fmt + b"\n", b"0000")


def send(data, piece=60000):
    for at in range(0, len(data), piece):
        say(b"\x01" + data[at : at + piece])


def begin_pack():
    """What a server says that has heard enough."""
    say(b"acknowledgments\n", b"ready\n", b"0001", b"packfile\n")


def serve(refs, data):
    """The whole conversation."""
    greet()
    hear()
    for name, to in refs:
        say(f"{to} ".encode() + (name if isinstance(name, bytes) else name.encode()) + b"\n")
    say(b"0000")
    hear()
    begin_pack()
    send(data)
    say(b"0000")
    hear()


def main_is(pack, commit, data=None):
    serve([("refs/heads/main", commit)], pack.bytes() if data is None else data)


def with_tree(*entries):
    """One commit whose tree has these entries; a blob stands for each."""

    def run():
        pack = Pack()
        blob = pack.blob()
        tree = pack.tree(*[(mode, name, blob) for mode, name in entries])
        main_is(pack, pack.commit(tree))

    return run


def with_folder(name):
    """One commit with a folder of this name, and a hook in it."""

    def run():
        pack = Pack()
        hooks = pack.tree(("100755", "post-checkout", pack.blob(b"#!/bin/sh\ntouch " + CANARY.encode() + b"\n")))
        pack_tree = pack.tree(("40000", name, pack.tree(("40000", "hooks", hooks))))
        main_is(pack, pack.commit(pack_tree))

    return run


def gitmodules(text):
    def run():
        pack = Pack()
        main_is(pack, pack.commit(pack.tree(("100644", ".gitmodules", pack.blob(text.encode())))))

    return run


def good_pack():
    pack = Pack()
    commit = pack.commit(pack.tree(("100644", "file", pack.blob(b"good\n"))))
    return pack, commit


def good():
    main_is(*good_pack())


def refs_of(*names):
    def run():
        pack, commit = good_pack()
        serve([(name, commit) for name in names], pack.bytes())

    return run


def missing(what):
    def run():
        pack = Pack()
        blob = pack.blob(leave_out=what == "blob")
        tree = pack.tree(("100644", "file", blob), leave_out=what == "tree")
        parent = pack.commit(tree, extra="x y\n", leave_out=True)
        commit = pack.commit(tree, parents=[parent] if what == "parent" else [], leave_out=what == "commit")
        if what == "tag":
            commit = pack.add("tag", f"object {parent}\ntype commit\ntag x\ntagger A <a@b> 1 +0000\n\nx\n".encode())
        main_is(pack, commit)

    return run


def commit_text(text):
    def run():
        pack = Pack()
        tree = pack.tree()
        main_is(pack, pack.add("commit", text.replace("TREE", tree).encode()))

    return run


def bytes_of(change):
    def run():
        pack, commit = good_pack()
        main_is(pack, commit, change(pack))

    return run


def flipped(pack):
    data = bytearray(pack.bytes())
    data[20] ^= 0xFF
    return bytes(data)


def raw_pack(*entries):
    def run():
        pack, commit = good_pack()
        for number, size, rest in entries:
            pack.raw(number, size, rest)
        main_is(pack, commit)

    return run


def varint(number):
    out = bytearray()
    while True:
        byte, number = number & 0x7F, number >> 7
        out.append(byte | (0x80 if number else 0))
        if not number:
            return bytes(out)


def delta_bomb():
    """A few kilobytes that unfold to many gigabytes: each object is the one before it, many times over."""
    pack, commit = good_pack()
    pack.blob(bytes(0x10000))
    size = 0x10000
    for copies in [255] * 3:
        before = len(pack.entries[-1])
        delta = varint(size) + varint(size * copies)
        at = 0
        while at < size * copies:
            # From the beginning, as much as one instruction can, wherever we are.
            piece = min(size, 0xFFFFFF, size * copies - at)
            delta += b"\xf0" + struct.pack("<I", piece)[:3]
            at += piece
        # By its distance: nobody can know the name of the one before without unfolding it.
        distance, ago = before, bytearray([before & 0x7F])
        while distance >> 7:
            distance = (distance >> 7) - 1
            ago.insert(0, 0x80 | (distance & 0x7F))
        pack.raw(6, len(delta), bytes(ago) + zlib.compress(delta))
        size *= copies
    main_is(pack, commit)


def inflating():
    """Says that an object is small, and it is not."""
    pack, commit = good_pack()
    pack.raw(3, 10, zlib.compress(bytes(1 << 24)))
    main_is(pack, commit)


def deep(depth, name="d"):
    def run():
        pack = Pack()
        tree = pack.tree(("100644", "file", pack.blob()))
        for _ in range(depth):
            tree = pack.tree(("40000", name, tree))
        main_is(pack, pack.commit(tree))

    return run


def endless_pack():
    _, commit = good_pack()
    greet()
    hear()
    say(commit.encode() + b" refs/heads/main\n", b"0000")
    hear()
    begin_pack()
    say(b"\x01PACK" + struct.pack(">II", 2, 1))
    # A blob of stored blocks without an end.
    say(b"\x01\xbf\xff\xff\xff\xff\x7f\x78\x01")
    block = b"\x00" + struct.pack("<HH", 0xFFF0, 0xFFFF ^ 0xFFF0) + bytes(0xFFF0)
    while True:
        send(block)


def endless_refs():
    _, commit = good_pack()
    greet()
    hear()
    for number in range(1_000_000):
        say(f"{commit} refs/heads/b{number}\n".encode())
    say(b"0000")
    time.sleep(1000)


def endless_greeting():
    say(b"version 2\n")
    while True:
        say(b"x=" + b"y" * 60000)


def endless_progress():
    _, commit = good_pack()
    greet()
    hear()
    say(commit.encode() + b" refs/heads/main\n", b"0000")
    hear()
    begin_pack()
    while True:
        say(b"\x02\x1b]0;evil\x07" + b"x" * 1000)
        time.sleep(0.01)


def stalls(at):
    def run():
        _, commit = good_pack()
        if at > 0:
            greet()
            hear()
        if at > 1:
            say(commit.encode() + b" refs/heads/main\n", b"0000")
            hear()
        if at > 2:
            begin_pack()
            say(b"\x01PACK\0\0\0\2\0\0\0\3")
        time.sleep(1000)

    return run


def says(*packets):
    """Something else after the refs."""

    def run():
        _, commit = good_pack()
        greet()
        hear()
        say(commit.encode() + b" refs/heads/main\n", b"0000")
        hear()
        for packet in packets:
            raw(packet[0]) if isinstance(packet, tuple) else say(packet)
        time.sleep(0.2)

    return run


def first(*packets):
    """Something else instead of a greeting."""

    def run():
        for packet in packets:
            raw(packet[0]) if isinstance(packet, tuple) else say(packet)
        time.sleep(0.2)

    return run


def listing(*lines):
    """Something else instead of refs."""

    def run():
        greet()
        hear()
        say(*lines)
        hear()
        time.sleep(0.2)

    return run


def other_format():
    greet(b"sha256")
    hear()


SOME = "0123456789abcdef0123456789abcdef01234567"
ZERO = "0" * 40
EVILS = {
    # Trees.
    "dot-dot": with_folder(".."),
    "dot": with_folder("."),
    "dot-git": with_folder(".git"),
    "upper-case": with_folder(".GIT"),
    "short-name": with_folder("git~1"),
    "trailing-space": with_folder(".git "),
    "trailing-dot": with_folder(".git."),
    "stream": with_folder(".git::$INDEX_ALLOCATION"),
    "ignored-character": with_folder(".g\u200cit"),
    "backslash": with_folder(".git\\hooks"),
    "slash": with_folder("a/../../b"),
    "no-name": with_folder(""),
    "twice": with_tree(("100644", "a"), ("100644", "a")),
    "file-and-folder": with_tree(("100644", "a"), ("40000", "a")),
    "unsorted": with_tree(("100644", "b"), ("100644", "a")),
    "gitmodules-link": with_tree(("120000", ".gitmodules")),
    "padded-mode": with_tree(("0100644", "a")),
    "not-a-tree": lambda: (lambda pack: main_is(pack, pack.commit(pack.add("tree", b"nonsense"))))(Pack()),
    "null-entry": lambda: (lambda pack: main_is(pack, pack.commit(pack.tree(("100644", "a", ZERO)))))(Pack()),
    "deep": deep(600),
    "long": deep(30, "x" * 200),
    # Submodules.
    "module-url": gitmodules('[submodule "x"]\n\tpath = x\n\turl = -u./evil\n'),
    "module-name": gitmodules('[submodule "../../x"]\n\tpath = x\n\turl = https://example.org/x\n'),
    "module-path": gitmodules('[submodule "x"]\n\tpath = -x\n\turl = https://example.org/x\n'),
    "module-update": gitmodules(f'[submodule "x"]\n\tpath = x\n\turl = https://example.org/x\n\tupdate = !touch {CANARY}\n'),
    "module-line-end": gitmodules('[submodule "x"]\n\tpath = x\n\turl = "https://example.org/x\\ny"\n'),
    # Commits and tags.
    "no-blob": missing("blob"),
    "no-tree": missing("tree"),
    "no-parent": missing("parent"),
    "no-commit": missing("commit"),
    "tag-of-nothing": missing("tag"),
    "nul-in-commit": commit_text("tree TREE\nauthor A\0 <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nx\n"),
    "no-author": commit_text("tree TREE\n\nx\n"),
    "bad-author": commit_text("tree TREE\nauthor A <a@b> 99999999999999999999999 +0000\ncommitter A 1\n\nx\n"),
    "empty-commit": commit_text(""),
    # Packs.
    "cut": bytes_of(lambda pack: pack.bytes()[:-30]),
    "bad-sum": bytes_of(lambda pack: pack.bytes()[:-1] + b"x"),
    "flipped": bytes_of(flipped),
    "more-than-there-is": bytes_of(lambda pack: pack.bytes(count=1000)),
    "less-than-there-is": bytes_of(lambda pack: pack.bytes(count=1)),
    "billions": bytes_of(lambda pack: pack.bytes(count=0xFFFFFFFF)),
    "none": bytes_of(lambda pack: Pack().bytes()),
    "version": bytes_of(lambda pack: pack.bytes(version=9)),
    "no-pack": bytes_of(lambda pack: b"#!/bin/sh\ntouch " + CANARY.encode() + b"\n"),
    "nothing": bytes_of(lambda pack: b""),
    "behind": bytes_of(lambda pack: pack.bytes() + b"more"),
    "no-base": raw_pack((7, 4, bytes.fromhex(SOME) + zlib.compress(b"\1\1\1x"))),
    "far-base": raw_pack((6, 4, b"\xff\xff\x7f" + zlib.compress(b"\1\1\1x"))),
    "no-type": raw_pack((5, 4, zlib.compress(b"x"))),
    "bad-deflate": raw_pack((3, 100, b"\x78\x9c" + b"\xff" * 50)),
    "delta-bomb": delta_bomb,
    "inflating": inflating,
    "endless-pack": endless_pack,
    # Refs.
    "ref-out": refs_of("refs/heads/../../../config"),
    "ref-option": refs_of("--exec=touch"),
    "ref-lock": refs_of("refs/heads/main.lock"),
    "ref-hook": refs_of("hooks/post-checkout"),
    "ref-control": refs_of(b"refs/heads/\x1b[2J\x07"),
    "ref-space": refs_of("refs/heads/a/ b"),
    "ref-twice": refs_of("refs/heads/a", "refs/heads/a"),
    "ref-below-ref": refs_of("refs/heads/a", "refs/heads/a/b"),
    "ref-long": refs_of("refs/heads/" + "/".join(["a" * 200] * 10)),
    "ref-to-nothing": listing(ZERO.encode() + b" refs/heads/a\n", b"0000"),
    "ref-to-path": listing(b"../../../../etc/passwd refs/heads/a\n", b"0000"),
    "ref-without-name": listing(SOME.encode() + b"\n", b"0000"),
    "refs-err": listing(b"ERR \x1b]0;evil\x07no\n", b"0000"),
    "refs-delimited": listing(b"0001", b"0000"),
    "million-refs": endless_refs,
    # The protocol.
    "silent": first(),
    "version-0": first(SOME.encode() + b" HEAD\0multi_ack\n", SOME.encode() + b" refs/heads/main\n", b"0000"),
    "version-1": first(b"version 1\n", b"0000"),
    "cannot-fetch": first(b"version 2\n", b"ls-refs\n", b"0000"),
    "strange-format": first(b"version 2\n", b"ls-refs\n", b"fetch\n", b"object-format=md5\n", b"0000"),
    "err": first(b"ERR \x1b]0;evil\x07no\n"),
    "noise": first((bytes(range(256)) * 10,)),
    "length-3": first((b"0003",)),
    "length-too-long": first((b"fff5" + b"x" * 100000,)),
    "http": first((b"HTTP/1.1 200 OK\r\n\r\n",)),
    "other-format": other_format,
    "uris": says(b"packfile-uris\n", SOME.encode() + b" https://example.org/x.pack\n", b"0001", b"packfile\n"),
    "wanted-refs": says(b"wanted-refs\n", SOME.encode() + b" refs/heads/main\n", b"0001"),
    "more-talk": says(b"acknowledgments\n", b"NAK\n", b"0000", b"acknowledgments\n", b"NAK\n", b"0000"),
    "bad-ack": says(b"acknowledgments\n", b"ACK --upload-pack\n", b"0000"),
    "ready-for-nothing": says(b"acknowledgments\n", b"ready\n", b"0000"),
    "pack-too-soon": says(b"packfile\n", b"\x01PACK"),
    "band-3": says(b"acknowledgments\n", b"ready\n", b"0001", b"packfile\n", b"\x03\x1b[31mfatal\n"),
    "band-4": says(b"acknowledgments\n", b"ready\n", b"0001", b"packfile\n", b"\x04x"),
    "response-end": says(b"0002"),
    "endless-greeting": endless_greeting,
    "endless-progress": endless_progress,
    "stalls-first": stalls(0),
    "stalls-at-refs": stalls(1),
    "stalls-before-pack": stalls(2),
    "stalls-in-pack": stalls(3),
}

if sys.argv[1] == "list":
    print("\n".join(EVILS))
elif sys.argv[1] == "good":
    good()
else:
    try:
        EVILS[sys.argv[1]]()
    except BrokenPipeError:
        os._exit(0)
