//! A clone lies in a folder of the host's that the agent writes. Whatever it makes of it, nobody on the host trips over it.

use std::{fs, path::Path};

use agent_tests::{Home, Sandbox, Traces, Who, layer, until};
use anyhow::{Context, ensure};

use crate::support::{contents, git, repository};

/// What an agent can do to the repository in its workspace, as shell commands in `.git`.
const TRICKS: [(&str, &str); 10] = [
    ("nothing", "true"),
    ("head-fifo", "rm HEAD; mkfifo HEAD"),
    ("configuration-fifo", "rm config; mkfifo config"),
    ("packed-refs-fifo", "rm -f packed-refs; mkfifo packed-refs"),
    ("gone", "cd ..; rm -rf .git"),
    ("file", "cd ..; rm -rf .git; echo gitdir: HOST/.git > .git"),
    ("link", "cd ..; rm -rf .git; ln -s HOST/.git .git"),
    ("refs-link", "rm -rf refs/heads; ln -s HOST refs/heads"),
    ("objects-link", "rm -rf objects; ln -s HOST/.git/objects objects"),
    (
        "worktree-elsewhere",
        r#"printf '[core]\n\tworktree = HOST\n\tfsmonitor = "touch CANARY; false"\n' >> config"#,
    ),
];

/// And beside it: what a backup, a search or a removal on the host would trip over.
const BESIDE: &str = "mkfifo pipe; ln -s / root; ln -s HOST host; ln -s . circle; mkdir -p a/b; chmod 0 a; ln -s ../../../.. up; \
    printf '#!/bin/sh\\ntouch CANARY\\n' > run; chmod +x run; mkdir -p .git/hooks; ln -sf ../../run .git/hooks/post-checkout";

/// Starts it again. Somebody may be at it just then, who is soon gone.
fn start_again(sandbox: &Sandbox, flags: &[&str]) -> anyhow::Result<()> {
    until("the sandbox to start", || {
        let started = sandbox.tell("start", flags)?;
        let is_busy = started.code() == 2 && started.errors().contains("another command");
        if is_busy { Ok(None) } else { started.success().map(|_| Some(())) }
    })
}

fn start(who: Who) -> anyhow::Result<Sandbox> {
    let home = Home::new(who)?;
    repository(&home, "project")?;
    Sandbox::builder().home(home).flags(["--workspace", "clone"]).start()
}

#[test]
fn whatever_the_agent_makes_of_its_folder_the_host_goes_on() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let sandbox = start(*who)?;
        let canary = sandbox.path().join("home/canary");
        let host = sandbox.project().to_owned();
        let here = |script: &str| {
            script.replace("CANARY", &canary.to_string_lossy()).replace("HOST", &host.to_string_lossy())
        };
        let before = contents(&host)?;
        let within = format!("{}s", layer().patience * layer().patience);
        for (name, trick) in TRICKS {
            let script = format!("cd /workspace && {} && cd .git && {}", here(BESIDE), here(trick));
            sandbox.sh(&script)?.success().context(name)?;
            for stopped in [false, true] {
                if stopped {
                    sandbox.tell("stop", &["--force"])?.success().context(name)?;
                }
                let pulled = sandbox.tell("pull", &["-n", "--timeout", &within])?;
                ensure!([0, 3].contains(&pulled.code()), "{name}: {pulled}");
                ensure!(pulled.code() == 0 || name != "nothing", "{pulled}");
            }
            ensure!(contents(&host)? == before, "{name}: the project is not what it was");
            ensure!(!canary.exists(), "{name}: something ran");
            // Folders that go while they are looked at are no reason to stop looking.
            until("everything to be gone", || {
                Ok(Traces::of(&sandbox).is_ok_and(|traces| traces.processes.is_empty()).then_some(()))
            })
            .with_context(|| format!("{name}: {:?}", Traces::of(&sandbox).map(|traces| traces.processes)))?;
            // It starts as it is, and anew.
            start_again(&sandbox, &[]).context(name)?;
            sandbox.tell("stop", &["--force"])?.success().context(name)?;
            start_again(&sandbox, &["--fresh", "--discard"]).context(name)?;
            ensure!(
                sandbox.sh("cd /workspace; git status --porcelain")?.success()?.text().is_empty(),
                "{name}"
            );
        }
        ensure!(contents(&host)? == before && !canary.exists());
    }
    Ok(())
}

#[test]
fn what_is_kept_of_a_sandbox_is_nobodys_repository() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let sandbox = start(*who)?;
        let canary = sandbox.path().join("home/canary");
        let touch = format!("touch {}; false", canary.display());
        sandbox
            .sh(&format!(
                "cd /workspace; for name in core.fsmonitor core.sshCommand core.pager core.editor diff.external \
                 filter.x.clean filter.x.smudge uploadpack.packObjectsHook core.alternateRefsCommand credential.helper; \
                 do git config $name '{touch}'; done; git config core.hooksPath /workspace/hooks; mkdir hooks; \
                 for hook in post-checkout reference-transaction post-index-change; do \
                 printf '#!/bin/sh\\n{touch}\\n' > hooks/$hook; chmod +x hooks/$hook; done; echo '* filter=x' > .gitattributes; \
                 mkdir inner; git init -q inner; git -C inner config core.fsmonitor '{touch}'"
            ))?
            .success()?;
        let work = sandbox.folder().join("work");
        let before = contents(&work)?;
        for place in ["work", "work/inner", "work/.git", "home"].map(|place| sandbox.folder().join(place)) {
            let place = place.to_string_lossy().into_owned();
            sandbox.tell("pull", &["--into", &place])?.exits(2)?.complains("what the agent itself writes")?;
            sandbox.tell("pull", &["--merge", "--into", &place])?.exits(2)?;
        }
        let link = sandbox.path().join("home/link");
        std::os::unix::fs::symlink(&work, &link)?;
        sandbox.tell("pull", &["--into", &link.to_string_lossy()])?.exits(2)?;
        // Nor does another sandbox get in there.
        for place in [&work, &link, Path::new(&work.join("inner"))] {
            let place = place.to_string_lossy().into_owned();
            let started = sandbox.run(["start", "--name", "two", "--env", "host", &place, "--", "cat"])?;
            ensure!(started.code() != 0, "{started}");
        }
        ensure!(contents(&work)? == before, "the clone is not what it was");
        ensure!(!canary.exists(), "something ran");
        fs::remove_file(link)?;
        git(&sandbox, sandbox.project(), &["fsck"])?.success()?;
    }
    Ok(())
}
