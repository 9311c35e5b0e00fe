//! `agent-shim pull`: everything arrives, and nothing but what was asked for changes.

use std::{fs, process::Stdio, time::Duration};

use agent_tests::{Home, Who};
use anyhow::ensure;

use crate::support::{Case, contents, git};

#[test]
fn everything_the_agent_did_arrives() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let case = Case::start(*who)?;
        let main = case.at("refs/heads/main")?;
        case.inside(
            "git checkout -q -b work; mkdir a; echo x > a/b; git add -A; git commit -qm two; git tag v1",
        )?;
        case.inside("echo three > file; git commit -qam three; echo y > a/b; git stash -q")?;
        let told = case.pull(&["--json"])?.success()?.json()?;
        // The stash is two commits: the changes and the index.
        ensure!((&told["commits"], &told["files"]) == (&4.into(), &2.into()), "{told:#}");
        ensure!((&told["insertions"], &told["deletions"]) == (&2.into(), &1.into()), "{told:#}");
        for (here, inside) in [
            ("heads/work", "work"),
            ("heads/main", "main"),
            ("tags/v1", "v1"),
            ("stash", "stash"),
            ("HEAD", "HEAD"),
        ] {
            let expected = case.inside(&format!("git rev-parse {inside}"))?.text();
            ensure!(case.at(&format!("refs/agents/box/{here}"))? == expected, "{here}");
        }
        ensure!(
            case.at("refs/heads/main")? == main && case.git(&["status", "--porcelain"])?.text().is_empty()
        );
        case.git(&["fsck", "--strict"])?.success()?;
        ensure!(case.pull(&[])?.success()?.text() == "box: nothing new");

        // History is rewritten, a branch goes, another takes its name for a folder.
        let old = case.at("refs/agents/box/heads/work")?;
        case.inside(
            "git stash drop -q; git commit -q --amend -m again; git tag -d v1; git branch -m main main/next",
        )?;
        let shown = case.pull(&[])?.success()?.text();
        ensure!(shown.contains("rewritten: 1 commit left behind") && shown.contains("--prune"), "{shown}");
        ensure!(shown.contains("refs/agents/box/heads/main removed"), "{shown}");
        ensure!(case.at("refs/agents/box/heads/work")? == case.inside("git rev-parse work")?.text());
        ensure!(case.at("refs/agents/box/heads/work@{1}")? == old, "what was there can be found");
        ensure!(!case.at("refs/agents/box/stash")?.is_empty(), "kept");
        case.pull(&["--prune"])?.success()?;
        ensure!(case.at("refs/agents/box/stash")?.is_empty());
        case.git(&["fsck", "--strict"])?.success()?;
    }
    Ok(())
}

#[test]
fn a_dry_run_tells_the_same_and_changes_nothing() -> anyhow::Result<()> {
    let case = Case::start(Who::Ordinary)?;
    case.inside("echo two >> file; git commit -qam two")?;
    let before = contents(&case.clone)?;
    let told = case.pull(&["-n", "--json"])?.success()?.json()?;
    ensure!(contents(&case.clone)? == before);
    ensure!(told["commits"] == 1 && told["insertions"] == 1 && told["dry_run"] == true, "{told:#}");
    let done = case.pull(&["--json"])?.success()?.json()?;
    ensure!(done["refs"] == told["refs"]);
    Ok(())
}

#[test]
fn one_branch_alone() -> anyhow::Result<()> {
    let case = Case::start(Who::Ordinary)?;
    case.inside("git branch a; git branch b; git checkout -q b; git commit -q --allow-empty -m b")?;
    case.pull(&["--branch", "b"])?.success()?;
    ensure!(
        case.at("refs/agents/box/heads/a")?.is_empty() && !case.at("refs/agents/box/heads/b")?.is_empty()
    );
    case.pull(&["--branch", "c"])?.exits(3)?.complains("there is no branch")?;
    case.pull(&["--branch", "../x"])?.exits(64)?;
    Ok(())
}

#[test]
fn the_agents_own_repository_is_never_opened() -> anyhow::Result<()> {
    let case = Case::start(Who::Ordinary)?;
    let canary = case.sandbox.path().join("home/canary");
    let script = canary.display();
    // What would run on this host, were git run on that folder.
    case.inside(&format!(
        "for hook in post-checkout reference-transaction pre-auto-gc post-index-change; do
             printf '#!/bin/sh\\ntouch {script}\\n' > .git/hooks/$hook; chmod +x .git/hooks/$hook; done
         for name in core.fsmonitor core.sshCommand core.pager core.editor credential.helper uploadpack.packObjectsHook \
             core.alternateRefsCommand filter.x.clean filter.x.smudge diff.x.textconv diff.x.command merge.x.driver \
             diff.external core.hooksPath gpg.program; do git config $name 'touch {script}'; done
         printf '* filter=x diff=x merge=x\\n' > .gitattributes; git add -A 2>&1 || true; git commit -qam evil || true"
    ))?;
    case.sandbox.tell("pull", &[])?.exits(2)?.complains("what the agent itself writes")?;
    // A way around: a worktree, a link, a folder below.
    let project = case.sandbox.project().to_owned();
    let link = case.sandbox.path().join("home/link");
    std::os::unix::fs::symlink(&project, &link)?;
    for place in [&link, &project.join(".git")] {
        case.sandbox.tell("pull", &["--into", &place.to_string_lossy()])?.exits(2)?;
    }
    let pretender = case.sandbox.project().parent().unwrap_or(&project).join("home/pretender");
    fs::create_dir(&pretender)?;
    fs::write(pretender.join(".git"), format!("gitdir: {}/.git\n", project.display()))?;
    case.sandbox.tell("pull", &["--into", &pretender.to_string_lossy()])?.exits(2)?;
    case.pull(&[])?.success()?;
    ensure!(!canary.exists(), "something ran on the host");
    case.git(&["fsck"])?.success()?;
    Ok(())
}

#[test]
fn two_at_once_do_not_clash() -> anyhow::Result<()> {
    let case = Case::start(Who::Ordinary)?;
    for round in 0..3 {
        case.inside(&format!(
            "for n in 1 2 3 4 5; do echo {round}$n >> file; git commit -qam {round}$n; done"
        ))?;
        std::thread::scope(|scope| {
            let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| case.pull(&[])?.success())).collect();
            pulls.into_iter().try_for_each(|pull| pull.join().expect("no panic").map(drop))
        })?;
        ensure!(case.at("refs/agents/box/heads/main")? == case.inside("git rev-parse main")?.text());
        case.git(&["fsck", "--strict"])?.success()?;
    }
    let left: Vec<_> =
        fs::read_dir(case.clone.join(".git/objects"))?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(!left.iter().any(|name| name.to_string_lossy().starts_with("tmp_")), "{left:?}");
    Ok(())
}

/// Whenever a pull dies, what is at home is whole, and the next one brings the rest.
#[test]
fn a_pull_may_be_killed_at_any_moment() -> anyhow::Result<()> {
    let case = Case::start(Who::Ordinary)?;
    let into = case.clone.to_string_lossy().into_owned();
    for round in 0..40_u64 {
        case.inside(&format!("echo {round} >> file; git commit -qam {round}; git branch -f b{}", round % 5))?;
        let mut pull = case.sandbox.shim(["pull", "box", "--into", &into]);
        let mut pull = pull.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // Moments spread over the whole of it, in no order.
        std::thread::sleep(Duration::from_micros(round * 7919 % 40 * 1000));
        pull.kill()?;
        pull.wait()?;
    }
    case.git(&["fsck", "--strict"])?.success()?;
    case.pull(&[])?.success()?;
    ensure!(case.at("refs/agents/box/heads/main")? == case.inside("git rev-parse main")?.text());
    case.git(&["fsck", "--strict"])?.success()?;
    Ok(())
}

#[test]
fn repositories_of_every_kind() -> anyhow::Result<()> {
    let case = Case::start(Who::Ordinary)?;
    let home = &case.sandbox;
    let project = home.project().to_string_lossy().into_owned();
    case.inside("for n in 1 2 3; do echo $n >> file; git commit -qam $n; done")?;
    let into = |place: &str| home.tell("pull", &["--into", &home.path().join(place).to_string_lossy()]);
    let tip = case.inside("git rev-parse main")?.text();
    let arrived = |place: &str| -> anyhow::Result<()> {
        let folder = home.path().join(place);
        let found = git(home, &folder, &["rev-parse", "refs/agents/box/heads/main"])?.success()?;
        ensure!(found.text() == tip, "{place}: {found}");
        git(home, &folder, &["fsck"])?.success()?;
        Ok(())
    };
    let run = |args: &[&str]| git(home, home.path(), args)?.success();
    run(&["init", "-q", "--bare", "home/bare"])?;
    run(&["init", "-q", "home/a \"strange\":\n#place"])?;
    run(&["clone", "-q", "--depth", "2", &format!("file://{project}"), "home/shallow"])?;
    run(&["clone", "-q", "--shared", &project, "home/shared"])?;
    case.git(&["worktree", "add", "-q", "../home/tree"])?.success()?;
    for place in ["home/bare", "home/a \"strange\":\n#place", "home/shared", "home/tree", "home/shallow"] {
        into(place)?.success()?;
        arrived(place)?;
    }
    run(&["init", "-q", "--object-format=sha256", "home/other"])?;
    into("home/other")?.exits(3)?.complains("sha256")?;
    into("home")?.exits(2)?.complains("not in a git repository")?;
    Ok(())
}

#[test]
fn a_git_that_is_missing_or_too_old_is_said_with_the_fix() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself)?;
    let pull = |path: &str| {
        let into = case.clone.to_string_lossy().into_owned();
        let mut command = case.sandbox.shim(["pull", "box", "--into", &into]);
        command.env("PATH", path);
        agent_tests::finish(command, b"")
    };
    pull("/nowhere")?.exits(4)?.complains("there is no git")?.complains("hint: install git")?;
    fs::create_dir(case.sandbox.path().join("old"))?;
    case.sandbox.program("old/git", "#!/bin/sh\necho git version 2.17.1\n")?;
    let old = case.sandbox.path().join("old");
    pull(&format!("{}:/usr/bin:/bin", old.display()))?
        .exits(4)?
        .complains("2.17.1 is too old")?
        .complains("hint:")?;
    // The one that Debian 12 has is new enough.
    if std::path::Path::new("/usr/bin/git").exists() {
        pull("/usr/bin:/bin")?.success()?;
    }
    Ok(())
}
