//! How a clone gets what it holds: changes that are not committed, a part of the history, and objects without a copy.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use agent_tests::{Home, Pty, Who, skip, until};
use anyhow::{Context, ensure};

use crate::{
    clone::{cloned, work},
    support::{contents, git, repository},
};

/// A repository with a change of every kind that is not committed: seven of them.
fn dirty(home: &Home) -> anyhow::Result<std::path::PathBuf> {
    let project = repository(home, "project")?;
    for name in ["gone", "staged", "becomes-folder", "mode", "same"] {
        home.file(&format!("project/{name}"), b"before\n")?;
    }
    home.file("project/.gitignore", b"*.o\n")?;
    git(home, &project, &["add", "-A"])?.success()?;
    git(home, &project, &["commit", "-qm", "two"])?.success()?;
    home.file("project/.git/info/exclude", b"private\n")?;
    home.file("project/file", b"one\ntwo\n")?;
    home.file("project/staged", b"staged\n")?;
    git(home, &project, &["add", "staged"])?.success()?;
    for gone in ["gone", "becomes-folder"] {
        fs::remove_file(project.join(gone))?;
    }
    home.project("project/becomes-folder")?;
    home.file("project/becomes-folder/new", b"untracked\n")?;
    home.file("project/same", b"before\n")?;
    let mode = project.join("mode");
    fs::set_permissions(mode, fs::Permissions::from_mode(0o755))?;
    symlink("/etc/passwd", project.join("link"))?;
    home.file("project/ignored.o", b"ignored")?;
    home.file("project/private", b"ignored too")?;
    Ok(project)
}

#[test]
fn what_is_not_committed_stays_outside_or_comes_along_as_a_commit() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = Home::new(*who)?;
        let project = dirty(&home)?;
        git(&home, &project, &["config", "user.name", "Per Son"])?.success()?;
        git(&home, &project, &["config", "user.email", "per@example.org"])?.success()?;
        // An earlier agent may have written this.
        let canary = home.path().join("tmp/canary");
        for key in
            ["filter.x.clean", "filter.x.smudge", "core.fsmonitor", "diff.x.textconv", "core.hooksPath"]
        {
            git(&home, &project, &["config", key, &format!("touch {}; cat", canary.display())])?.success()?;
        }
        fs::write(project.join(".git/info/attributes"), "* filter=x diff=x\n")?;
        let before = contents(&project)?;
        let head = git(&home, &project, &["-c", "core.fsmonitor=", "rev-parse", "HEAD"])?.text();
        let (sandbox, told) = cloned(home, &[])?;
        let said = told.errors();
        ensure!(said.contains("note: 7 files that are not committed stay outside: "), "{said}");
        ensure!(sandbox.sh("git status --porcelain; cat file")?.success()?.text() == "one");
        ensure!(contents(&project)? == before && !canary.exists());

        sandbox.tell("stop", &["--force"])?.success()?;
        let told = sandbox.tell("start", &["--fresh", "--include-dirty"])?.success()?;
        told.complains("7 files that were not committed came along, as commit ")?;
        ensure!(contents(&project)? == before && !canary.exists(), "nothing of theirs changed");
        let script = "git status --porcelain; git log --format='%an %ae %s' refs/agent-shim/base..;
             git rev-parse refs/agent-shim/base; git diff --name-status refs/agent-shim/base; cat file staged becomes-folder/new;
             readlink link; test -x mode; ls; git fsck --strict; git symbolic-ref HEAD";
        let inside = sandbox.sh(script)?.success()?.text();
        let expected = format!(
            "Per Son per@example.org Changes that were not committed\n{head}\nD\tbecomes-folder\n\
             A\tbecomes-folder/new\nM\tfile\nD\tgone\nA\tlink\nM\tmode\nM\tstaged\none\ntwo\nstaged\nuntracked\n\
             /etc/passwd\nbecomes-folder\nfile\nlink\nmode\nsame\nstaged\nrefs/heads/main"
        );
        ensure!(inside == expected, "{inside}\ninstead of\n{expected}");
        // It comes home with the rest, as what the agent's work stands on.
        sandbox.sh("git commit -q --allow-empty -m more")?.success()?;
        sandbox.tell("pull", &[])?.success()?.text();
        let log =
            git(&sandbox, &project, &["log", "--format=%s", "refs/agents/box/heads/main"])?.success()?.text();
        ensure!(log == "more\nChanges that were not committed\ntwo\none", "{log}");
    }
    Ok(())
}

#[test]
fn without_a_commit_there_is_all_of_it_to_take_along() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = home.project("project")?;
    git(&home, &project, &["init", "-q", "-b", "first"])?.success()?;
    home.file("project/new", b"new\n")?;
    let (sandbox, told) = cloned(home, &["--include-dirty"])?;
    told.complains("1 file that was not committed came along")?;
    let inside =
        sandbox.sh("cat new; git status --porcelain --branch; git log --format=%an")?.success()?.text();
    ensure!(inside == "new\n## first\nagent-shim", "{inside}");
    Ok(())
}

#[test]
fn what_cannot_come_along_is_told() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = repository(&home, "project")?;
    git(&home, &project, &["branch", "other"])?.success()?;
    let huge = fs::File::create(project.join("huge"))?;
    huge.set_len(3 << 30)?;
    let start = |flags: &[&str]| home.run([&["start"], flags, &["project", "--", "cat"]].concat());
    let refused =
        start(&["--include-dirty"])?.exits(3)?.complains("is larger than 1073741824 bytes, with huge")?;
    refused.complains("hint: commit it, let .gitignore name")?;
    start(&["--include-dirty", "--branch", "other"])?.exits(64)?.complains("belongs to the branch")?;
    ensure!(home.run(["list", "--json"])?.text() == "[]");
    // A pipe is nothing that git knows.
    fs::remove_file(project.join("huge"))?;
    nix::unistd::mkfifo(&project.join("pipe"), nix::sys::stat::Mode::S_IRWXU)?;
    start(&["--include-dirty", "--name", "box"])?.success()?;
    Ok(())
}

#[test]
fn a_part_of_the_history() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = repository(&home, "project")?;
    for subject in ["two", "three", "four"] {
        git(&home, &project, &["commit", "-q", "--allow-empty", "-m", subject])?.success()?;
    }
    git(&home, &project, &["checkout", "-q", "-b", "side", "HEAD~2"])?.success()?;
    home.file("project/side", b"side\n")?;
    git(&home, &project, &["add", "-A"])?.success()?;
    git(&home, &project, &["commit", "-qm", "side"])?.success()?;
    git(&home, &project, &["checkout", "-q", "main"])?.success()?;
    git(&home, &project, &["merge", "-q", "-m", "merge", "side"])?.success()?;
    git(&home, &project, &["tag", "-a", "-m", "v", "v1"])?.success()?;
    for (depth, subjects) in [
        ("1", "merge"),
        ("2", "four\nmerge\nside"),
        ("3", "four\nmerge\nside\nthree\ntwo"),
        ("9", "four\nmerge\none\nside\nthree\ntwo"),
    ] {
        home.run(["start", "--name", "box", "--depth", depth, "project", "--", "cat"])?.success()?;
        let script = "cd /workspace; git fsck --strict; git log --format=%s | sort; git commit -q --allow-empty -m x --author 'A <a>'";
        let script = format!("export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a; {script}");
        let inside = home.run(["exec", "box", "--", "sh", "-c", &script])?.success()?.text();
        ensure!(inside == subjects, "{depth}: {inside}");
        home.run(["pull", "box"])?.success()?;
        home.run(["destroy", "--force", "box"])?.success()?;
    }
    home.run(["start", "--name", "box", "--depth", "1", "--all-branches", "project", "--", "cat"])?
        .success()?;
    let inside = home.run([
        "exec",
        "box",
        "--",
        "sh",
        "-c",
        "cd /workspace; git fsck --strict; git describe; git rev-list --all --count",
    ])?;
    ensure!(inside.success()?.text() == "v1\n2");
    Ok(())
}

#[test]
fn shared_objects_are_read_and_never_written() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = Home::new(*who)?;
        let elsewhere = repository(&home, "elsewhere")?;
        git(&home, home.path(), &["clone", "-q", "--shared", "elsewhere", "project"])?.success()?;
        let project = home.path().join("project");
        git(&home, &project, &["commit", "-q", "--allow-empty", "-m", "two"])?.success()?;
        git(&home, &project, &["branch", "other"])?.success()?;
        home.file("project/file", b"dirty\n")?;
        let before = contents(&project)?;
        let (sandbox, told) = cloned(home, &["--clone-objects", "share", "--include-dirty"])?;
        let objects = |of: &Path| of.join(".git/objects").display().to_string();
        let places = format!("{}, {}", objects(&project), objects(&elsewhere));
        told.complains(&format!("note: the agent can read every object in {places}"))?;
        let packs: Vec<_> = fs::read_dir(work(&sandbox).join(".git/objects/pack"))?.collect();
        ensure!(packs.is_empty(), "{packs:?}");
        let inside = sandbox
            .sh("git fsck --strict && git status --porcelain && git log --format=%s && cat file")?
            .success()?;
        ensure!(inside.text() == "Changes that were not committed\ntwo\none\ndirty", "{inside}");
        ensure!(!inside.errors().contains("error"), "{inside}");
        for attempt in [
            "touch /run/agent/objects/0/x",
            "mkdir /run/agent/objects/1/pack/x",
            "rm -r /run/agent/objects/0/pack",
            "chmod -R u+w /run/agent/objects/0/pack",
            "echo x > /run/agent/objects/0/info/alternates",
            "umount /run/agent/objects/0",
        ] {
            let refused = sandbox.sh(&format!("{attempt} 2>/dev/null"))?;
            ensure!(refused.code() != 0, "{refused}");
        }
        sandbox
            .sh("git config user.name A; git config user.email a@b; echo three >> file && git commit -qam three && git gc -q --prune=now && git fsck --strict")?
            .success()?;
        ensure!(
            contents(&project)? == before && contents(&elsewhere)?.keys().all(|path| !path.ends_with("x"))
        );
        let pulled = sandbox.tell("pull", &[])?.success()?.text();
        ensure!(pulled.contains("2 commits"), "{pulled}");
        git(&sandbox, &project, &["fsck", "--strict"])?.success()?;
        // It goes on after a stop, and not where the objects are gone.
        sandbox.tell("stop", &["--force"])?.success()?;
        sandbox.tell("start", &[])?.success()?;
        sandbox.sh("git log --format=%s | grep -x three")?.success()?;
        sandbox.tell("stop", &["--force"])?.success()?;
        fs::rename(&elsewhere, sandbox.path().join("moved"))?;
        sandbox.tell("start", &[])?.exits(3)?.complains("elsewhere/.git/objects")?;
    }
    Ok(())
}

#[test]
fn no_folder_gets_in_by_calling_itself_objects() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = repository(&home, "project")?;
    home.project("home/.ssh")?;
    home.file(
        "project/.git/objects/info/alternates",
        format!("{}/home/.ssh\n", home.path().display()).as_bytes(),
    )?;
    let refused = home.run(["start", "--clone-objects", "share", "project", "--", "cat"])?.exits(3)?;
    refused.complains("home/.ssh is no folder of a repository's objects")?;
    ensure!(project.exists() && home.run(["list", "--json"])?.text() == "[]");
    Ok(())
}

#[test]
fn a_projects_file_shows_no_more_than_a_person_agrees_to() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = repository(&home, "project")?;
    for (key, words) in [
        ("workspace = \"bind\"", "change the project's folder itself"),
        ("clone-objects = \"share\"", "see every object of the repository"),
        ("all-branches = true", "see every branch and tag"),
        ("include-dirty = true", "see changes and files that you have not committed"),
        ("branch = \"main\"", "see the branch `main`"),
    ] {
        home.file("project/agent-shim.toml", format!("{key}\n").as_bytes())?;
        home.run(["start", "project", "--", "cat"])?.exits(3)?.complains(words)?;
    }
    home.file("project/agent-shim.toml", b"workspace = \"clone\"\ndepth = 1\n")?;
    home.run(["start", "--name", "box", "project", "--", "cat"])?.success()?;
    ensure!(project.exists());
    Ok(())
}

/// A file system of this kind on a loop device, gone with the value.
struct Loop {
    folder: tempfile::TempDir,
}

impl Loop {
    fn new(kind: &str) -> anyhow::Result<Option<Self>> {
        let folder = tempfile::Builder::new().prefix("as-loop-").tempdir_in("/tmp")?;
        let image = folder.path().join("image");
        fs::File::create(&image)?.set_len(512 << 20)?;
        fs::create_dir(folder.path().join("on"))?;
        let run = |program: &str, args: &[&std::ffi::OsStr]| {
            Command::new(program).args(args).output().is_ok_and(|done| done.status.success())
        };
        if !run(&format!("mkfs.{kind}"), &["-q".as_ref(), image.as_os_str()]) {
            return Ok(None);
        }
        let on = folder.path().join("on");
        let mounted = run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), on.as_os_str()]);
        Ok(mounted.then_some(Self { folder }))
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("on")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[test]
fn objects_without_a_copy_where_the_file_system_can() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Myself)?;
    let project = repository(&home, "project")?;
    let refused = home.run(["start", "--clone-objects", "reflink", "project", "--", "cat"])?;
    if refused.code() != 0 {
        // Not so where the tests' own folder is on such a file system.
        refused.exits(2)?.complains("the file system cannot share")?.complains("--clone-objects copy")?;
        ensure!(home.run(["list", "--json"])?.text() == "[]");
    }
    let kinds = ["xfs", "btrfs"].iter().filter(|_| nix::unistd::geteuid().is_root());
    let mounted: Vec<Loop> = kinds.filter_map(|kind| Loop::new(kind).ok().flatten()).collect();
    if mounted.is_empty() {
        skip("no file system that shares can be made here: mkfs.xfs or mkfs.btrfs, root and a loop device");
    }
    mounted.iter().try_for_each(|mounted| reflinked(&mut home, &project, mounted))
}

fn reflinked(home: &mut Home, project: &Path, mounted: &Loop) -> anyhow::Result<()> {
    let data = mounted.path().join("data");
    fs::create_dir(&data)?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
    home.variable("XDG_DATA_HOME", data.as_os_str());
    let there = mounted.path().join("project");
    git(
        home,
        home.path(),
        &["clone", "-q", "--no-local", &project.to_string_lossy(), &there.to_string_lossy()],
    )?
    .success()?;
    git(home, &there, &["commit", "-q", "--allow-empty", "-m", "loose"])?.success()?;
    for flags in [&["--clone-objects", "reflink"][..], &["--all-branches"]] {
        let there = there.to_string_lossy();
        let args = [&["start", "--name", "box"], flags, &[&*there, "--", "cat"]].concat();
        home.run(args)?.success()?.complains("it holds every object of the repository")?;
        home.run([
            "exec",
            "box",
            "--",
            "sh",
            "-c",
            "git fsck --strict; git log --format=%s | grep -x loose",
        ])?
        .success()?;
        for folder in fs::read_dir(data.join("agent-shim/agents/box/work/.git/objects"))? {
            for file in fs::read_dir(folder?.path())? {
                ensure!(file?.metadata()?.nlink() == 1, "a link would be the host's own file");
            }
        }
        home.run(["destroy", "--force", "box"])?.success()?;
    }
    Ok(())
}

#[test]
fn a_clone_that_is_called_off_or_killed_leaves_no_half() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = repository(&home, "project")?;
    git(&home, &project, &["checkout", "-q", "-b", "big"])?.success()?;
    // Git is stopped in the middle by one that takes its place and never ends.
    let bin = home.project("slow")?;
    let script = "#!/bin/sh\ncase \"$*\" in *pack-objects*) printf 'Counting objects:  50%% (1/2)\\r' >&2
                  echo $$ > \"$0.new\"; mv \"$0.new\" \"$0.began\"; exec sleep 1000;; esac\nexec git.real \"$@\"\n";
    home.program("slow/git", script)?;
    let real =
        std::env::split_paths(&home.search_path()).map(|place| place.join("git")).find(|path| path.exists());
    symlink(real.context("git")?, bin.join("git.real"))?;
    let slow = format!("{}:{}", bin.display(), home.search_path());
    let mut start = home.shim(["start", "--name", "box", "project", "--", "cat"]);
    start.env("PATH", &slow);
    let sandbox = home.data().join("agents/box");

    // On a terminal it says how far it is, and ctrl-C undoes all of it.
    let mut pty = Pty::spawn(&start)?;
    pty.wait_for("cloning: Counting objects:  50% (1/2)")?;
    pty.type_in("\x03")?;
    ensure!(pty.ended()? == 5 && !sandbox.exists(), "{}", pty.shown());

    let began = bin.join("git.began");
    fs::remove_file(&began)?;
    let mut child = start.stderr(std::process::Stdio::null()).spawn()?;
    until("the clone to begin", || Ok(began.exists().then_some(())))?;
    child.kill()?;
    child.wait()?;
    // Git itself was not killed, and would have gone on for nobody.
    let left: i32 = fs::read_to_string(&began)?.trim().parse()?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(left), nix::sys::signal::Signal::SIGKILL)?;
    ensure!(sandbox.join("work").read_dir()?.next().is_none(), "no half of it is to be seen");
    // What a kill has left is cloned when it is started.
    home.run(["start", "box"])?.success()?.complains("a clone of its own, branch `big`")?;
    let names: Vec<_> = fs::read_dir(&sandbox)?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(!names.iter().any(|name| name.to_string_lossy().starts_with("work.new")), "{names:?}");
    home.run(["exec", "box", "--", "sh", "-c", "cd /workspace && git fsck --strict && cat file"])?
        .success()?;
    Ok(())
}
