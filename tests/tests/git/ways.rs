//! A pull reads the repository at home by a library where that can, and asks git where it cannot. Both see the same.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use agent_tests::{Home, Output, Who, skip};
use anyhow::ensure;
use serde_json::Value;

use crate::support::{git, repository};

/// What an agent does, step by step. Each leaves something that is found out in its own way.
const STEPS: [&str; 12] = [
    "echo two > file; git commit -qam two",
    // Two commits, a folder.
    "mkdir -p a/b; seq 100 > a/b/c; git add -A; git commit -qm a; echo x >> a/b/c; git commit -qam b",
    // What is there already, in another place.
    "git mv a other; git commit -qm moved; git mv file other/file; git commit -qm again",
    // The content of before.
    "git checkout -q HEAD~3 -- .; git commit -qm back",
    // From a commit that no ref at home points to.
    "git checkout -qb side HEAD~4; echo side > side; git add -A; git commit -qm side",
    "git checkout -q main; git merge -q --no-edit side",
    "git tag -a -m v1 v1; git tag -a -m v2 v2 v1; git tag light HEAD~1",
    // Renamed and changed at once.
    "git mv other/b/c list; seq 3 100 > list; git commit -qam list || git commit -qam list",
    "printf 'a\\0b' > binary; ln -s file link; git add -A; git commit -qm binary",
    "chmod +x binary; rm link; echo link > link; git add -A; git commit -qm modes",
    "git commit -q --amend -m rewritten; git branch new; git branch -D side",
    "git checkout -q --orphan root; git rm -rqf .; git commit -q --allow-empty -m empty; echo r > r; git add r; git commit -qm r",
];

fn inside(home: &Home, folder: &str, script: &str) -> anyhow::Result<()> {
    let who = "export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@b";
    let mut command = home.command("sh", ["-c", &format!("set -e; {who}; cd {folder}; {script}")]);
    command.current_dir(home.path());
    agent_tests::finish(command, b"")?.success().map(drop)
}

fn pull(home: &Home, from: &str, into: &str, args: &[&str]) -> anyhow::Result<Output> {
    let command = format!("git upload-pack {}", home.path().join(from).display());
    let into = home.path().join(into).to_string_lossy().into_owned();
    home.run([&["pull", "web", "--json", "--upload-pack", &command, "--into", &into], args].concat())
}

fn without_places(mut told: Value) -> Value {
    told["repository"] = Value::Null;
    told
}

#[test]
fn both_ways_tell_the_same() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    repository(&home, "agents")?;
    // What the library does not know, git may.
    let mut homes = vec!["git init -q plain"];
    homes.push("git init -q odd; git -C odd config core.repositoryFormatVersion 1; git -C odd config extensions.refStorage files");
    inside(&home, "home", homes[0])?;
    inside(&home, "home", homes[1])?;
    let knows_odd = git(&home, &home.path().join("home/odd"), &["status"])?.code() == 0;
    if !knows_odd {
        skip("this git does not know ways to store refs");
        return Ok(());
    }
    for step in [&[""][..], &STEPS].concat() {
        inside(&home, "agents", step)?;
        let plain = without_places(pull(&home, "agents", "home/plain", &[])?.success()?.json()?);
        let odd = without_places(pull(&home, "agents", "home/odd", &[])?.success()?.json()?);
        ensure!(plain == odd, "after `{step}`: {plain:#} {odd:#}");
        for place in ["home/plain", "home/odd"] {
            git(&home, &home.path().join(place), &["fsck", "--strict", "--connectivity-only"])?.success()?;
        }
    }
    Ok(())
}

/// What is quick about a small pull: two programs are started for it, one that checks and one that publishes.
#[test]
fn a_small_pull_starts_git_twice() -> anyhow::Result<()> {
    let home = Home::new(Who::Myself)?;
    repository(&home, "agents")?;
    let real = ["/usr/local/bin/git", "/usr/bin/git"].into_iter().find(|git| Path::new(git).exists());
    let Some(real) = real else {
        skip("git is in no usual place");
        return Ok(());
    };
    let log = home.path().join("home/log");
    fs::create_dir(home.path().join("spy"))?;
    home.program("spy/git", &format!("#!/bin/sh\necho \"$*\" >> {}\nexec {real} \"$@\"\n", log.display()))?;
    inside(&home, "home", "git clone -q ../agents mine")?;
    let command = format!("{real} upload-pack {}", home.path().join("agents").display());
    let into = home.path().join("home/mine").to_string_lossy().into_owned();
    let pull = || {
        let mut pull = home.shim(["pull", "web", "--upload-pack", &command, "--into", &into]);
        pull.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", home.path().join("spy").display()));
        agent_tests::finish(pull, b"")?.success()
    };
    let started = || -> anyhow::Result<Vec<String>> {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(&log);
        let what = |line: &str| {
            ["index-pack", "update-ref"].into_iter().find(|what| line.contains(what)).map(str::to_owned)
        };
        Ok(text.lines().map(|line| what(line).unwrap_or_else(|| line.to_owned())).collect())
    };
    for step in ["echo 2 >> file; git commit -qam 2", "mkdir a; git mv file a/file; git commit -qm 3"] {
        inside(&home, "agents", step)?;
        ensure!(pull()?.text().contains("1 commit, 1 file"));
        // Both at once, so that either may be the first.
        let mut started = started()?;
        started.sort_unstable();
        ensure!(started == ["index-pack", "update-ref"], "{started:?}");
    }
    // Nothing new is found out without any.
    ensure!(pull()?.text() == "web: nothing new" && started()?.is_empty());
    Ok(())
}

#[test]
fn names_of_another_kind_on_both_sides() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    inside(
        &home,
        "home",
        "git init -q -b main --object-format=sha256 agents; git init -q --object-format=sha256 mine",
    )?;
    inside(&home, "home/agents", "echo 1 > a; git add a; git commit -qm 1")?;
    pull(&home, "home/agents", "home/mine", &[])?.success()?;
    inside(&home, "home/agents", "echo 2 >> a; git commit -qam 2")?;
    let told = pull(&home, "home/agents", "home/mine", &[])?.success()?.json()?;
    ensure!(told["commits"] == 1 && told["insertions"] == 1, "{told:#}");
    pull(&home, "home/agents", "home/mine", &["--merge"])?
        .exits(3)?
        .complains("git merge refs/agents/web")?;
    git(&home, &home.path().join("home/mine"), &["fsck", "--strict"])?.success()?;
    Ok(())
}

/// A repository that somebody else owns is one whose configuration somebody else wrote.
#[test]
fn an_owner_that_is_not_trusted_is_refused_unless_the_person_says_so() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        skip("nobody else can own a repository");
        return Ok(());
    }
    let home = Home::new(Who::Ordinary)?;
    repository(&home, "agents")?;
    let foreign = home.path().join("foreign");
    let mut made = Command::new("git");
    made.args(["init", "-q"]).arg(&foreign).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    ensure!(made.status()?.success());
    let opened = Command::new("chmod").args(["-R", "a+rwX"]).arg(&foreign).status()?;
    ensure!(opened.success());
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o777))?;
    pull(&home, "agents", "foreign", &[])?.exits(2)?.complains("dubious ownership")?;
    inside(&home, "home", &format!("git config --global --add safe.directory {}", foreign.display()))?;
    let told = pull(&home, "agents", "foreign", &[])?.success()?.json()?;
    ensure!(told["commits"] == 1, "{told:#}");
    pull(&home, "agents", "foreign", &["--merge"])?.exits(3)?.complains("hint: `git merge")?;
    Ok(())
}

/// Each pull brings a pack. Git puts them together when they are many, as after each fetch, and runs no hook for it.
#[test]
fn packs_do_not_become_many() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    repository(&home, "agents")?;
    inside(&home, "home", "git clone -q ../agents mine; cd mine; git config gc.autoDetach false")?;
    inside(
        &home,
        "home/mine",
        "for n in $(seq 51); do echo $n | git hash-object -w --stdin | git pack-objects -q .git/objects/pack/pack; \
         git prune-packed -q; done; printf '#!/bin/sh\\ntouch ../canary\\n' > .git/hooks/pre-auto-gc; \
         chmod +x .git/hooks/pre-auto-gc",
    )?;
    let packs = || -> anyhow::Result<usize> {
        let all = fs::read_dir(home.path().join("home/mine/.git/objects/pack"))?.flatten();
        Ok(all.filter(|entry| entry.path().extension().is_some_and(|kind| kind == "pack")).count())
    };
    let before = packs()?;
    ensure!(before > 50, "{before}");
    inside(&home, "agents", "echo 2 > file; git commit -qam 2")?;
    pull(&home, "agents", "home/mine", &[])?.success()?;
    ensure!(packs()? < 10, "{}", packs()?);
    ensure!(!home.path().join("home/canary").exists(), "a hook ran");
    git(&home, &home.path().join("home/mine"), &["fsck", "--strict"])?.success()?;
    Ok(())
}
