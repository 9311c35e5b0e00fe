//! `agent-shim pull --merge`: into the person's branch, and never over what is theirs. A repository beside theirs stands
//! for the one inside.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use agent_tests::{Home, Output, Who};
use anyhow::{Context, ensure};

use crate::support::{contents, git, repository};

struct Pair {
    home: Home,
    mine: PathBuf,
    agents: PathBuf,
}

impl Pair {
    fn new() -> anyhow::Result<Self> {
        let home = Home::new(Who::Ordinary)?;
        let mine = repository(&home, "mine")?;
        home.file("mine/other", b"mine\n")?;
        for name in ["user.name=Person", "user.email=person@example.org"] {
            let (name, value) = name.split_once('=').context("a value")?;
            git(&home, &mine, &["config", name, value])?.success()?;
        }
        git(&home, &mine, &["add", "-A"])?.success()?;
        git(&home, &mine, &["commit", "-qm", "two"])?.success()?;
        let agents = home.path().join("agents");
        home.project("agents")?;
        git(&home, home.path(), &["clone", "-q", &mine.to_string_lossy(), &agents.to_string_lossy()])?
            .success()?;
        Ok(Self { home, mine, agents })
    }

    /// The agent makes files what they say here, or removes them, and commits.
    fn agent(&self, files: &[(&str, Option<&str>)]) -> anyhow::Result<String> {
        self.commit(&self.agents, "agents", files)
    }

    fn person(&self, files: &[(&str, Option<&str>)]) -> anyhow::Result<String> {
        self.commit(&self.mine, "mine", files)
    }

    fn commit(&self, folder: &Path, name: &str, files: &[(&str, Option<&str>)]) -> anyhow::Result<String> {
        let mut script = String::from("set -e\n");
        for (path, text) in files {
            let parent = path.rsplit_once('/').map_or(".", |(parent, _)| parent);
            match text {
                Some(text) => writeln!(script, "mkdir -p '{parent}'; printf %s '{text}' > '{path}'")?,
                None => writeln!(script, "rm '{path}'")?,
            }
        }
        self.sh(name, &script)?;
        git(&self.home, folder, &["add", "-A"])?.success()?;
        git(&self.home, folder, &["commit", "-qm", "more"])?.success()?;
        self.at(folder, "HEAD")
    }

    /// A script of the person's in one of the repositories, or beside them.
    fn sh(&self, folder: &str, script: &str) -> anyhow::Result<()> {
        let mut command = self.home.command("sh", ["-c", script]);
        command.current_dir(self.home.path().join(folder));
        agent_tests::finish(command, b"")?.success().map(drop)
    }

    fn at(&self, folder: &Path, name: &str) -> anyhow::Result<String> {
        Ok(git(&self.home, folder, &["rev-parse", "-q", "--verify", name])?.text())
    }

    fn git(&self, args: &[&str]) -> anyhow::Result<Output> {
        git(&self.home, &self.mine, args)
    }

    fn merge(&self, args: &[&str]) -> anyhow::Result<Output> {
        let command = format!("git upload-pack {}", self.agents.display());
        let into = self.mine.to_string_lossy();
        self.home
            .run([&["pull", "web", "--merge", "--upload-pack", &command, "--into", &into], args].concat())
    }

    fn status(&self) -> anyhow::Result<String> {
        Ok(self.git(&["status", "--porcelain"])?.success()?.text())
    }

    fn file(&self, path: &str) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.mine.join(path))?)
    }

    /// Everything of the person's but what a pull alone brings.
    fn state(&self) -> anyhow::Result<BTreeMap<PathBuf, (u32, Vec<u8>)>> {
        let mut all = contents(&self.mine)?;
        let git_dir = self.mine.join(".git");
        all.retain(|path, _| {
            let below = path.strip_prefix(&git_dir).ok().map(|path| path.to_string_lossy().into_owned());
            below.is_none_or(|path| !path.starts_with("objects") && !path.contains("agents"))
        });
        Ok(all)
    }

    /// The merge is refused with this code and these words, and everything is as it was.
    fn refuses(&self, code: i32, words: &[&str]) -> anyhow::Result<()> {
        let before = self.state()?;
        for args in [&["-n"][..], &[]] {
            let output = self.merge(args)?.exits(code)?;
            let output = words.iter().try_fold(output, |output, word| output.complains(word))?;
            ensure!(output.errors().contains("hint:"), "{output}");
            ensure!(self.state()? == before, "something changed: {output}");
        }
        self.git(&["fsck", "--strict"])?.success().map(drop)
    }
}

#[test]
fn a_branch_without_work_of_its_own_moves_forward() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    pair.sh("agents", "echo '#!/bin/sh' > run; chmod +x run; ln -s file link")?;
    let tip = pair.agent(&[("file", Some("two\n")), ("a/b/c", Some("new\n")), ("other", None)])?;
    // What the merge does not touch may be dirty, staged, or not known.
    pair.home.file("mine/untracked", b"mine\n")?;
    let before = pair.state()?;
    let told = pair.merge(&["-n"])?.success()?.text();
    ensure!(told.contains("main would be moved forward to refs/agents/web/heads/main, 5 files"), "{told}");
    ensure!(pair.state()? == before);
    let told = pair.merge(&["--json"])?.success()?.json()?;
    ensure!(told["merged"]["how"] == "fast-forward" && told["merged"]["files"] == 5, "{told:#}");
    ensure!(pair.at(&pair.mine, "HEAD")? == tip && told["merged"]["new"] == *tip);
    ensure!(pair.git(&["symbolic-ref", "HEAD"])?.text() == "refs/heads/main");
    ensure!(pair.status()? == "?? untracked", "{}", pair.status()?);
    ensure!(pair.file("file")? == "two\n" && pair.file("a/b/c")? == "new\n");
    ensure!(!pair.mine.join("other").exists());
    ensure!(fs::metadata(pair.mine.join("run"))?.permissions().mode() & 0o111 != 0);
    ensure!(fs::read_link(pair.mine.join("link"))? == Path::new("file"));
    for name in ["HEAD@{0}", "main@{0}"] {
        ensure!(
            pair.git(&["log", "-g", "-1", "--format=%gs", name])?.text().contains("Fast-forward"),
            "{name}"
        );
    }
    ensure!(pair.at(&pair.mine, "ORIG_HEAD")? == pair.at(&pair.mine, "HEAD@{1}")?);
    ensure!(pair.merge(&[])?.success()?.text().contains("main has all of refs/agents/web/heads/main"));
    pair.git(&["fsck", "--strict"])?.success()?;
    Ok(())
}

#[test]
fn two_histories_become_one_by_the_person() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    let ours = pair.person(&[("other", Some("mine again\n")), ("both", Some("1\n2\n3\n4\n5\n6\n7\n"))])?;
    git(&pair.home, &pair.agents, &["pull", "-q"])?.success()?;
    git(&pair.home, &pair.agents, &["checkout", "-qb", "work"])?.success()?;
    let theirs = pair.agent(&[("file", Some("two\n")), ("both", Some("one\n2\n3\n4\n5\n6\n7\n"))])?;
    let ours = pair.person(&[("both", Some("1\n2\n3\n4\n5\n6\nseven\n"))]).map(|new| (ours, new))?.1;
    // Dirty, and not touched.
    pair.home.file("mine/other", b"dirty\n")?;
    pair.home.file("mine/staged", b"staged\n")?;
    pair.git(&["add", "staged"])?.success()?;
    let told = pair.merge(&[])?.success()?.text();
    ensure!(told.contains("refs/agents/web/heads/work merged into main, 2 files"), "{told}");
    ensure!(pair.file("both")? == "one\n2\n3\n4\n5\n6\nseven\n" && pair.file("file")? == "two\n");
    let status = pair.status()?;
    ensure!(status.lines().map(str::trim).eq(["M other", "A  staged"]), "{status}");
    let log = pair.git(&["log", "-1", "--format=%P|%an|%ce|%s"])?.text();
    ensure!(
        log == format!("{ours} {theirs}|Person|person@example.org|Merge refs/agents/web/heads/work"),
        "{log}"
    );
    let by = pair.git(&["log", "-g", "-1", "--format=%gn"])?.text();
    ensure!(by == "Person", "{by}");
    pair.git(&["fsck", "--strict"])?.success()?;
    Ok(())
}

#[test]
fn the_branch_may_be_named() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    git(&pair.home, &pair.agents, &["checkout", "-qb", "other"])?.success()?;
    let tip = pair.agent(&[("file", Some("other\n"))])?;
    git(&pair.home, &pair.agents, &["checkout", "-q", "main"])?.success()?;
    pair.merge(&["--branch", "other", "--branch", "main"])?.exits(64)?;
    pair.merge(&["--branch", "other"])?.success()?;
    ensure!(pair.at(&pair.mine, "main")? == tip && pair.status()?.is_empty());
    // A commit that is on no branch is what is checked out, too.
    git(&pair.home, &pair.agents, &["checkout", "-q", "--detach", "other"])?.success()?;
    let tip = pair.agent(&[("file", Some("detached\n"))])?;
    let told = pair.merge(&[])?.success()?.text();
    ensure!(told.contains("refs/agents/web/HEAD") && pair.at(&pair.mine, "main")? == tip, "{told}");
    Ok(())
}

#[test]
fn conflicts_change_nothing() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    pair.agent(&[("file", Some("theirs\n")), ("other", None), ("new", Some("theirs\n"))])?;
    pair.person(&[("file", Some("ours\n")), ("other", Some("changed\n"))])?;
    pair.refuses(3, &["both sides changed file, other", "git merge refs/agents/web/heads/main"])?;
    let objects =
        |pair: &Pair| -> anyhow::Result<usize> { Ok(contents(&pair.mine.join(".git/objects"))?.len()) };
    let before = objects(&pair)?;
    pair.merge(&[])?.exits(3)?;
    ensure!(objects(&pair)? == before, "objects that nobody needs");
    // By hand it is the same conflict.
    let by_hand = pair.git(&["merge", "refs/agents/web/heads/main"])?;
    ensure!(by_hand.code() == 1, "{by_hand}");
    pair.refuses(2, &["a merge is in progress"])
}

#[test]
fn what_is_the_persons_is_never_touched() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    pair.agent(&[("file", Some("theirs\n")), ("new", Some("theirs\n")), ("folder/x", Some("theirs\n"))])?;
    let dirty = |text: &str| pair.home.file("mine/file", text.as_bytes()).map(drop);
    dirty("dirty\n")?;
    pair.refuses(2, &["there are changes of yours in file"])?;
    // As long as before, and as old.
    dirty("ONE\n")?;
    pair.refuses(2, &["there are changes of yours in file"])?;
    pair.git(&["add", "file"])?.success()?;
    pair.refuses(2, &["there are changes of yours in file"])?;
    dirty("one\n")?;
    pair.refuses(2, &["there are changes of yours in file"])?;
    pair.git(&["add", "file"])?.success()?;
    fs::remove_file(pair.mine.join("file"))?;
    pair.refuses(2, &["there are changes of yours in file"])?;
    pair.sh("mine", "mkdir file; echo mine > file/mine")?;
    pair.refuses(2, &["would be overwritten: file"])?;
    pair.sh("mine", "rm -r file")?;
    pair.git(&["checkout", "-q", "."])?.success()?;
    pair.git(&["update-index", "--assume-unchanged", "file"])?.success()?;
    dirty("hidden\n")?;
    pair.refuses(2, &["there are changes of yours in file"])?;
    pair.git(&["update-index", "--no-assume-unchanged", "file"])?.success()?;
    pair.git(&["checkout", "-q", "."])?.success()?;

    // Untracked, even where git would ignore it and overwrite it.
    pair.home.file("mine/.git/info/exclude", b"new\n")?;
    pair.home.file("mine/new", b"mine\n")?;
    pair.refuses(2, &["would be overwritten: new"])?;
    fs::remove_file(pair.mine.join("new"))?;
    pair.sh("mine", "mkdir new; echo mine > new/x")?;
    pair.refuses(2, &["would be overwritten: new"])?;
    fs::remove_dir_all(pair.mine.join("new"))?;
    pair.home.file("mine/folder", b"mine\n")?;
    pair.refuses(2, &["would be overwritten: folder"])?;
    fs::remove_file(pair.mine.join("folder"))?;

    // A file that can be executed all at once, unless that means nothing here.
    pair.sh("mine", "chmod +x file")?;
    pair.refuses(2, &["there are changes of yours in file"])?;
    pair.git(&["config", "core.fileMode", "false"])?.success()?;
    pair.merge(&["-n"])?.success()?;
    pair.git(&["config", "core.fileMode", "true"])?.success()?;
    pair.sh("mine", "chmod -x file")?;

    // An index that somebody else works on.
    pair.home.file("mine/.git/index.lock", b"")?;
    pair.merge(&[])?.exits(2)?.complains("another git")?;
    fs::remove_file(pair.mine.join(".git/index.lock"))?;
    pair.merge(&[])?.success()?;
    ensure!(pair.status()?.is_empty() && pair.file("folder/x")? == "theirs\n");
    Ok(())
}

#[test]
fn nothing_is_written_through_a_link() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    pair.person(&[("way/file", Some("one\n"))])?;
    git(&pair.home, &pair.agents, &["pull", "-q"])?.success()?;
    pair.agent(&[("way/file", Some("evil\n")), ("way/new", Some("evil\n")), ("way/b/c", Some("evil\n"))])?;
    let outside = pair.home.path().join("home/outside");
    pair.sh("home", "mkdir -p outside/b; echo one > outside/file")?;
    fs::remove_dir_all(pair.mine.join("way"))?;
    pair.sh("mine", "ln -s ../home/outside way")?;
    pair.refuses(2, &["way"])?;
    ensure!(fs::read_to_string(outside.join("file"))? == "one\n" && !outside.join("new").exists());
    // The link itself is the agent's, and what it put behind it comes in the next commit.
    fs::remove_file(pair.mine.join("way"))?;
    pair.git(&["checkout", "-q", "."])?.success()?;
    fs::remove_dir_all(pair.agents.join("way"))?;
    pair.sh("agents", "ln -s ../home/outside way")?;
    pair.agent(&[])?;
    pair.merge(&[])?.success()?;
    ensure!(
        fs::read_link(pair.mine.join("way"))? == Path::new("../home/outside")
            && outside.join("file").exists()
    );
    fs::remove_file(pair.agents.join("way"))?;
    pair.agent(&[("way/file", Some("two\n"))])?;
    pair.merge(&[])?.success()?;
    ensure!(fs::read_to_string(outside.join("file"))? == "one\n" && pair.file("way/file")? == "two\n");
    ensure!(!fs::symlink_metadata(pair.mine.join("way"))?.is_symlink() && pair.status()?.is_empty());
    Ok(())
}

#[test]
fn a_file_becomes_a_folder_and_a_folder_a_file() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    pair.person(&[("folder/a", Some("a\n")), ("folder/b/c", Some("c\n"))])?;
    git(&pair.home, &pair.agents, &["pull", "-q"])?.success()?;
    fs::remove_dir_all(pair.agents.join("folder"))?;
    fs::remove_file(pair.agents.join("file"))?;
    let tip = pair.agent(&[("folder", Some("a file\n")), ("file/x", Some("a folder\n"))])?;
    // What is in the folder and not git's stays, and so does everything.
    pair.home.file("mine/folder/mine", b"mine\n")?;
    pair.refuses(2, &["would be overwritten: folder"])?;
    fs::remove_file(pair.mine.join("folder/mine"))?;
    pair.merge(&[])?.success()?;
    ensure!(pair.at(&pair.mine, "HEAD")? == tip && pair.status()?.is_empty(), "{}", pair.status()?);
    ensure!(pair.file("folder")? == "a file\n" && pair.file("file/x")? == "a folder\n");
    Ok(())
}

#[test]
fn nothing_that_the_agent_committed_runs() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    let canary = pair.home.path().join("home/canary");
    let script = format!("#!/bin/sh\\ntouch {}\\ncat\\n", canary.display());
    let touch = format!("touch {}; cat", canary.display());
    // As husky does: hooks lie in the working tree.
    for (name, value) in [
        ("core.hooksPath", "hooks"),
        ("core.fsmonitor", &touch),
        ("core.editor", &touch),
        ("commit.gpgSign", "true"),
        ("gpg.program", &touch),
        ("filter.x.smudge", &touch),
        ("filter.x.clean", &touch),
        ("filter.x.process", &touch),
        ("diff.x.textconv", &touch),
        ("diff.external", &touch),
        ("merge.x.driver", &touch),
        ("core.sshCommand", &touch),
    ] {
        pair.git(&["config", name, value])?.success()?;
    }
    let hooks = [
        "post-merge",
        "pre-merge-commit",
        "commit-msg",
        "post-checkout",
        "reference-transaction",
        "post-index-change",
        "pre-commit",
        "post-commit",
        "prepare-commit-msg",
        "post-rewrite",
        "fsmonitor-watchman",
    ];
    for hook in hooks {
        pair.sh(
            "agents",
            &format!("mkdir -p hooks; printf '{script}' > hooks/{hook}; chmod +x hooks/{hook}"),
        )?;
    }
    pair.agent(&[(".gitattributes", Some("* filter=x diff=x merge=x\n")), ("file", Some("theirs\n"))])?;
    pair.merge(&[])?.success()?;
    ensure!(!canary.exists(), "at the first merge");
    // Now hooks and attributes are in the tree.
    git(
        &pair.home,
        &pair.mine,
        &[
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "commit.gpgSign=false",
            "-c",
            "core.fsmonitor=false",
            "commit",
            "-q",
            "--allow-empty",
            "-m",
            "mine",
        ],
    )?
    .success()?;
    let _ = fs::remove_file(&canary);
    pair.agent(&[("file", Some("again\n"))])?;
    let told = pair.merge(&[])?.success()?.text();
    ensure!(!canary.exists(), "at the second merge");
    ensure!(told.contains("file is as the repository has it: no filter was run"), "{told}");
    ensure!(pair.file("file")? == "again\n");
    // A merge that needs the driver is left to git.
    pair.agent(&[("file", Some("again\nand again\n"))])?;
    fs::write(pair.mine.join("file"), "before\nagain\n")?;
    git(
        &pair.home,
        &pair.mine,
        &[
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "commit.gpgSign=false",
            "-c",
            "core.fsmonitor=false",
            "-c",
            "filter.x.process=",
            "-c",
            "filter.x.clean=cat",
            "commit",
            "-qam",
            "mine",
        ],
    )?
    .success()?;
    let _ = fs::remove_file(&canary);
    pair.merge(&[])?.exits(3)?.complains("merge driver")?.complains("git merge refs/agents/web")?;
    ensure!(!canary.exists(), "at the third merge");
    Ok(())
}

#[test]
fn states_of_the_persons_that_are_in_the_way_are_said() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    pair.person(&[("file", Some("1\n"))])?;
    git(&pair.home, &pair.agents, &["pull", "-q"])?.success()?;
    let tip = pair.agent(&[("new", Some("x\n"))])?;
    pair.git(&["checkout", "-q", "--detach"])?.success()?;
    pair.refuses(2, &["HEAD is on no branch"])?;
    pair.git(&["checkout", "-q", "main"])?.success()?;
    pair.git(&["bisect", "start"])?.success()?;
    pair.refuses(2, &["a bisect is in progress"])?;
    pair.git(&["bisect", "reset"])?.success()?;
    pair.git(&["worktree", "add", "-q", "-f", "../home/tree", "main"])?.success()?;
    pair.refuses(2, &["also checked out at"])?;
    pair.git(&["worktree", "remove", "../home/tree"])?.success()?;
    pair.git(&["sparse-checkout", "set", "a"])?.success()?;
    pair.refuses(3, &["sparse", "git merge refs/agents/web/heads/main"])?;
    pair.git(&["sparse-checkout", "disable"])?.success()?;
    for state in ["rebase-merge", "rebase-apply"] {
        pair.sh("mine", &format!("mkdir .git/{state}"))?;
        pair.refuses(2, &["in progress"])?;
        fs::remove_dir(pair.mine.join(".git").join(state))?;
    }
    // A working tree of its own is as good as the first one.
    pair.git(&["worktree", "add", "-q", "-b", "side", "../home/tree"])?.success()?;
    let tree = pair.home.path().join("home/tree");
    pair.merge(&["--into", &tree.to_string_lossy()])?.exits(64)?;
    let command = format!("git upload-pack {}", pair.agents.display());
    let into = tree.to_string_lossy().into_owned();
    pair.home.run(["pull", "web", "--merge", "--upload-pack", &command, "--into", &into])?.success()?;
    ensure!(pair.at(&pair.mine, "side")? == tip && pair.at(&pair.mine, "main")? != tip);
    ensure!(fs::read_to_string(tree.join("new"))? == "x\n");
    ensure!(
        git(&pair.home, &tree, &["status", "--porcelain"])?.text().is_empty() && pair.status()?.is_empty()
    );
    Ok(())
}

#[test]
fn homes_of_every_kind() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    let tip = pair.at(&pair.agents, "main")?;
    let command = format!("git upload-pack {}", pair.agents.display());
    let merge = |place: &str| {
        let into = pair.home.path().join(place).to_string_lossy().into_owned();
        pair.home.run(["pull", "web", "--merge", "--upload-pack", &command, "--into", &into])
    };
    let run = |args: &[&str]| git(&pair.home, pair.home.path(), args)?.success();
    // No commit yet.
    run(&["init", "-q", "-b", "trunk", "home/unborn"])?;
    merge("home/unborn")?.success()?;
    let unborn = pair.home.path().join("home/unborn");
    ensure!(pair.at(&unborn, "trunk")? == tip);
    ensure!(git(&pair.home, &unborn, &["status", "--porcelain"])?.text().is_empty());
    run(&["init", "-q", "--bare", "home/bare"])?;
    merge("home/bare")?.exits(2)?.complains("no working tree")?;
    // Another history.
    run(&["init", "-q", "-b", "main", "home/unrelated"])?;
    let unrelated = pair.home.path().join("home/unrelated");
    git(&pair.home, &unrelated, &["commit", "-q", "--allow-empty", "-m", "x"])?.success()?;
    merge("home/unrelated")?.exits(3)?.complains("no history in common")?.complains("allow-unrelated")?;
    // What libgit2 does not know is pulled all the same.
    if run(&["init", "-q", "-b", "main", "--ref-format=reftable", "home/reftable"]).is_ok() {
        merge("home/reftable")?.exits(3)?.complains("git merge refs/agents/web/heads/main")?;
        let reftable = pair.home.path().join("home/reftable");
        ensure!(pair.at(&reftable, "refs/agents/web/heads/main")? == tip);
    }
    Ok(())
}

/// One that is killed behind its last step leaves its lock to one that has nothing to do.
#[test]
fn what_a_merge_left_that_was_done_is_removed() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    pair.agent(&[("new", Some("new\n"))])?;
    pair.merge(&[])?.success()?;
    let left = ["index.lock", "agent-shim-merge"].map(|name| pair.mine.join(".git").join(name));
    std::fs::write(&left[0], "agent-shim merge\n")?;
    std::fs::create_dir(&left[1])?;
    pair.merge(&[])?.success()?;
    ensure!(left.iter().all(|left| !left.exists()));
    // Somebody else's stays.
    std::fs::write(&left[0], "git's\n")?;
    pair.merge(&[])?.success()?;
    ensure!(left[0].exists());
    Ok(())
}

/// Whenever a merge dies, the next one goes on, and nothing of the person's is lost.
#[test]
fn a_merge_may_be_killed_at_any_moment() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    let command = format!("git upload-pack {}", pair.agents.display());
    let into = pair.mine.to_string_lossy().into_owned();
    pair.home.file("mine/untracked", b"mine\n")?;
    for round in 0..25_u64 {
        let files: Vec<String> =
            (0..60).map(|number| format!("d{}/f{number}", (number + round) % 7)).collect();
        let text = format!("{round}\n");
        let files: Vec<(&str, Option<&str>)> =
            files.iter().map(|path| (&path[..], Some(&text[..]))).collect();
        let tip = pair.agent(&files)?;
        let mut merge =
            pair.home.shim(["pull", "web", "--merge", "--upload-pack", &command, "--into", &into]);
        let mut merge = merge.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // Moments spread over the whole of it, in no order.
        std::thread::sleep(Duration::from_micros(15_000 + round * 7919 % 25 * 1600));
        merge.kill()?;
        merge.wait()?;
        let output = pair.merge(&[])?.success()?;
        ensure!(pair.at(&pair.mine, "main")? == tip, "{round}: {output}");
        ensure!(pair.status()? == "?? untracked", "{round}: {}", pair.status()?);
        ensure!(pair.file("untracked")? == "mine\n");
        for left in ["index.lock", "agent-shim-merge", "agent-shim-index"] {
            ensure!(!pair.mine.join(".git").join(left).exists(), "{left}");
        }
    }
    pair.git(&["fsck", "--strict"])?.success()?;
    Ok(())
}
