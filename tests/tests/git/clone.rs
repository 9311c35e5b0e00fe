//! A repository as the project: the sandbox gets a clone of its own, and what is committed there comes home.

use std::{fs, path::Path};

use agent_tests::{Home, Output, Sandbox, Who, layer};
use anyhow::ensure;

use crate::support::{contents, git, repository};

/// A sandbox as a person starts it in the repository `project`.
pub(crate) fn cloned(home: Home, flags: &[&str]) -> anyhow::Result<(Sandbox, Output)> {
    let (sandbox, output) = Sandbox::builder().home(home).flags(flags.to_vec()).try_start()?;
    Ok((sandbox, output.success()?))
}

/// The folder in which the clone lies on the host.
pub(crate) fn work(sandbox: &Sandbox) -> std::path::PathBuf {
    sandbox.folder().join("work")
}

#[test]
fn the_default_in_a_repository_is_a_clone_whose_commits_come_home() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let home = Home::new(*who)?;
        let project = repository(&home, "project")?;
        git(&home, &project, &["config", "user.name", "Per Son"])?.success()?;
        git(&home, &project, &["config", "user.email", "per@example.org"])?.success()?;
        git(&home, &project, &["remote", "add", "origin", "https://user:token@example.org/x"])?.success()?;
        home.file("project/untracked", b"mine")?;
        let before = contents(&project)?;
        let (sandbox, told) = cloned(home, &[])?;
        let head = git(&sandbox, &project, &["rev-parse", "HEAD"])?.text();
        let told = told.complains(&format!("a clone of its own, branch `main` at {}", &head[..10]))?;
        told.complains("agent-shim pull box")?;
        // Commits work at once, in the person's name; nothing else of their configuration is there.
        let inside =
            sandbox.sh("cd /workspace && git status --porcelain --branch && ls && cat .git/config")?;
        let inside = inside.success()?.text();
        ensure!(inside.starts_with("## main\nfile\n") && !inside.contains("token"), "{inside}");
        sandbox
            .sh("echo two >> file && git commit -qam two && git log --format=%an refs/agent-shim/base..")?
            .success()?;
        ensure!(contents(&project)? == before, "the project is as it was");
        let pulled = sandbox.tell("pull", &[])?.success()?.text();
        ensure!(pulled.contains("box: 1 commit, 1 file, 1 insertion"), "{pulled}");
        let author =
            git(&sandbox, &project, &["log", "--format=%an %ae", "-1", "refs/agents/box/heads/main"])?;
        ensure!(author.text() == "Per Son per@example.org", "{author}");
        git(&sandbox, &project, &["fsck", "--strict"])?.success()?;
        sandbox.sh("git fsck --strict")?.success()?;
        // Nothing in the clone is tied to the host's objects.
        let alternates = work(&sandbox).join(".git/objects/info/alternates");
        ensure!(!alternates.exists() && !work(&sandbox).join(".git/hooks").exists());

        // A stopped sandbox goes on with what it has, whatever became of it.
        sandbox.tell("stop", &["--force"])?.success()?;
        let again = sandbox.tell("start", &[])?.success()?;
        ensure!(!again.errors().contains("a clone of its own"), "{again}");
        sandbox.sh("git log --oneline | grep two && rm -rf .git file")?.success()?;
        sandbox.tell("stop", &["--force"])?.success()?;
        sandbox.tell("start", &[])?.success()?;
        ensure!(sandbox.sh("ls -A")?.success()?.text().is_empty(), "never cloned again");
        // But asked to begin anew, it is.
        sandbox.tell("stop", &["--force"])?.success()?;
        sandbox.tell("start", &["--fresh"])?.success()?.complains("a clone of its own")?;
        ensure!(sandbox.sh("cat file")?.success()?.text() == "one");
    }
    Ok(())
}

#[test]
fn nothing_that_the_branch_does_not_reach_gets_in() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = repository(&home, "project")?;
    git(&home, &project, &["checkout", "-q", "-b", "secret"])?.success()?;
    home.file("project/password", b"correct horse battery staple")?;
    git(&home, &project, &["add", "-A"])?.success()?;
    git(&home, &project, &["commit", "-qm", "secret"])?.success()?;
    let secret = git(&home, &project, &["rev-parse", "HEAD:password"])?.success()?.text();
    git(&home, &project, &["checkout", "-q", "main"])?.success()?;
    home.file("unreachable", b"nobody reaches this")?;
    let unreachable = git(&home, &project, &["hash-object", "-w", "../unreachable"])?.success()?.text();
    git(&home, &project, &["gc", "-q", "--prune=never"])?.success()?;
    let (sandbox, _) = cloned(home, &[])?;
    for id in [&secret, &unreachable] {
        sandbox.sh(&format!("git cat-file -e {id}"))?.exits(1)?;
    }
    ensure!(sandbox.sh("git branch -a --format='%(refname)'")?.success()?.text() == "refs/heads/main");
    let objects = sandbox.sh("git cat-file --batch-all-objects --batch-check | wc -l")?.success()?.text();
    ensure!(objects == "3", "{objects}");
    for (path, (_, bytes)) in contents(&work(&sandbox))? {
        ensure!(!bytes.windows(10).any(|part| part == b"correct ho"), "{}", path.display());
    }
    sandbox.tell("stop", &["--force"])?.success()?;

    // Asked for, another branch gets in, or all of them.
    let asked = sandbox.tell("start", &["--branch", "secret"])?.exits(64)?;
    asked.complains("`box` has one")?.complains("hint: `--fresh`")?;
    sandbox.tell("start", &["--fresh", "--branch", "secret"])?.success()?.complains("branch `secret` at")?;
    sandbox.sh("cat password && git status --porcelain --branch | grep -x '## secret'")?.success()?;
    sandbox.tell("stop", &["--force"])?.success()?;
    sandbox.tell("start", &["--fresh", "--all-branches", "--branch", "main"])?.success()?;
    let all = sandbox.sh("git branch --format='%(refname:short)'; git fsck --strict")?.success()?.text();
    ensure!(all == "main\nsecret", "{all}");
    Ok(())
}

#[test]
fn what_cannot_be_cloned_is_told_and_leaves_nothing() -> anyhow::Result<()> {
    let mut home = Home::new(Who::Ordinary)?;
    home.project("plain")?;
    let project = repository(&home, "project")?;
    let start = |home: &Home, args: &[&str]| home.run([&["start"], args, &["--", "cat"]].concat());
    let none = |home: &Home| home.run(["list", "--json"]).map(|list| list.text() == "[]");
    start(&home, &["--workspace", "clone", "plain"])?
        .exits(2)?
        .complains("plain is not in a git repository")?
        .complains("hint: `git init` makes it one, and `--workspace bind`")?;
    start(&home, &["--branch", "nowhere", "project"])?.exits(2)?.complains("there is no branch `nowhere`")?;
    start(&home, &["--branch", "../x", "project"])?.exits(64)?.complains("is not the name of a branch")?;
    start(&home, &["--branch", "main", "plain"])?.exits(64)?.complains("`--branch` is for a clone")?;
    start(&home, &["--depth", "0", "project"])?.exits(64)?;
    ensure!(none(&home)?);
    // Outside of a repository the folder itself is it, and nobody is told of clones.
    let bound = start(&home, &["--name", "bound", "plain"])?.success()?;
    ensure!(!bound.errors().contains("clone"), "{bound}");
    home.run(["destroy", "--force", "bound"])?.success()?;
    // Without git nobody can tell what is a repository, and nobody is let into it by surprise.
    let empty = home.project("empty")?;
    let search = home.search_path();
    fs::create_dir_all(&empty)?;
    layer().link_programs(&empty)?;
    for program in ["newuidmap", "newgidmap", "setpriv", "cat"] {
        let found = search.split(':').map(|place| Path::new(place).join(program)).find(|path| path.exists());
        if let Some(found) = found {
            std::os::unix::fs::symlink(found, empty.join(program))?;
        }
    }
    home.variable("PATH", empty.as_os_str());
    start(&home, &["project"])?
        .exits(4)?
        .complains("there is no git on this machine")?
        .complains("`--workspace bind` works in the folder itself")?;
    ensure!(none(&home)?);
    start(&home, &["--workspace", "bind", "--name", "bound", "project"])?.success()?;
    ensure!(project.join(".git").exists());
    Ok(())
}

#[test]
fn an_objects_absence_is_told_and_the_sandbox_is_gone() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = repository(&home, "project")?;
    let blob = git(&home, &project, &["rev-parse", "HEAD:file"])?.success()?.text();
    fs::remove_file(project.join(".git/objects").join(&blob[..2]).join(&blob[2..]))?;
    let start = || home.run(["start", "project", "--", "cat"]);
    start()?.exits(3)?.complains("cannot clone")?.complains("git pack-objects:")?;
    ensure!(home.run(["list", "--json"])?.text() == "[]");
    // The same in one that has them elsewhere.
    git(&home, &project, &["config", "extensions.partialClone", "origin"])?.success()?;
    git(&home, &project, &["config", "remote.origin.promisor", "true"])?.success()?;
    git(&home, &project, &["config", "remote.origin.url", "ext::touch canary"])?.success()?;
    git(&home, &project, &["repack", "-q", "-d"])?;
    let packs = project.join(".git/objects/pack");
    fs::create_dir_all(&packs)?;
    fs::write(packs.join("pack-0000000000000000000000000000000000000000.promisor"), "")?;
    start()?.exits(2)?.complains("it is a partial clone")?.complains("hint: `git -C")?;
    ensure!(home.run(["list", "--json"])?.text() == "[]" && !home.path().join("canary").exists());
    Ok(())
}

#[test]
fn what_is_left_out_is_told() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = repository(&home, "project")?;
    repository(&home, "other")?;
    let add = ["-c", "protocol.file.allow=always", "submodule", "add", "-q", "../other", "lib\u{1b}[31m"];
    git(&home, &project, &add)?.success()?;
    home.file("project/.gitattributes", b"*.bin filter=lfs diff=lfs merge=lfs -text\n")?;
    for number in 0..5 {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
        home.file(&format!("project/{number}.bin"), pointer)?;
    }
    git(&home, &project, &["add", "-A"])?.success()?;
    git(&home, &project, &["commit", "-qm", "more"])?.success()?;
    // Whoever asks for filters does not get them run.
    git(&home, &project, &["config", "filter.lfs.smudge", "touch /tmp/canary; cat"])?.success()?;
    let (sandbox, told) = cloned(home, &[])?;
    let said = told.errors();
    ensure!(said.contains("note: 1 submodule is an empty folder: lib") && !said.contains('\u{1b}'), "{said}");
    ensure!(said.contains("note: 5 files of Git LFS are pointers: 0.bin, 1.bin, 2.bin, ...;"), "{said}");
    sandbox
        .sh("git status --porcelain | wc -c | grep -x 0 && grep -q git-lfs 0.bin && ls -A lib*")?
        .success()?;
    Ok(())
}
