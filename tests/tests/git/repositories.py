"""Repositories that an agent could make of its own, each with one evil in it.

    repositories.py list                      what there is, as JSON
    repositories.py NAME FOLDER CANARY HOST   makes one in an empty folder; CANARY is a file on the host that must never be
                                              there, HOST a repository on the host that must not change

Everything is written by hand: git would refuse to make most of it.
"""

import hashlib
import json
import os
import struct
import subprocess
import sys
import zlib

EVILS = {}

# What a way home is called; the runner knows how to go it.
PLAIN = ["list", "fetch", "clone"]

# For what is waited for.
PULLED_ONCE = ["dry", "branch", "merge", *PLAIN]

# Every name that git runs (githooks(5)).
HOOKS = """applypatch-msg pre-applypatch post-applypatch pre-commit pre-merge-commit prepare-commit-msg commit-msg post-commit
pre-rebase post-checkout post-merge pre-push pre-receive update proc-receive post-receive post-update
reference-transaction push-to-checkout pre-auto-gc post-rewrite sendemail-validate fsmonitor-watchman p4-changelist
p4-prepare-changelist p4-post-changelist p4-pre-submit post-index-change""".split()


def evil(name, refused=None, control=None, without=(), plain=None, time=None):
    """Enters one. `refused` is a word of the refusal, or nothing where it comes safely, or `?` where it may do either. `control` is a shell script that makes the
    evil happen when a person runs git on the folder itself. `without` names ways that are not gone. `plain` is a word that
    plain git says when it refuses, where that is of interest."""

    def enter(build):
        assert name not in EVILS, name
        EVILS[name] = {"build": build, "refused": refused, "control": control, "without": list(without), "plain": plain, "time": time}
        return build

    return enter


class Repository:
    def __init__(self, folder, canary, host):
        self.folder, self.canary, self.host = folder, canary, host
        self.git = os.path.join(folder, ".git")
        self.touch = f"touch {canary}"
        for place in ("objects/pack", "objects/info", "refs/heads", "refs/tags", "hooks", "info"):
            os.makedirs(os.path.join(self.git, place))
        self.write(".git/HEAD", "ref: refs/heads/main\n")
        self.write(".git/config", "[core]\n\trepositoryformatversion = 0\n\tbare = false\n[user]\n\tname = A\n\temail = a@b\n")
        self.first = self.commit(self.tree(("100644", "file", self.blob(b"one\n"))), message="one")
        self.write("file", "one\n")
        self.ref("refs/heads/main", self.first)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, data, mode=0o644, how="w"):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, how + "b") as file:
            file.write(data if isinstance(data, bytes) else data.encode())
        os.chmod(path, mode)

    def config(self, text):
        self.write(".git/config", text + "\n", how="a")

    def script(self, name):
        self.write(name, f"#!/bin/sh\n{self.touch}\n", 0o755)

    def loose(self, name, compressed):
        self.write(f".git/objects/{name[:2]}/{name[2:]}", compressed, 0o444)

    def add(self, kind, data):
        data = b"%s %d\0" % (kind.encode(), len(data)) + data
        name = hashlib.sha1(data).hexdigest()
        if not os.path.exists(self.path(f".git/objects/{name[:2]}/{name[2:]}")):
            self.loose(name, zlib.compress(data, 1))
        return name

    def blob(self, data):
        return self.add("blob", data if isinstance(data, bytes) else data.encode())

    def tree(self, *entries):
        return self.add("tree", b"".join(entry(*one) for one in entries))

    def commit(self, tree, *parents, message="x", extra="", author="A <a@b> 1 +0000"):
        lines = [f"tree {tree}", *(f"parent {one}" for one in parents), f"author {author}", f"committer {author}"]
        return self.add("commit", ("\n".join(lines) + f"\n{extra}\n{message}\n").encode())

    def ref(self, name, to):
        self.write(".git/" + name, to + "\n")

    def packed(self, lines):
        self.write(".git/packed-refs", b"# pack-refs with: peeled fully-peeled sorted \n" + b"".join(lines))

    def main(self, tree, **more):
        """`main` grows by a commit with this tree."""
        commit = self.commit(tree, self.first, **more)
        self.ref("refs/heads/main", commit)
        return commit

    def grow(self):
        """`main` grows by something harmless: what is evil lies elsewhere."""
        self.write("file", "two\n")
        return self.main(self.tree(("100644", "file", self.blob(b"two\n"))))

    def with_attributes(self, text):
        """And a file that has them."""
        self.write(".gitattributes", text + "\n")
        self.write("file", "two\n")
        attributes = self.blob(text + "\n")
        return self.main(self.tree(("100644", ".gitattributes", attributes), ("100644", "file", self.blob(b"two\n"))))

    def pack(self, *entries):
        """A pack of raw entries, indexed by git."""
        body = b"PACK" + struct.pack(">II", 2, len(entries)) + b"".join(entries)
        body += hashlib.sha1(body).digest()
        subprocess.run(
            ["git", "index-pack", "--stdin"], input=body, cwd=self.folder, check=True, stdout=subprocess.DEVNULL
        )


def entry(mode, name, to):
    name = name if isinstance(name, bytes) else name.encode()
    return mode.encode() + b" " + name + b"\0" + bytes.fromhex(to)


def pack_entry(number, size, rest):
    byte, size = (number << 4) | (size & 15), size >> 4
    head = bytearray()
    while size:
        head.append(byte | 0x80)
        byte, size = size & 0x7F, size >> 7
    head.append(byte)
    return bytes(head) + rest


def varint(number):
    out = bytearray()
    while True:
        byte, number = number & 0x7F, number >> 7
        out.append(byte | (0x80 if number else 0))
        if not number:
            return bytes(out)


def offset(distance):
    out = bytearray([distance & 0x7F])
    while distance >> 7:
        distance = (distance >> 7) - 1
        out.insert(0, 0x80 | (distance & 0x7F))
    return bytes(out)


# Configuration that runs something.


def configured(name, text, control, attributes=None, files=(), **more):
    """`TOUCH` in the text is the command that makes the canary."""

    @evil(name, control=control, **more)
    def build(repo):
        repo.with_attributes(attributes) if attributes else repo.grow()
        for file in files:
            repo.script(file)
        repo.config(text.replace("TOUCH", repo.touch).replace("CANARY", repo.canary))


TERMINAL = 'python3 -c \'import pty, sys; pty.spawn(sys.argv[1:])\''


@evil("hooks", control="git checkout -q -f -b x")
def hooks(repo):
    repo.grow()
    for name in HOOKS:
        repo.script(f".git/hooks/{name}")


@evil("hooks-path", control="git checkout -q -f -b x")
def hooks_path(repo):
    repo.grow()
    for name in HOOKS:
        repo.script(f"elsewhere/{name}")
    repo.config("[core]\n\thooksPath = elsewhere")


configured("fsmonitor", '[core]\n\tfsmonitor = "TOUCH; false"', "git reset -q; git status")
configured("ssh-command", '[core]\n\tsshCommand = "TOUCH; false"', "git fetch ssh://example.org/x")
configured("ssh-variant", '[core]\n\tsshCommand = "TOUCH; false"\n[ssh]\n\tvariant = simple', "git fetch ssh://example.org/x")
configured("pager", '[core]\n\tpager = "TOUCH; cat"', f"TERM=xterm {TERMINAL} git log")
configured("pager-of-one", '[pager]\n\tlog = "TOUCH; cat"', f"TERM=xterm {TERMINAL} git log")
configured("editor", '[core]\n\teditor = "TOUCH; false"', "git commit --allow-empty")
configured("sequence-editor", '[sequence]\n\teditor = "TOUCH; false"', "git reset -q --hard; git rebase -i --root")
configured("credential-helper", '[credential]\n\thelper = "!TOUCH; false"', "echo url=https://example.org | git credential fill")
configured("ask-pass", "[core]\n\taskPass = ./ask", "echo url=https://example.org | git credential fill", files=["ask"])
configured("filter-clean", '[filter "x"]\n\tclean = "TOUCH; cat"', "echo more >> file; git add file", "* filter=x")
configured("filter-smudge", '[filter "x"]\n\tsmudge = "TOUCH; cat"', "rm -f file; git checkout -q -f", "* filter=x")
configured("filter-process", '[filter "x"]\n\tprocess = "TOUCH; false"', "rm -f file; git checkout -q -f", "* filter=x")
configured("diff-driver", '[diff "x"]\n\tcommand = "TOUCH; true"', "git diff HEAD~ HEAD", "* diff=x")
configured("diff-external", '[diff]\n\texternal = "TOUCH; true"', "git diff HEAD~ HEAD")
configured("textconv", '[diff "x"]\n\ttextconv = "TOUCH; cat"', "git diff HEAD~ HEAD", "* diff=x")
configured("diff-tool", '[diff]\n\ttool = x\n[difftool "x"]\n\tcmd = "TOUCH"', "git difftool -y HEAD~ HEAD")
configured("alias", '[alias]\n\tst = "!TOUCH"', "git st")
configured("git-proxy", '[core]\n\tgitProxy = ./proxy', "git ls-remote git://example.org/x", files=["proxy"])
configured("trailer", '[trailer "x"]\n\tkey = X\n\tcmd = "TOUCH"', "git interpret-trailers --trailer X=y </dev/null")
configured("archive", '[tar "x"]\n\tcommand = "TOUCH; cat"', "git archive --format=x HEAD")
configured("recent-objects", '[gc]\n\trecentObjectsHook = "TOUCH"', None)
configured("pack-objects-hook", "[uploadpack]\n\tpackObjectsHook = ./hook", None, files=["hook"])
configured("remote-command", '[remote "origin"]\n\turl = .\n\tuploadpack = "TOUCH; git-upload-pack"', "git fetch origin")
configured(
    "remote-helper",
    '[protocol]\n\tallow = always\n[remote "origin"]\n\tvcs = ext\n\turl = sh -c TOUCH'.replace("-c TOUCH", "./helper"),
    "git fetch origin",
    files=["helper"],
)
configured(
    "instead-of",
    '[protocol]\n\tallow = always\n[url "ext::sh ./helper "]\n\tinsteadOf = https://',
    "git fetch https://example.org/x",
    files=["helper"],
)
configured(
    "push-instead-of",
    '[protocol]\n\tallow = always\n[url "ext::sh ./helper "]\n\tpushInsteadOf = https://',
    "git push https://example.org/x main",
    files=["helper"],
)
configured("insteads-of-the-hosts", '[url "/etc/"]\n\tinsteadOf = agent::', None)


@evil("include", control="git reset -q; git status")
def include(repo):
    repo.grow()
    repo.write("more", f'[core]\n\tfsmonitor = "{repo.touch}; false"\n')
    repo.config("[include]\n\tpath = ../more")


@evil("include-if", control="git reset -q; git status")
def include_if(repo):
    repo.grow()
    repo.write("more", f'[core]\n\tfsmonitor = "{repo.touch}; false"\n')
    repo.config('[includeIf "gitdir:**"]\n\tpath = ../more')


@evil("include-of-the-hosts")
def include_host(repo):
    repo.grow()
    repo.config(f"[include]\n\tpath = {repo.host}/.git/config\n\tpath = /proc/1/environ\n\tpath = /dev/null")


@evil("worktree-config", control="git reset -q; git status")
def worktree_config(repo):
    repo.grow()
    repo.config("[core]\n\trepositoryformatversion = 1\n[extensions]\n\tworktreeConfig = true")
    repo.write(".git/config.worktree", f'[core]\n\tfsmonitor = "{repo.touch}; false"\n')


@evil("worktree-elsewhere", control="git checkout -q -f")
def worktree_elsewhere(repo):
    repo.main(repo.tree(("100644", os.path.basename(repo.canary), repo.blob(b"x"))))
    repo.config(f"[core]\n\tworktree = {os.path.dirname(repo.canary)}")


@evil("merge-driver", control="git checkout -q -f main; git merge other")
def merge_driver(repo):
    attributes = repo.blob("* merge=x\n")
    sides = [repo.tree(("100644", ".gitattributes", attributes), ("100644", "file", repo.blob(text))) for text in ("a\n", "b\n")]
    repo.main(sides[0])
    repo.ref("refs/heads/other", repo.commit(sides[1], repo.first))
    repo.config(f'[merge "x"]\n\tdriver = "{repo.touch}; false"')


SIGNATURE = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n"


@evil("gpg-program", control="git log --show-signature")
def gpg(repo):
    repo.main(repo.tree(), extra=SIGNATURE)
    repo.script("gpg")
    repo.config(f"[gpg]\n\tprogram = {repo.folder}/gpg\n[log]\n\tshowSignature = true".replace(repo.folder, "."))


@evil("promisor", refused="", control="git cat-file -p HEAD:lost")
def promisor(repo):
    repo.main(repo.tree(("100644", "file", repo.blob(b"two")), ("100644", "lost", "12" * 20)))
    repo.script("helper")
    repo.config(
        "[core]\n\trepositoryformatversion = 1\n[extensions]\n\tpartialClone = origin\n[protocol]\n\tallow = always\n"
        '[remote "origin"]\n\turl = ext::sh ./helper\n\tpromisor = true\n\tpartialclonefilter = blob:none'
    )


@evil("bare-inside-the-tree", control="git checkout -q -f; cd trap; git status")
def bare(repo):
    config = f'[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tworktree = ..\n\tfsmonitor = "{repo.touch}; false"\n'
    keep = repo.tree(("100644", "keep", repo.blob(b"")))
    trap = repo.tree(
        ("100644", "HEAD", repo.blob("ref: refs/heads/main\n")),
        ("100644", "config", repo.blob(config)),
        ("40000", "objects", keep),
        ("40000", "refs", keep),
    )
    repo.main(repo.tree(("100644", "file", repo.blob(b"one\n")), ("40000", "trap", trap)))


# Where the repository is.


@evil("git-file-to-the-host", refused="does not appear to be a git repository")
def git_file(repo):
    os.rename(repo.git, repo.path("real"))
    repo.write(".git", f"gitdir: {repo.host}/.git\n")


@evil("git-file-within", control="git reset -q; git status")
def git_file_within(repo):
    repo.grow()
    repo.config(f'[core]\n\tfsmonitor = "{repo.touch}; false"')
    os.rename(repo.git, repo.path("real"))
    repo.write(".git", "gitdir: real\n")


@evil("git-link-to-the-host", refused="")
def git_link(repo):
    os.rename(repo.git, repo.path("real"))
    os.symlink(f"{repo.host}/.git", repo.git)


@evil("git-fifo", refused="")
def git_fifo(repo):
    os.rename(repo.git, repo.path("real"))
    os.mkfifo(repo.git)


@evil("common-folder-of-the-host", refused="")
def common(repo):
    repo.write(".git/commondir", f"{repo.host}/.git\n")


@evil("alternates-of-the-host")
def alternates(repo):
    repo.grow()
    repo.write(".git/objects/info/alternates", f"{repo.host}/.git/objects\n/proc/1/root/\n../../../../..\n")
    repo.write(".git/objects/info/http-alternates", f"{repo.host}/.git/objects\n")


@evil("objects-of-the-host", refused="")
def objects_link(repo):
    os.rename(repo.path(".git/objects"), repo.path("objects"))
    os.symlink(f"{repo.host}/.git/objects", repo.path(".git/objects"))


@evil("alternates-in-a-circle")
def circle(repo):
    repo.grow()
    repo.write(".git/objects/info/alternates", "../objects\n./.\n" + repo.git + "/objects\n")


@evil("unknown-extension", refused="")
def extension(repo):
    repo.config("[core]\n\trepositoryformatversion = 1\n[extensions]\n\tevil = true")


@evil("unknown-version", refused="")
def version(repo):
    repo.config("[core]\n\trepositoryformatversion = 99")


@evil("broken-configuration")
def broken(repo):
    repo.config("[core\n\x1b[2J")


@evil("other-names", refused="sha256", without=["fetch", "clone"])
def other_names(repo):
    subprocess.run(["rm", "-rf", repo.git], check=True)
    run = ["git", "-c", "user.name=A", "-c", "user.email=a@b"]
    subprocess.run([*run, "init", "-q", "-b", "main", "--object-format=sha256"], cwd=repo.folder, check=True)
    subprocess.run([*run, "commit", "-q", "--allow-empty", "-m", "x"], cwd=repo.folder, check=True)


# History that is not what it seems.


@evil("grafts")
def grafts(repo):
    middle = repo.commit(repo.tree(), repo.first, message="hidden")
    tip = repo.commit(repo.tree(), middle, message="tip")
    repo.ref("refs/heads/main", tip)
    repo.write(".git/info/grafts", f"{tip} {repo.first}\n")


@evil("replaced")
def replaced(repo):
    tip = repo.grow()
    other = repo.commit(repo.tree(("100755", "evil", repo.blob(repo.touch))), message="other")
    repo.ref(f"refs/replace/{tip}", other)


@evil("shallow-that-lies", refused="did not receive expected object")
def shallow(repo):
    middle = repo.commit(repo.tree(), repo.first, message="hidden")
    tip = repo.commit(repo.tree(), middle, message="tip")
    repo.ref("refs/heads/main", tip)
    repo.write(".git/shallow", f"{tip}\n")


@evil("shallow-nonsense")
def shallow_nonsense(repo):
    repo.grow()
    repo.write(".git/shallow", "../../etc/passwd\n\x1b]0;evil\x07\n")


@evil("commit-graph-nonsense")
def graph(repo):
    repo.grow()
    repo.write(".git/objects/info/commit-graph", b"CGPH" + b"\xff" * 2000)
    repo.write(".git/objects/pack/multi-pack-index", b"MIDX" + b"\xff" * 2000)


@evil("tags-of-tags")
def tags(repo):
    to, kind = repo.first, "commit"
    for number in range(3000):
        text = f"object {to}\ntype {kind}\ntag t{number}\ntagger A <a@b> 1 +0000\n\nx\n"
        to, kind = repo.add("tag", text.encode()), "tag"
    repo.ref("refs/tags/top", to)


@evil("tag-that-lies", refused="")
def tag(repo):
    text = f"object {repo.blob(b'x')}\ntype commit\ntag x\ntagger A <a@b> 1 +0000\n\nx\n"
    repo.ref("refs/tags/x", repo.add("tag", text.encode()))


@evil("branch-of-no-commit")
def no_commit(repo):
    repo.ref("refs/heads/blob", repo.blob(b"no commit"))
    repo.ref("refs/stash", repo.tree())


# Refs.


@evil("ref-up", control=None)
def ref_up(repo):
    tip = repo.grow()
    repo.packed([f"{tip} refs/heads/../../../config\n".encode()])


@evil("ref-with-dots")
def ref_dots(repo):
    tip = repo.grow()
    repo.ref("refs/heads/a..b", tip)
    repo.ref("refs/heads/.hidden", tip)
    repo.ref("refs/heads/x.lock", tip)


@evil("ref-absolute")
def ref_absolute(repo):
    tip = repo.grow()
    repo.packed([f"{tip} {repo.host}/.git/config\n".encode(), f"{tip} /etc/passwd\n".encode()])


@evil("ref-option")
def ref_option(repo):
    tip = repo.grow()
    for name in ("--upload-pack=touch", "-x", "--exec", "--output=x", "-"):
        repo.ref(f"refs/heads/{name}", tip)
        repo.ref(f"refs/tags/{name}", tip)


@evil("ref-shell")
def ref_shell(repo):
    tip = repo.grow()
    for name in ("$(touch${IFS}x)", ";touch;x", "`id`", "|x", "&x&", "'\"'", "%s%n", "a{b,c}", "@", "!x", "#x"):
        repo.ref(f"refs/heads/{name}", tip)


@evil("ref-escapes")
def ref_escapes(repo):
    tip = repo.grow()
    repo.packed([f"{tip} refs/heads/".encode() + b"\x1b]0;evil\x07\x1b[2J\n"])


@evil("ref-line-end")
def ref_line(repo):
    tip = repo.grow()
    repo.write(".git/refs/heads/a\nfff refs/heads/x", tip + "\n")


@evil("ref-right-to-left")
def ref_bidi(repo):
    tip = repo.grow()
    for name in ("fix\u202egpj.exe", "a\u200bb", "\u2066x\u2069", "\ufeffmain", "\u0430\u0440\u0440le", "c\u0085d", "x" * 240):
        repo.ref(f"refs/heads/{name}", tip)


@evil("ref-no-text")
def ref_bytes(repo):
    tip = repo.grow()
    with open(os.path.join(repo.git.encode(), b"refs/heads/\xff\xfe\xc0\x9b"), "w") as file:
        file.write(tip + "\n")


@evil("ref-to-a-file-of-the-host")
def ref_link(repo):
    repo.grow()
    os.symlink(f"{repo.host}/.git/refs/heads/main", repo.path(".git/refs/heads/one"))
    os.symlink("/etc/passwd", repo.path(".git/refs/heads/two"))


@evil("refs-of-the-whole-machine", refused="?", time="1s", without=PULLED_ONCE)
def ref_everything(repo):
    repo.grow()
    os.symlink("/", repo.path(".git/refs/heads/all"))


@evil("ref-by-another-name")
def ref_symbolic(repo):
    repo.grow()
    for name, to in (("a", "b"), ("b", "a"), ("c", "../../../../etc/passwd"), ("d", f"{repo.host}/.git/HEAD"), ("e", "HEAD")):
        repo.write(f".git/refs/heads/{name}", f"ref: {'refs/heads/' if len(to) == 1 else ''}{to}\n")


@evil("ref-fifo")
def ref_fifo(repo):
    repo.grow()
    os.mkfifo(repo.path(".git/refs/heads/fifo"))


@evil("head-fifo", time="1s", without=PULLED_ONCE)
def head_fifo(repo):
    os.unlink(repo.path(".git/HEAD"))
    os.mkfifo(repo.path(".git/HEAD"))


@evil("head-link-to-the-host")
def head_link(repo):
    os.unlink(repo.path(".git/HEAD"))
    os.symlink(f"{repo.host}/.git/HEAD", repo.path(".git/HEAD"))


@evil("head-link")
def head_link_within(repo):
    repo.grow()
    os.unlink(repo.path(".git/HEAD"))
    os.symlink("refs/heads/main", repo.path(".git/HEAD"))


@evil("head-elsewhere")
def head_elsewhere(repo):
    repo.write(".git/HEAD", "ref: ../../../../etc/passwd\n")


@evil("head-folder")
def head_folder(repo):
    os.unlink(repo.path(".git/HEAD"))
    os.mkdir(repo.path(".git/HEAD"))


@evil("head-of-no-commit")
def head_blob(repo):
    repo.grow()
    repo.write(".git/HEAD", "12" * 20 + "\n")


@evil("configuration-fifo", refused="", time="1s", without=PULLED_ONCE)
def config_fifo(repo):
    os.unlink(repo.path(".git/config"))
    os.mkfifo(repo.path(".git/config"))


@evil("refs-below-refs", refused="")
def refs_below(repo):
    tip = repo.grow()
    repo.packed([f"{tip} refs/heads/a\n".encode(), f"{tip} refs/heads/a/b\n".encode()])


@evil("ref-long", refused="cannot be")
def ref_long(repo):
    tip = repo.grow()
    repo.packed([f"{tip} refs/heads/{'/'.join(['a' * 200] * 10)}\n".encode()])


@evil("refs-that-differ-in-case")
def refs_case(repo):
    tip = repo.grow()
    for name in ("Main", "MAIN", "heads", "HEAD", "refs/heads/main"):
        repo.ref(f"refs/heads/{name}", tip)


@evil("million-refs", refused="more than 100000 refs", without=PULLED_ONCE)
def million(repo):
    lines = (b"%s refs/heads/b%07d\n" % (repo.first.encode(), number) for number in range(1_000_000))
    repo.packed(lines)


# Trees.


def with_folder(name, path, refused, plain=None, **more):
    """A folder of this name with a hook in it that runs when it is where it wants to be."""

    @evil(name, refused=refused, plain=plain, **more)
    def build(repo):
        hook = ("100755", "post-checkout", repo.blob(f"#!/bin/sh\n{repo.touch}\n"))
        inner = repo.tree(("40000", "hooks", repo.tree(hook)))
        repo.main(repo.add("tree", entry("40000", path, inner)))


with_folder("tree-up", "..", "hasDotdot")
with_folder("tree-here", ".", "hasDot")
with_folder("tree-git", ".git", "hasDotgit", plain="invalid path")
with_folder("tree-git-upper-case", ".GIT", "hasDotgit", plain="invalid path")
with_folder("tree-git-short-name", "git~1", "hasDotgit", plain="invalid path")
with_folder("tree-git-space", ".git ", "hasDotgit", plain="invalid path")
with_folder("tree-git-dots", ".git...", "hasDotgit", plain="invalid path")
with_folder("tree-git-stream", ".git::$INDEX_ALLOCATION", "hasDotgit", plain="invalid path")
with_folder("tree-git-ignored-character", ".g\u200cit", "hasDotgit")
with_folder("tree-git-backslash", ".git\\hooks", "hasDotgit")
with_folder("tree-slash", "a/../../x", "fullPathname")
with_folder("tree-absolute", "/tmp/x", "fullPathname")
with_folder("tree-no-name", "", "")


def with_tree(name, refused, *entries):
    @evil(name, refused=refused)
    def build(repo):
        place = os.path.dirname(repo.canary)
        kinds = {
            "hook": lambda: repo.blob(f"#!/bin/sh\n{repo.touch}\n"),
            "out": lambda: repo.blob(place),
            "folder": lambda: repo.tree(("100644", os.path.basename(repo.canary), repo.blob(b"x"))),
            "lost": lambda: "12" * 20,
        }
        repo.main(repo.add("tree", b"".join(entry(mode, path, kinds[kind]()) for mode, path, kind in entries)))


with_tree("link-out", None, ("120000", "link", "out"))
with_tree("link-and-folder", "duplicateEntries", ("120000", "a", "out"), ("40000", "a", "folder"))
with_tree("names-that-differ-in-case", None, ("120000", "A", "out"), ("40000", "a", "folder"))
with_tree("names-that-look-alike", None, ("40000", "cafe\u0301", "folder"), ("120000", "caf\u00e9", "out"))
with_tree("twice", "duplicateEntries", ("100644", "a", "hook"), ("100755", "a", "hook"))
with_tree("unsorted", "treeNotSorted", ("100644", "b", "hook"), ("100644", "a", "hook"))
with_tree("set-user-id", None, ("104755", "a", "hook"))
with_tree("device", None, ("60666", "a", "hook"))
with_tree("mode-padded", "zeroPaddedFilemode", ("0100644", "a", "hook"))
with_tree("mode-nonsense", "", ("xyz", "a", "hook"))
with_tree("mode-huge", None, ("777777777777777777777", "a", "hook"))
with_tree("module-of-nothing", None, ("160000", "module", "lost"))
with_tree("modules-link", "gitmodulesSymlink", ("120000", ".gitmodules", "out"))
with_tree("attributes-link", None, ("120000", ".gitattributes", "out"))
with_tree("ignore-and-mailmap-links", None, ("120000", ".gitignore", "out"), ("120000", ".mailmap", "out"))
with_tree("modules-by-short-name", "", ("120000", "gitmod~1", "out"))
with_tree("name-with-escapes", None, ("100644", "\x1b]0;evil\x07\x1b[2J", "hook"), ("100644", "a\nb", "hook"))
with_tree("name-long", "", ("100644", "x" * 5000, "hook"))


def with_modules(name, refused, text):
    @evil(name, refused=refused)
    def build(repo):
        modules = repo.blob(text.replace("TOUCH", repo.touch))
        repo.main(repo.tree(("100644", ".gitmodules", modules), ("160000", "x", repo.first)))


with_modules("module-address-option", "gitmodulesUrl", '[submodule "x"]\n\tpath = x\n\turl = -u./evil\n')
with_modules("module-path-option", "gitmodulesPath", '[submodule "x"]\n\tpath = -x\n\turl = https://example.org/x\n')
with_modules("module-name-up", "gitmodulesName", '[submodule "../../x"]\n\tpath = x\n\turl = https://example.org/x\n')
with_modules("module-command", "gitmodulesUpdate", '[submodule "x"]\n\tpath = x\n\turl = ./x\n\tupdate = "!TOUCH"\n')
with_modules("module-line-end", "gitmodulesUrl", '[submodule "x"]\n\tpath = x\n\turl = "https://example.org/x\\ny"\n')
with_modules("module-helper", None, '[submodule "x"]\n\tpath = x\n\turl = ext::sh -c TOUCH\n')


@evil("deep", refused="", without=["clone"])
def deep(repo):
    tree = repo.tree(("100644", "file", repo.blob(b"x")))
    for _ in range(10_000):
        tree = repo.tree(("40000", "d", tree))
    repo.main(tree)


@evil("unfolds", without=["dry", "branch", "clone"])
def unfolds(repo):
    tree = repo.tree(*(("100644", f"f{number}", repo.blob(b"x")) for number in range(10)))
    for _ in range(12):
        tree = repo.tree(*(("40000", f"d{number}", tree) for number in range(10)))
    repo.main(tree)


# Objects.


@evil("blob-huge", without=["dry", "branch", "clone", "fetch", "merge"])
def blob_huge(repo):
    repo.main(repo.tree(("100644", "file", repo.blob(bytes(64 << 20)))))


@evil("blob-inflates", refused="")
def inflates(repo):
    name = hashlib.sha1(b"x").hexdigest()
    repo.loose(name, zlib.compress(b"blob 10\0" + bytes(64 << 20), 1))
    repo.main(repo.tree(("100644", "file", name)))


@evil("blob-says-it-is-huge", refused="")
def says_huge(repo):
    name = hashlib.sha1(b"x").hexdigest()
    repo.loose(name, zlib.compress(b"blob 99999999999999999999\0xyz"))
    repo.main(repo.tree(("100644", "file", name)))


@evil("blob-of-another-name", refused="")
def wrong_name(repo):
    name = hashlib.sha1(b"x").hexdigest()
    repo.loose(name, zlib.compress(b"blob 3\0xyz"))
    repo.main(repo.tree(("100644", "file", name)))


@evil("tree-of-another-name", refused="")
def wrong_tree(repo):
    name = hashlib.sha1(b"x").hexdigest()
    data = entry("40000", ".git", repo.tree(("100644", "x", repo.blob(b"x"))))
    repo.loose(name, zlib.compress(b"tree %d\0" % len(data) + data))
    repo.main(name)


@evil("commit-of-another-name", refused="")
def wrong_commit(repo):
    text = f"tree {repo.tree()}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nx\n".encode()
    repo.loose(hashlib.sha1(b"x").hexdigest(), zlib.compress(b"commit %d\0" % len(text) + text))
    repo.ref("refs/heads/main", hashlib.sha1(b"x").hexdigest())


@evil("blob-as-tree", refused="")
def kind(repo):
    repo.main(repo.blob(b"no tree"))


@evil("loose-corrupt", refused="")
def corrupt(repo):
    name = hashlib.sha1(b"x").hexdigest()
    repo.loose(name, b"\x78\x01" + b"\xff" * 50)
    repo.main(repo.tree(("100644", "file", name)))


@evil("loose-fifo", refused="", time="1s", without=PULLED_ONCE)
def loose_fifo(repo):
    name = hashlib.sha1(b"x").hexdigest()
    repo.main(repo.tree(("100644", "file", name)))
    os.makedirs(repo.path(f".git/objects/{name[:2]}"), exist_ok=True)
    os.mkfifo(repo.path(f".git/objects/{name[:2]}/{name[2:]}"))


@evil("loose-link-to-the-host", refused="")
def loose_link(repo):
    name = hashlib.sha1(b"x").hexdigest()
    repo.main(repo.tree(("100644", "file", name)))
    os.makedirs(repo.path(f".git/objects/{name[:2]}"), exist_ok=True)
    os.symlink("/etc/passwd", repo.path(f".git/objects/{name[:2]}/{name[2:]}"))


def packed(repo):
    """`main` in a pack; the names of its files."""
    repo.grow()
    subprocess.run(["git", "repack", "-adq"], cwd=repo.folder, check=True)
    place = repo.path(".git/objects/pack")
    return {name.rsplit(".", 1)[1]: os.path.join(place, name) for name in os.listdir(place)}


def changed(path, change):
    with open(path, "rb") as file:
        data = file.read()
    os.chmod(path, 0o644)
    with open(path, "wb") as file:
        file.write(change(bytearray(data)))


@evil("pack-cut", refused="")
def pack_cut(repo):
    changed(packed(repo)["pack"], lambda data: data[:-60])


@evil("pack-flipped", refused="")
def pack_flipped(repo):
    def flip(data):
        for at in range(14, len(data) - 20):
            data[at] ^= 0xFF
        return data

    changed(packed(repo)["pack"], flip)


@evil("index-cut", refused="")
def index_cut(repo):
    changed(packed(repo)["idx"], lambda data: data[:100])


@evil("index-that-lies", refused="")
def index_lies(repo):
    def lie(data):
        data[8 : 8 + 1024] = b"\xff" * 1024
        return data

    changed(packed(repo)["idx"], lie)


@evil("index-offsets-that-lie", refused="")
def index_offsets(repo):
    def lie(data):
        data[-60:-40] = b"\x7f\xff\xff\xff" * 5
        return data

    changed(packed(repo)["idx"], lie)


@evil("delta-chain")
def delta_chain(repo):
    data = b"x" * 100
    entries, before = [pack_entry(3, len(data), zlib.compress(data))], data
    for number in range(3000):
        text = b"%04d" % number
        after = before[:96] + text
        delta = varint(100) + varint(100) + b"\x90\x60" + b"\x04" + text
        entries.append(pack_entry(6, len(delta), offset(len(entries[-1])) + zlib.compress(delta)))
        before = after
    repo.pack(*entries)
    name = hashlib.sha1(b"blob 100\0" + before).hexdigest()
    repo.main(repo.tree(("100644", "file", name)))


@evil("delta-huge", without=["dry", "branch", "clone", "fetch", "merge"])
def delta_huge(repo):
    """A few bytes that become a file of 64 MB."""
    size, result = 1 << 16, 1 << 26
    base = pack_entry(3, size, zlib.compress(bytes(size)))
    # Each of these bytes is the whole of the first once more.
    delta = varint(size) + varint(result) + b"\x80" * (result // size)
    repo.pack(base, pack_entry(6, len(delta), offset(len(base)) + zlib.compress(delta)))
    data = hashlib.sha1(b"blob %d\0" % result + bytes(result)).hexdigest()
    repo.main(repo.tree(("100644", "file", data)))


@evil("commit-header-huge")
def header(repo):
    repo.main(repo.tree(), extra="".join(f"x{number} {'y' * 1000}\n" for number in range(5000)))


@evil("commit-nul", refused="nulIn")
def nul(repo):
    repo.main(repo.tree(), message="a\0b")


@evil("commit-author", refused="")
def author(repo):
    repo.main(repo.tree(), author="A <a@b> 99999999999999999999999 +0000")


@evil("commit-two-trees", refused="")
def two_trees(repo):
    text = f"tree {repo.tree()}\ntree {repo.tree()}\nauthor A <a@b> 1 +0000\n\nx\n"
    repo.ref("refs/heads/main", repo.add("commit", text.encode()))


@evil("commit-words")
def words(repo):
    repo.main(
        repo.tree(),
        message="\x1b]0;evil\x07\x1b[2J\u202e\n\nSigned-off-by: \x1b[31m",
        author="\x1b[2J\u202eA <\x1b@b> 1 +0000",
        extra=SIGNATURE + "encoding ../../../etc/passwd\nmergetag object x\n",
    )


@evil("commit-parents-many")
def parents(repo):
    all = [repo.commit(repo.tree(), message=str(number)) for number in range(300)]
    repo.ref("refs/heads/main", repo.commit(repo.tree(), *all, repo.first))


# What answers is the agent's own program.


def answers(name, script, refused="", time=None, **more):
    """The environment looks for programs in the workspace first. Only a repository of a form like this one is left to git."""

    @evil(name, refused=refused, time=time, **more)
    def build(repo):
        repo.grow()
        repo.config("[extensions]\n\tnoop-v1 = true")
        repo.write("bin/git", f"#!/bin/sh\n{script}\n", 0o755)


answers("git-of-its-own-silent", "exit 0")
answers("git-of-its-own-noise", "head -c 100000 /dev/urandom")
answers("git-of-its-own-endless", "exec yes 0000", "")
answers("git-of-its-own-sleeps", "exec sleep 1000", time="1s", without=PULLED_ONCE)
answers("git-of-its-own-complains", "while :; do printf '\\033]0;evil\\007\\033[2J'; done | head -c 1000000 >&2; exit 1")
answers("git-of-its-own-kills", "kill -9 -1; exit 1")
answers("git-of-its-own-forks", "(exec sleep 1000) & (exec setsid sleep 1000) & exit 1")

if sys.argv[1] == "list":
    keys = ("refused", "control", "without", "plain", "time")
    print(json.dumps([{"name": name, **{key: one[key] for key in keys}} for name, one in EVILS.items()]))
else:
    _, name, folder, canary, host = sys.argv
    repo = Repository(folder, canary, host)
    if name != "none":
        EVILS[name]["build"](repo)
