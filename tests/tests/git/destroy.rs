//! Nothing that is nowhere else is removed unless somebody insists.

use std::{fs, path::PathBuf};

use agent_tests::{Home, Output, Sandbox, Traces, Who, agent_shim, layer, until};
use anyhow::ensure;

use crate::support::{contents, git, repository};

/// A sandbox with a clone, and the project it comes from.
struct Case {
    sandbox: Sandbox,
    project: PathBuf,
}

impl Case {
    fn start(who: Who) -> anyhow::Result<Self> {
        let home = Home::new(who)?;
        let project = repository(&home, "project")?;
        let sandbox = Sandbox::builder().home(home).flags(["--workspace", "clone"]).start()?;
        Ok(Self { sandbox, project })
    }

    /// One that does not run any more, after this was done in it.
    fn stopped(who: Who, script: &str) -> anyhow::Result<Self> {
        let case = Self::start(who)?;
        case.inside(script)?;
        case.sandbox.tell("stop", &["--force"])?.success()?;
        Ok(case)
    }

    fn inside(&self, script: &str) -> anyhow::Result<Output> {
        let who = "git config user.name Agent; git config user.email agent@example.org";
        self.sandbox.sh(&format!("set -e; cd /workspace; {who}; {script}"))?.success()
    }

    fn git(&self, args: &[&str]) -> anyhow::Result<Output> {
        git(&self.sandbox, &self.project, args)
    }

    fn destroy(&self, args: &[&str]) -> anyhow::Result<Output> {
        self.sandbox.run([&["destroy", "box"], args].concat())
    }

    /// It was refused, and is there as it was.
    fn refused(&self, said: &str) -> anyhow::Result<()> {
        let work = self.sandbox.folder().join("work");
        let files = || -> anyhow::Result<Vec<PathBuf>> {
            let all = contents(&work)?.into_keys();
            Ok(all.filter(|path| !path.starts_with(work.join(".git"))).collect())
        };
        let before = files()?;
        self.destroy(&[])?.exits(2)?.complains(said)?.complains("--force")?;
        ensure!(files()? == before);
        until("everything to be gone", || {
            Ok(Traces::of(&self.sandbox).is_ok_and(|traces| traces.processes.is_empty()).then_some(()))
        })?;
        ensure!(self.sandbox.status()?["state"] == "stopped");
        Ok(())
    }

    fn is_gone(&self) -> bool {
        !self.sandbox.folder().exists()
    }
}

/// A file that nobody can read.
const LOCKED: &str = "echo secret > locked; chmod 0 locked";

const COMMIT: &str = "echo two >> file; git commit -qam two";

#[test]
fn one_with_commits_that_are_nowhere_else_stays() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let case = Case::stopped(*who, COMMIT)?;
        case.refused("has work that is nowhere else")?;
        case.destroy(&[])?
            .complains("1 commit")?
            .complains("refs/agents/box/heads/main")?
            .complains("pull box")?;
        case.destroy(&["-n"])?.exits(2)?;
        case.sandbox.tell("pull", &[])?.success()?;
        case.destroy(&[])?.success()?;
        ensure!(case.is_gone());
        ensure!(case.git(&["show", "refs/agents/box/heads/main:file"])?.success()?.text() == "one\ntwo");
    }
    Ok(())
}

#[test]
fn one_without_anything_new_goes_at_once() -> anyhow::Result<()> {
    let case = Case::stopped(
        Who::Ordinary,
        "git checkout -q -b same; git tag here; touch ignored; mkdir -p .git/info; echo ignored > .git/info/exclude",
    )?;
    case.destroy(&["-n"])?.success()?;
    ensure!(!case.is_gone());
    case.destroy(&[])?.success()?;
    ensure!(case.is_gone());
    Ok(())
}

#[test]
fn every_kind_of_ref_counts() -> anyhow::Result<()> {
    for (script, name) in [
        ("git checkout -q -b b; git commit -q --allow-empty -m b; git checkout -q main", "heads/b"),
        ("git tag -a -m t t", "tags/t"),
        ("git notes add -m n", "notes/commits"),
        ("echo s >> file; git stash -q", "stash"),
        ("git checkout -q --detach; git commit -q --allow-empty -m d", "HEAD"),
    ] {
        let case = Case::stopped(Who::Ordinary, script)?;
        case.refused(&format!("refs/agents/box/{name}"))?;
        case.destroy(&["--pull"])?.success()?;
        ensure!(
            case.is_gone()
                && case.git(&["rev-parse", "-q", "--verify", &format!("refs/agents/box/{name}")])?.code()
                    == 0
        );
    }
    Ok(())
}

#[test]
fn work_that_is_at_home_under_another_name_counts_as_being_there() -> anyhow::Result<()> {
    let case = Case::stopped(Who::Ordinary, COMMIT)?;
    case.sandbox.tell("pull", &[])?.success()?;
    case.git(&["merge", "-q", "--no-ff", "-m", "merged", "refs/agents/box/heads/main"])?.success()?;
    for name in ["HEAD", "heads/main"] {
        case.git(&["update-ref", "-d", &format!("refs/agents/box/{name}")])?.success()?;
    }
    case.destroy(&[])?.success()?;
    ensure!(case.is_gone());
    Ok(())
}

#[test]
fn work_that_is_gone_from_home_again_counts_as_lacking() -> anyhow::Result<()> {
    let case = Case::stopped(Who::Ordinary, COMMIT)?;
    case.sandbox.tell("pull", &[])?.success()?;
    // Its objects are still there, but nothing keeps them.
    for name in ["HEAD", "heads/main"] {
        case.git(&["update-ref", "-d", &format!("refs/agents/box/{name}")])?.success()?;
    }
    case.refused("1 commit")
}

#[test]
fn what_was_not_committed_is_kept_as_well() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let case = Case::stopped(*who, "echo dirty >> file; mkdir -p a/b; echo new > a/b/c")?;
        case.refused("files of the worktree main that are not committed")?;
        // Nothing new was made for it, and what is at home is not named.
        let again = case.destroy(&[])?.exits(2)?.complains("| 1 commit\n")?;
        ensure!(!String::from_utf8_lossy(&again.stderr).contains("heads/main"), "{again}");
        case.sandbox.tell("pull", &[])?.success()?;
        case.destroy(&[])?.success()?;
        ensure!(case.is_gone());
        let kept = case.git(&["for-each-ref", "--format=%(refname)", "refs/agents/box/snapshots"])?.text();
        ensure!(case.git(&["show", &format!("{kept}:a/b/c")])?.success()?.text() == "new", "{kept}");
    }
    Ok(())
}

#[test]
fn what_no_ref_holds_is_kept_as_well() -> anyhow::Result<()> {
    let case = Case::stopped(
        Who::Ordinary,
        "echo 1 >> file; git stash -q; echo 2 >> file; git stash -q
         git worktree add -q --detach .worktrees/d; cd .worktrees/d
         git commit -q --allow-empty -m detached; echo loose > loose",
    )?;
    case.refused("refs/agents/box/kept/worktrees/d")?;
    case.refused("refs/agents/box/kept/stash/")?;
    case.refused("files of the worktree d that are not committed")?;
    case.destroy(&["--pull"])?.success()?;
    let shown = case.git(&["log", "--format=%s", "refs/agents/box/kept/worktrees/d"])?.success()?.text();
    ensure!(shown == "detached\none", "{shown}");
    let kept = case.git(&["for-each-ref", "--format=%(refname)", "refs/agents/box/kept/stash"])?.text();
    ensure!(case.git(&["show", &format!("{kept}:file")])?.success()?.text() == "one\n1", "{kept}");
    Ok(())
}

#[test]
fn what_cannot_be_kept_at_all_is_named() -> anyhow::Result<()> {
    let case = Case::stopped(Who::Ordinary, LOCKED)?;
    case.refused("1 file that no commit can hold")?;
    case.refused("locked (the agent cannot read it)")?;
    case.destroy(&["--pull"])?.exits(2)?.complains("gives them up")?;
    case.destroy(&["--force"])?.success()?;
    ensure!(case.is_gone());
    let empty = Case::stopped(Who::Ordinary, "mkfifo pipe")?;
    empty.destroy(&[])?.success()?;
    Ok(())
}

#[test]
fn where_it_cannot_be_told_it_stays() -> anyhow::Result<()> {
    let damaged = Case::stopped(Who::Ordinary, &format!("{COMMIT}; rm -r .git/objects; mkdir .git/objects"))?;
    damaged.refused("cannot tell whether all work of `box` is at home too")?;

    let removed = Case::stopped(Who::Ordinary, "rm -r .git")?;
    removed.refused("cannot tell")?;

    let moved = Case::stopped(Who::Ordinary, COMMIT)?;
    fs::rename(&moved.project, moved.project.with_file_name("elsewhere"))?;
    moved.refused("cannot tell")?;
    moved.destroy(&["--pull"])?.exits(2)?;

    let no_repository = Case::stopped(Who::Ordinary, COMMIT)?;
    fs::remove_dir_all(no_repository.project.join(".git"))?;
    no_repository.refused("is not in a git repository")?;

    let case = Case::stopped(Who::Ordinary, COMMIT)?;
    let bin = case.sandbox.path().join("no-git");
    fs::create_dir(&bin)?;
    layer().link_programs(&bin)?;
    let with_path = |path: &str| {
        let shim = agent_shim().as_os_str().to_owned();
        let words = [format!("PATH={path}").into(), shim, "destroy".into(), "box".into()];
        agent_tests::finish(case.sandbox.command("env", words), b"")?.exits(2)
    };
    with_path(&bin.to_string_lossy())?.complains("no git on this machine")?;
    with_path("/nowhere")?.complains("cannot tell")?.complains(" installed")?;
    for case in [damaged, removed, moved, no_repository, case] {
        case.destroy(&["--force"])?.success()?;
        ensure!(case.is_gone());
    }
    Ok(())
}

/// What comes from inside is shown so that it controls no terminal, and there is an end to it.
#[test]
fn a_refusal_is_bounded_and_harmless() -> anyhow::Result<()> {
    let case = Case::stopped(
        Who::Ordinary,
        "e=$(printf 'x\\302\\233\\302\\2332Jy'); git commit -q --allow-empty -m \"$(printf '\\033[2J')\"
         git update-ref \"refs/heads/$e\" HEAD; i=0; while [ $i -lt 60 ]; do git update-ref refs/heads/many-$i HEAD; i=$((i+1)); done",
    )?;
    let output = case.destroy(&[])?.exits(2)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.lines().count() < 40 && said.contains("perhaps more"), "{said}");
    ensure!(!said.contains(['\x1b', '\u{9b}']), "{said}");
    Ok(())
}

#[test]
fn starting_afresh_asks_the_same() -> anyhow::Result<()> {
    let case = Case::stopped(Who::Ordinary, COMMIT)?;
    let fresh = |args: &[&str]| case.sandbox.run([&["start", "box", "--fresh"], args].concat());
    fresh(&[])?.exits(2)?.complains("nowhere else")?.complains("--fresh --discard box")?;
    fresh(&["--discard"])?.success()?;
    ensure!(case.inside("cat file")?.text() == "one");
    case.sandbox.tell("stop", &["--force"])?.success()?;
    fresh(&[])?.success()?;
    Ok(())
}

#[test]
fn one_that_is_removed_at_its_end_brings_its_work_home_first() -> anyhow::Result<()> {
    let work = "cd /workspace; git config user.name A; git config user.email a@b; echo two >> file; git commit -qam two";
    for (more, stays) in [("; echo dirty >> file".to_owned(), false), (format!("; {LOCKED}"), true)] {
        for words in [&["run"][..], &["start"]] {
            let home = Home::new(Who::Ordinary)?;
            let project = repository(&home, "project")?;
            let script = format!("{work}{more}; touch ~/done; exit 7");
            let place = project.to_string_lossy().into_owned();
            let flags = ["--name", "box", "--rm", "--workspace", "clone", &place, "--", "sh", "-c", &script];
            let output = home.run([words, &flags].concat())?;
            if words == ["run"] {
                output.exits(7)?;
            } else {
                // Its agent ends; the sandbox stays until it is stopped.
                output.success()?;
                let done = home.data().join("agents/box/home/done");
                until("the agent", || Ok(done.exists().then_some(())))?;
                home.run(["stop", "box"])?.exits(if stays { 3 } else { 0 })?;
            }
            let folder = home.data().join("agents/box");
            ensure!(folder.exists() == stays, "{words:?} {more}");
            let shown = git(&home, &project, &["show", "refs/agents/box/heads/main:file"])?.success()?;
            ensure!(shown.text() == "one\ntwo");
            if stays {
                home.run(["destroy", "box"])?.exits(2)?.complains("no commit can hold")?;
            }
        }
    }
    Ok(())
}

/// Nobody waits for it: the monitor does it alone, and says in the events why something stays.
#[test]
fn a_monitor_removes_what_is_at_home() -> anyhow::Result<()> {
    for (more, stays) in [("; echo dirty >> file".to_owned(), false), (format!("; {LOCKED}"), true)] {
        let home = Home::new(Who::Ordinary)?;
        let project = repository(&home, "project")?;
        let sandbox = Sandbox::builder().home(home).flags(["--workspace", "clone", "--rm"]).start()?;
        let work = "cd /workspace; git config user.name A; git config user.email a@b; echo two >> file; git commit -qam two";
        sandbox.sh(&format!("{work}{more}"))?.success()?;
        sandbox.kill(agent_tests::Part::Init)?;
        if stays {
            let kept = sandbox.wait_for_event("sandbox-kept")?;
            ensure!(kept.to_string().contains("no commit can hold"), "{kept:#}");
        } else {
            until("its removal", || Ok((!sandbox.folder().exists()).then_some(())))?;
        }
        git(&sandbox, &project, &["show", "refs/agents/box/heads/main:file"])?.success()?;
    }
    Ok(())
}

#[test]
fn stopping_can_bring_home() -> anyhow::Result<()> {
    let case = Case::start(Who::Ordinary)?;
    case.inside(COMMIT)?;
    let told = case.sandbox.tell("stop", &["--sync", "--json"])?.success()?.json()?;
    ensure!(told["stopped"] == "in-order" && told["pulled"]["commits"] == 1, "{told:#}");
    case.sandbox.tell("stop", &["--sync"])?.exits(2)?.complains("pull box")?;
    case.sandbox.tell("start", &[])?.success()?;
    fs::rename(case.project.join(".git"), case.project.join("gone"))?;
    let failed = case.sandbox.tell("stop", &["--sync"])?.exits(3)?;
    failed.complains("was stopped, but its work is not at home")?.complains("is not in a git repository")?;
    ensure!(case.sandbox.status()?["state"] == "stopped");
    Ok(())
}

#[test]
fn one_that_never_had_anything_goes() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    let project = home.project("project")?;
    git(&home, &project, &["init", "-q", "-b", "main"])?.success()?;
    let sandbox = Sandbox::builder().home(home).flags(["--workspace", "clone"]).start()?;
    sandbox.tell("stop", &["--force"])?.success()?;
    sandbox.tell("destroy", &[])?.success()?;
    Ok(())
}
