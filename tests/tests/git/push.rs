//! `agent-shim push`: newer commits of the person's get in, and nothing that they did not name.

use std::{fs, path::PathBuf};

use agent_tests::{Home, Output, Sandbox, Who, until};
use anyhow::ensure;

use crate::support::{git, repository};

struct Case {
    sandbox: Sandbox,
    project: PathBuf,
}

impl Case {
    fn start(who: Who, flags: &[&str]) -> anyhow::Result<Self> {
        let home = Home::new(who)?;
        let project = repository(&home, "project")?;
        let flags = [&["--workspace", "clone"], flags].concat();
        let sandbox = Sandbox::builder().home(home).flags(flags).start()?;
        Ok(Self { sandbox, project })
    }

    fn inside(&self, script: &str) -> anyhow::Result<String> {
        let who = "git config user.name Agent; git config user.email agent@example.org";
        Ok(self.sandbox.sh(&format!("set -e; cd /workspace; {who}; {script}"))?.success()?.text())
    }

    fn git(&self, args: &[&str]) -> anyhow::Result<String> {
        Ok(git(&self.sandbox, &self.project, args)?.success()?.text())
    }

    fn commit(&self, line: &str) -> anyhow::Result<String> {
        let file = self.project.join("file");
        fs::write(&file, format!("{}{line}\n", fs::read_to_string(&file)?))?;
        self.git(&["commit", "-qam", line])?;
        self.git(&["rev-parse", "HEAD"])
    }

    fn push(&self, args: &[&str]) -> anyhow::Result<Output> {
        self.sandbox.tell("push", args)
    }
}

#[test]
fn what_was_named_arrives_and_nothing_else() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let case = Case::start(*who, &[])?;
        case.inside("git checkout -q -b work")?;
        ensure!(case.push(&[])?.success()?.text() == "box: nothing new");
        case.git(&["branch", "private"])?;
        case.commit("two")?;
        let new = case.commit("three")?;
        let told = case.push(&["-n", "--json"])?.success()?.json()?;
        ensure!(told["refs"][0]["commits"] == 2 && told["refs"][0]["ref"] == "refs/heads/main", "{told:#}");
        ensure!(case.inside("git rev-parse main")? != new, "a dry run changes nothing");
        let shown = case.push(&[])?.success()?.text();
        ensure!(shown.contains("2 commits sent") && shown.contains("refs/heads/main"), "{shown}");
        ensure!(case.inside("git rev-parse main; git fsck --strict 2>&1")? == new);
        case.push(&["main", "HEAD~1:old", "main:refs/tags/v1"])?.success()?;
        let branches = case.inside("git for-each-ref --format='%(refname)' refs/heads refs/tags")?;
        ensure!(branches == "refs/heads/main\nrefs/heads/old\nrefs/heads/work\nrefs/tags/v1", "{branches}");
    }
    Ok(())
}

#[test]
fn commits_inside_are_left_behind_by_force_alone() -> anyhow::Result<()> {
    let case = Case::start(Who::Ordinary, &[])?;
    case.inside("git commit -q --allow-empty -m inside; git checkout -q -b work")?;
    let inside = case.inside("git rev-parse main")?;
    let new = case.commit("two")?;
    let refused = case.push(&["main"])?.exits(3)?;
    refused.complains("would leave behind")?.complains("agent-shim pull box")?.complains("--force")?;
    ensure!(case.inside("git rev-parse main")? == inside);
    case.push(&["main", "--force", "--json"])?.success()?;
    ensure!(case.inside("git rev-parse main; git rev-parse main@{1} 2>/dev/null || true")?.starts_with(&new));
    Ok(())
}

#[test]
fn what_is_checked_out_moves_along_if_nothing_was_changed() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let case = Case::start(*who, &[])?;
        let new = case.commit("two")?;
        case.push(&[])?.success()?;
        let now = case.inside("git rev-parse HEAD; git status --porcelain; cat file")?;
        ensure!(now == format!("{new}\none\ntwo"), "{now}");
    }
    Ok(())
}

#[test]
fn what_the_agent_has_changed_is_not_touched() -> anyhow::Result<()> {
    for change in ["echo mine > file; echo new > other", "echo mine > file; git add file", "rm file"] {
        let case = Case::start(Who::Ordinary, &[])?;
        case.inside(change)?;
        let look = "git rev-parse HEAD; git diff HEAD; git status --porcelain";
        let before = case.inside(look)?;
        case.commit("two")?;
        for flags in [&[][..], &["--force"]] {
            let refused = case.push(flags)?.exits(3)?;
            refused.complains("refs/heads/main` stays as it is")?.complains("another name inside")?;
            ensure!(case.inside(look)? == before);
        }
        case.push(&["main:from-host"])?.success()?;
        ensure!(case.inside(look)? == before);
        ensure!(case.inside("git show from-host:file")? == "one\ntwo");
    }
    Ok(())
}

#[test]
fn a_sandbox_that_does_not_run_takes_it_too() -> anyhow::Result<()> {
    let case = Case::start(Who::Ordinary, &[])?;
    case.inside("git checkout -q -b work")?;
    case.sandbox.tell("stop", &["--force"])?.success()?;
    let new = case.commit("two")?;
    case.push(&[])?.success()?;
    case.sandbox.tell("start", &[])?.success()?;
    ensure!(case.inside("git rev-parse main")? == new);
    Ok(())
}

#[test]
fn what_cannot_go_is_told() -> anyhow::Result<()> {
    let case = Case::start(Who::Ordinary, &[])?;
    case.push(&["missing"])?.exits(3)?.complains("there is no branch or commit `missing`")?;
    case.push(&["--", "--upload-pack=x"])?.exits(3)?.complains("there is no branch or commit")?;
    case.push(&["a:b:c"])?.exits(64)?;
    case.git(&["checkout", "-q", "--detach"])?;
    case.push(&[])?.exits(2)?.complains("no branch is checked out")?;
    let bind = Sandbox::builder().start()?;
    bind.tell("push", &[])?.exits(2)?.complains("has your commits")?;
    Ok(())
}

/// No hook, helper or filter of the person's repository takes part on this side.
#[test]
fn nothing_runs_at_home() -> anyhow::Result<()> {
    let case = Case::start(Who::Ordinary, &[])?;
    case.inside("git checkout -q -b work")?;
    let canary = case.sandbox.path().join("home/canary");
    let touch = format!("#!/bin/sh\ntouch {}\n", canary.display());
    for hook in ["pre-push", "reference-transaction", "post-index-change"] {
        let hook = case.project.join(".git/hooks").join(hook);
        fs::create_dir_all(hook.parent().unwrap_or(&hook))?;
        fs::write(&hook, &touch)?;
        fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let new =
        case.git(&["-c", "core.hooksPath=/dev/null", "commit-tree", "-m", "x", "-p", "HEAD", "HEAD^{tree}"])?;
    case.git(&["-c", "core.hooksPath=/dev/null", "update-ref", "refs/heads/main", &new])?;
    let _ = fs::remove_file(&canary);
    for name in ["core.fsmonitor", "core.sshCommand", "credential.helper", "core.alternateRefsCommand"] {
        case.git(&["config", name, &format!("touch {}", canary.display())])?;
    }
    case.push(&["main"])?.success()?;
    ensure!(case.inside("git rev-parse main")? == new && !canary.exists());
    Ok(())
}

/// What speaks inside can say anything: it is believed as far as it concerns itself, and shown so that it controls
/// nothing.
#[test]
fn a_git_inside_that_lies_hurts_nobody() -> anyhow::Result<()> {
    let case = Case::start(Who::Ordinary, &["-e", "PATH=/home/sandbox/bin:/usr/bin:/bin"])?;
    // What a repository of this form is served by is git itself, whatever that is.
    case.inside("git config core.repositoryformatversion 1; git config extensions.noop-v1 true")?;
    let bin = case.sandbox.folder().join("home/bin");
    fs::create_dir(&bin)?;
    let before = (case.git(&["for-each-ref"])?, case.git(&["status", "--porcelain"])?);
    let new = case.commit("two")?;
    let id = "1".repeat(40);
    let greet = format!(
        "l() {{ printf '%04x%b' $(($(printf '%b' \"$1\" | wc -c) + 4)) \"$1\"; }}
         z=\"{id} refs/heads/main\\\\000report-status side-band-64k object-format=sha1\"; g() {{ l \"$z\"; printf 0000; }}"
    );
    for (name, script, said) in [
        ("silent", "exec sleep 1000", "no answer in time"),
        ("silent when it listens", "g; exec sleep 1000", ""),
        ("gone", "exit 0", ""),
        ("gone after its refs", "g; exit 0", ""),
        ("no protocol", "echo hello", ""),
        ("a flood of refs", "i=0; while :; do i=$((i+1)); l \"$z$i\"; done", ""),
        ("a flood of nothing", "g; while :; do printf '0006\\002x'; done", ""),
        ("an error with a title", "l 'ERR \\033]0;evil\\007 no'; sleep 1", "no"),
        (
            "a refusal with a title",
            "g; cat >/dev/null & l '\\001000eunpack ok\\n'; l '\\002\\033[2Jhooked\\n'; \
            l '\\0010028ng refs/heads/main \\033[31mred\\033[0m\\n'; l '\\0010000'; printf 0000; sleep 1",
            "",
        ),
        (
            "a lie about success",
            "g; cat >/dev/null & l '\\001000eunpack ok\\n'; l '\\0010017ok refs/heads/main\\n'; \
            l '\\0010000'; printf 0000; sleep 1",
            "",
        ),
    ] {
        let fake = bin.join("git");
        let _ = fs::remove_file(&fake);
        fs::write(&fake, format!("#!/bin/sh\n{greet}\n{script}\n"))?;
        fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let output = case.push(&["main", "--force", "--timeout", "2s"])?;
        let text = format!("{}{}", output.text(), String::from_utf8_lossy(&output.stderr));
        ensure!(matches!(output.code(), 0 | 3), "{name}: {output}");
        ensure!(
            !text.contains(['\x1b', '\x07']) && text.contains(said) && text.len() < 20_000,
            "{name}: {text}"
        );
    }
    ensure!(case.git(&["rev-parse", "HEAD"])? == new);
    ensure!(case.git(&["status", "--porcelain"])? == before.1 && case.git(&["for-each-ref"])?.contains(&new));
    // Whatever is still running inside ends with its client.
    until("its end", || {
        let running = case.sandbox.sh("ps -e -o args= | grep -c '[b]in/git' || true")?.text();
        Ok((running == "0").then_some(()))
    })?;
    Ok(())
}
