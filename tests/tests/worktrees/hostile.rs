//! Names that lead elsewhere, and folders that are not what they were.

use agent_tests::{Who, layer, until};
use anyhow::{Context, ensure};

use super::support::Case;

#[test]
fn names_that_git_or_a_program_would_misread_are_refused_before_anything_is_done() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself, "clone")?;
    for name in [
        "..",
        "../x",
        "a/../b",
        "/etc",
        "a//b",
        ".hidden",
        "a/.b",
        "x.lock",
        "a b",
        "a\tb",
        "a\nb",
        "\u{1b}[2J",
        "HEAD",
        "@",
        "@{-1}",
        "a~1",
        "a^",
        "a:b",
        "a*",
        "refs/heads/main",
        ".git",
        "a/.git",
        "-b",
        "--orphan",
        "--upload-pack=x",
    ] {
        for command in ["add", "remove"] {
            let output = case.0.run(["worktree", command, name, "box"])?;
            ensure!(output.code() == 64, "{command} {name:?}: {output}");
            ensure!(!output.stderr.contains(&0x1b), "{output}");
        }
    }
    ensure!(case.inside("git worktree list | wc -l; ls -A")?.text() == "1\n.git\nfile");
    Ok(())
}

#[test]
fn names_that_are_alike_do_not_meet() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself, "clone")?;
    let long = "x".repeat(150);
    let names = [
        "a/b",
        "a-b",
        "a.b",
        "a_b",
        "f\u{fc}r/alle",
        "fralle",
        "a+b",
        "a=b,c",
        "$(touch${IFS}evil)",
        "'\"",
        &long,
    ];
    // Each of them takes half a minute in an emulated machine.
    let names = if layer().shares_kernel { &names[..] } else { &names[..6] };
    for name in names.iter().copied() {
        case.add(name, &["--create", "--", "sh", "-c", "basename \"$PWD\"; exec cat"])?;
    }
    for name in names.iter().copied() {
        case.session(name, None)?;
        case.logged(name, name.rsplit('/').next().unwrap())?;
        let listed = case.listed(name)?.context("it is not listed")?;
        ensure!(listed["folder"] == "present" && listed["checked_out"] == name, "{listed:#}");
    }
    ensure!(case.0.sh("find /workspace /tmp -name evil")?.text().is_empty());
    for name in names.iter().copied() {
        case.worktree("remove", name, &[])?.success()?;
    }
    ensure!(case.0.sh("ls -A /workspace/.worktrees")?.text().is_empty());
    Ok(())
}

#[test]
fn a_folder_that_the_agent_removed_is_told_and_cleaned_up_and_holds_nothing_up() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself, "clone")?;
    case.add("fix", &["--create"])?;
    case.add("old", &[])?;
    case.session("fix", None)?;
    case.inside("rm -rf .worktrees/fix")?;
    ensure!(case.listed("fix")?.is_some_and(|one| one["folder"] == "missing"));
    ensure!(case.0.run(["worktree", "list", "box"])?.text().contains("the folder is gone"));
    // The sandbox starts all the same.
    case.0.tell("stop", &[])?.success()?;
    case.0.tell("start", &[])?.success()?;
    case.session("old", None)?;
    until("its session to be given up", || {
        let listed = case.listed("fix")?.context("it is not listed")?;
        let session = &listed["session"];
        Ok((session["state"] == "parked"
            && session["reason"].as_str().is_some_and(|why| why.contains("fix")))
        .then_some(()))
    })?;
    ensure!(case.0.status()?["state"] == "running" && case.0.status()?["agent"]["pid"].is_u64());
    case.worktree("remove", "fix", &[])?.success()?;
    ensure!(case.inside("git worktree list --porcelain")?.text().matches("worktree ").count() == 2);
    case.add("fix", &[])?;
    case.session("fix", None).map(drop)
}

#[test]
fn a_link_in_the_place_of_a_worktree_is_seen_and_its_target_stays() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself, "clone")?;
    case.add("fix", &["--create"])?;
    case.inside("mkdir /tmp/else; echo keep >/tmp/else/file; mv .worktrees/fix /tmp/moved; ln -s /tmp/else .worktrees/fix")?;
    ensure!(case.listed("fix")?.is_some_and(|one| one["folder"] == "replaced"));
    let refused = case.worktree("remove", "fix", &[])?;
    ensure!(refused.code() == 2 && refused.errors().contains("not that worktree"), "{refused}");
    case.worktree("remove", "fix", &["--force"])?.success()?;
    ensure!(case.0.sh("cat /tmp/else/file; ls -A /workspace/.worktrees")?.text() == "keep");
    ensure!(case.listed("fix")?.is_none());
    // One that leads to the workspace itself.
    case.add("fix", &[])?;
    case.inside("rm -rf .worktrees/fix; ln -s /workspace .worktrees/fix")?;
    ensure!(case.listed("fix")?.is_some_and(|one| one["folder"] == "replaced"));
    case.worktree("remove", "fix", &["--force"])?.success()?;
    ensure!(case.inside("cat file; git log -1 --format=%s")?.text() == "one\none");
    Ok(())
}

#[test]
fn a_repository_that_is_gone_keeps_nobody_from_cleaning_up() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself, "clone")?;
    case.add("fix", &["--create"])?;
    case.inside("rm -rf .git .worktrees")?;
    ensure!(case.listed("fix")?.is_some_and(|one| one["folder"] == "missing"));
    case.worktree("remove", "fix", &[])?.success()?;
    ensure!(case.listed("fix")?.is_none());
    ensure!(case.worktree("add", "fix", &["--create"])?.code() == 2);
    Ok(())
}

#[test]
fn what_git_says_inside_cannot_harm_the_terminal() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself, "clone")?;
    let evil = "#!/bin/sh\nprintf '\\033]0;owned\\007\\n' >&2\nexit 1\n";
    case.inside(&format!("mkdir -p ~/bin; cat >~/bin/git <<'END'\n{evil}END\nchmod +x ~/bin/git"))?;
    case.0.tell("stop", &[])?.success()?;
    case.0.run(["start", "box", "-e", "PATH=/home/sandbox/bin:/usr/bin:/bin"])?.success()?;
    for args in [
        &["add", "fix", "box", "--create"][..],
        &["add", "old", "box"],
        &["list", "box"],
        &["list", "box", "--json"],
    ] {
        let output = case.0.run([&["worktree"], args].concat())?;
        ensure!(![&output.stdout, &output.stderr].iter().any(|text| text.contains(&0x1b)), "{output}");
    }
    Ok(())
}

#[test]
fn a_git_that_never_answers_is_not_waited_for_when_the_person_leaves() -> anyhow::Result<()> {
    let case = Case::start(Who::Myself, "clone")?;
    case.inside(
        "mkdir -p ~/bin; printf '#!/bin/sh\\necho $$ >/tmp/new; mv /tmp/new /tmp/asked; exec sleep 1000\\n' >~/bin/git; chmod +x ~/bin/git",
    )?;
    case.0.tell("stop", &[])?.success()?;
    case.0.run(["start", "box", "-e", "PATH=/home/sandbox/bin:/usr/bin:/bin"])?.success()?;
    let mut add = case.0.shim(["worktree", "add", "fix", "box", "--create"]).spawn()?;
    let asked =
        until("git to be asked", || Ok(Some(case.0.sh("cat /tmp/asked")?).filter(|out| out.code() == 0)))?;
    // It holds no lock meanwhile.
    case.0.tell("restart", &[])?.success()?;
    add.kill()?;
    add.wait()?;
    let there = format!("kill -0 {}", asked.text());
    until("git to be ended", || Ok((case.0.sh(&there)?.code() != 0).then_some(())))?;
    ensure!(case.0.status()?["worktrees"] == serde_json::json!([]));
    Ok(())
}
