//! Sandboxes in which nobody has a git: what is served there is our own. And what a push does to files of the agent's, with a
//! git inside and without.

use agent_tests::{Home, Output, Sandbox, Who};
use anyhow::ensure;

use crate::support::{git, repository};

/// A sandbox, and a clone of its repository on the host.
struct Case {
    sandbox: Sandbox,
    clone: std::path::PathBuf,
}

impl Case {
    fn start(who: Who, has_git: bool) -> anyhow::Result<Self> {
        let home = Home::new(who)?;
        let project = repository(&home, "project")?;
        let clone = home.project("clone")?;
        git(&home, home.path(), &["clone", "-q", &project.to_string_lossy(), &clone.to_string_lossy()])?
            .success()?;
        let path = if has_git { "PATH=/usr/local/bin:/usr/bin:/bin" } else { "PATH=/nowhere" };
        let flags = ["--workspace", "bind", "-e", path];
        let sandbox = Sandbox::builder().home(home).flags(flags).command(["/bin/cat"]).start()?;
        Ok(Self { sandbox, clone })
    }

    /// The agent's own work, by a git that only it knows of.
    fn inside(&self, script: &str) -> anyhow::Result<Output> {
        let script = format!(
            "set -e; PATH=/usr/local/bin:/usr/bin:/bin; cd /workspace; git config user.name Agent; \
             git config user.email agent@example.org; {script}"
        );
        self.sandbox.run(["exec", self.sandbox.name(), "--", "/bin/sh", "-c", &script])?.success()
    }

    fn git(&self, args: &[&str]) -> anyhow::Result<Output> {
        git(&self.sandbox, &self.clone, args)
    }

    /// What is in a file of the clone's last commit.
    fn commit(&self, text: &str) -> anyhow::Result<()> {
        std::fs::write(self.clone.join("file"), text)?;
        self.git(&["commit", "-qam", "from the host"])?.success()?;
        Ok(())
    }
}

#[test]
fn everything_comes_home_without_a_git_inside() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let case = Case::start(*who, false)?;
        case.inside("git checkout -q -b work; echo two >> file; git commit -qam two; git tag -a -m v v1")?;
        let home = &case.sandbox;
        let into = case.clone.to_string_lossy().into_owned();
        let shown = home.tell("pull", &["--into", &into])?.success()?.text();
        ensure!(shown.contains("refs/agents/box/heads/work"), "{shown}");
        ensure!(case.git(&["cat-file", "-p", "refs/agents/box/heads/work:file"])?.text() == "one\ntwo");
        // Again, for what is new alone.
        case.inside("echo three >> file; git commit -qam three")?;
        let shown = home.tell("pull", &["--into", &into])?.success()?.text();
        ensure!(shown.starts_with("box: 1 commit, 1 file, 1 insertion"), "{shown}");
        let listed = git(home, home.path(), &["ls-remote", "agent::box"])?.success()?;
        for name in ["HEAD", "refs/heads/main", "refs/heads/work", "refs/tags/v1^{}"] {
            ensure!(listed.text().contains(&format!("\t{name}")), "{name} is missing in {listed}");
        }
        git(home, home.path(), &["clone", "-q", "agent::box", "home/new"])?.success()?;
        ensure!(std::fs::read(home.path().join("home/new/file"))? == b"one\ntwo\nthree\n");
        case.git(&["fetch", "-q", "agent::box", "refs/heads/*:refs/remotes/box/*"])?.success()?;
        case.git(&["push", "-q", "agent::box", "HEAD:refs/heads/new", "HEAD:refs/tags/mine"])?.success()?;
        let inside = case.inside("git rev-parse new mine; git fsck --strict")?.text();
        let ours = case.git(&["rev-parse", "HEAD"])?.text();
        ensure!(inside == format!("{ours}\n{ours}"), "{inside}");
        case.git(&["push", "-q", "agent::box", ":refs/heads/new"])?.success()?;
        case.inside("! git rev-parse -q --verify new")?;
        case.git(&["fsck", "--strict"])?.success()?;
    }
    Ok(())
}

/// The agent's files follow a push where nothing of the agent's is lost; otherwise they stay, and the branch with them.
#[test]
fn a_push_onto_a_branch_that_is_checked_out_needs_clean_files() -> anyhow::Result<()> {
    for has_git in [true, false] {
        let case = Case::start(Who::Ordinary, has_git)?;
        case.inside("git worktree add -q .worktrees/x -b x; echo new > unknown")?;
        for (branch, folder) in [("main", "."), ("x", ".worktrees/x")] {
            let to = format!("HEAD:refs/heads/{branch}");
            let push = |to: &str| case.git(&["push", "agent::box", to]);
            case.commit(&format!("{branch} {has_git}\n"))?;
            push(&to)?.success()?;
            let shown = case.inside(&format!(
                "cd {folder}; cat file; git status --porcelain -uno; git log -1 --format=%s"
            ))?;
            ensure!(shown.text() == format!("{branch} {has_git}\nfrom the host"), "{shown}");
            case.commit("more\n")?;
            let before = case.inside(&format!("git rev-parse {branch}"))?.text();
            for (dirty, why) in [
                ("echo mine >> file", "Working directory has unstaged changes"),
                ("git add file", "Working directory has staged changes"),
            ] {
                case.inside(&format!("cd {folder}; {dirty}"))?;
                push(&to)?.exits(1)?.complains(why)?;
                let now = case.inside(&format!("git rev-parse {branch}; tail -n 1 {folder}/file"))?.text();
                ensure!(now == format!("{before}\nmine"), "{now}");
            }
            case.inside(&format!("cd {folder}; git reset -q --hard"))?;
            // A file in the way, of which git knows nothing.
            std::fs::write(case.clone.join(format!("way-{branch}")), "theirs\n")?;
            case.git(&["add", "."])?.success()?;
            case.commit("in the way\n")?;
            case.inside(&format!("echo mine > {folder}/way-{branch}"))?;
            push(&to)?.exits(1)?.complains("Could not update working tree to new HEAD")?;
            let now = case.inside(&format!("git rev-parse {branch}; cat {folder}/way-{branch}"))?.text();
            ensure!(now == format!("{before}\nmine"), "{now}");
            case.inside(&format!("rm {folder}/way-{branch}"))?;
            push(&to)?.success()?;
            push(&format!(":refs/heads/{branch}"))?
                .exits(1)?
                .complains("deletion of the current branch prohibited")?;
        }
    }
    Ok(())
}

/// Whatever the repository inside is, a pull of it ends, and says why.
#[test]
fn a_repository_that_is_a_trap_ends_a_pull_in_words() -> anyhow::Result<()> {
    let case = Case::start(Who::Ordinary, false)?;
    let into = case.clone.to_string_lossy().into_owned();
    let traps = [
        ("mkfifo config", "not an ordinary file"),
        ("mkfifo packed-refs", "not an ordinary file"),
        ("ln -s /dev/zero packed-refs", "not an ordinary file"),
        ("ln -s packed-refs packed-refs", "cannot read the refs"),
        ("mkfifo objects/info/alternates", "not an ordinary file"),
        ("mkfifo objects/pack/x.idx", "not an ordinary file"),
        ("echo x > objects/pack/x.idx", "cannot read x.idx"),
        ("printf '[extensions]\\nnew = 1\\n' > config", "uses `extensions.new`"),
        (
            "o=$(git rev-parse HEAD); f=objects/$(echo $o | cut -c1-2)/$(echo $o | cut -c3-); rm -f $f; echo x > $f",
            "cannot read object",
        ),
        (
            "o=$(git rev-parse HEAD^{tree}); rm -f objects/$(echo $o | cut -c1-2)/$(echo $o | cut -c3-)",
            "lacks object",
        ),
    ];
    for (trap, says) in traps {
        // The agent's commit is in a file of its own, so that it can be broken.
        let set = format!(
            "rm -rf .git; git init -q -b main; git config user.name A; git config user.email a@b; echo $$ > file; git add file; \
             git commit -qm new; mkdir -p .git/objects/info .git/objects/pack; cd .git; \
             case '{}' in *config*) rm config;; esac; {trap}",
            trap.replace('\'', "")
        );
        let script = format!("set -e; PATH=/usr/local/bin:/usr/bin:/bin; cd /workspace; {set}");
        let home = &case.sandbox;
        home.run(["exec", home.name(), "--", "/bin/sh", "-c", &script])?.success()?;
        let pulled = home.tell("pull", &["--into", &into, "--timeout", "30s"])?;
        ensure!(!pulled.errors().is_empty() && pulled.code() != 0, "{trap}: {pulled}");
        ensure!(pulled.errors().contains(says), "{trap}: {pulled}");
    }
    Ok(())
}

#[test]
fn init_looks_where_the_shim_mounts_it() {
    let init = include_str!("../../../init/src/server/git.rs");
    let said = format!("const BUILT_IN: &str = {:?};", agent_shim::isolation::plan::GIT);
    assert!(init.contains(&said), "not in init: {said}");
}
