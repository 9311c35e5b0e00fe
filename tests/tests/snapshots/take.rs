//! `agent-shim snapshot take`.

use agent_tests::{Home, Sandbox, Who};
use anyhow::ensure;

use crate::support::Case;

#[test]
fn everything_is_kept_and_nothing_twice() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let case = Case::start(*who)?;
        ensure!(case.take(&[])?[0]["outcome"] == "clean");
        case.inside(
            "echo two >> file; mkdir -p a/b; echo new > a/b/c; echo x > a/x.o; ln -s /etc/passwd link",
        )?;
        let taken = case.take(&[])?;
        ensure!(taken.len() == 1 && taken[0]["outcome"] == "taken" && taken[0]["changed"] == 3, "{taken:#?}");
        let (at, commit) = (taken[0]["at_ms"].clone(), taken[0]["commit"].as_str().unwrap_or_default());
        let there =
            case.inside(&format!("git rev-parse refs/agents/snapshots/main/{at}; git status --porcelain"))?;
        ensure!(there.text() == format!("{commit}\n M file\n?? a/\n?? link"), "{there}");
        let named = case.inside(&format!("git diff --name-status HEAD {commit}"))?.text();
        ensure!(named == "A\ta/b/c\nM\tfile\nA\tlink", "{named}");
        ensure!(case.take(&[])?[0]["outcome"] == "unchanged");
        let more = case.take(&["--ignored"])?;
        ensure!(more[0]["changed"] == 4, "{more:#?}");
        case.inside("git fsck --strict")?;
        let told = case.snapshot("take", &[])?.success()?.text();
        ensure!(told.starts_with("box: main: snapshot ") && told.ends_with("3 changed files"), "{told}");
    }
    Ok(())
}

#[test]
fn where_there_is_nothing_to_take_that_is_said() -> anyhow::Result<()> {
    let case = Case::start(Who::Ordinary)?;
    case.snapshot("take", &["--worktree", "nowhere"])?.exits(2)?.complains("there is no worktree nowhere")?;
    case.inside("mv .git .git-away")?;
    case.snapshot("take", &[])?.exits(2)?.complains("git init")?;
    case.inside("mv .git-away .git; cp .git/config /tmp/config; echo '[' > .git/config")?;
    case.snapshot("take", &[])?.exits(3)?;
    // What is checked out cannot be told: then everything is new.
    case.inside("mv /tmp/config .git/config; echo nonsense > .git/HEAD")?;
    ensure!(case.take(&[])?[0]["changed"] == 2);
    let bind = Sandbox::builder().start()?;
    bind.run(["snapshot", "take", "box"])?.exits(2)?.complains("on this host already")?;
    Ok(())
}

#[test]
fn of_one_that_does_not_run() -> anyhow::Result<()> {
    let case = Case::start(Who::Ordinary)?;
    case.inside("echo two >> file")?;
    case.sandbox.tell("stop", &["--force"])?.success()?;
    ensure!(case.take(&[])?[0]["changed"] == 1);
    ensure!(case.take(&[])?[0]["outcome"] == "unchanged");
    Ok(())
}

/// The agent writes one file when it is told to end: both that and what was there before are kept.
#[test]
fn an_end_and_a_new_beginning_keep_what_there_is() -> anyhow::Result<()> {
    let agent = "trap 'echo last > last; exit 0' TERM; while :; do sleep 0.1; done";
    let case = Case::start_as(Who::Ordinary, &[], agent)?;
    let count = |case: &Case| -> anyhow::Result<usize> {
        Ok(case.inside("git for-each-ref refs/agents/snapshots")?.text().lines().count())
    };
    case.inside("echo two >> file")?;
    case.sandbox.tell("restart", &[])?.success()?;
    ensure!(count(&case)? == 1);
    case.inside("rm -f last; echo three >> file")?;
    case.sandbox.tell("stop", &[])?.success()?;
    case.sandbox.run(["start", "box"])?.success()?;
    let there = case.inside("git for-each-ref --format='%(refname)' refs/agents/snapshots | tail -n 1")?;
    let kept = case.inside(&format!("git show {0}:last; git show {0}:file", there.text()))?;
    ensure!(kept.text() == "last\none\ntwo\nthree" && count(&case)? == 3, "{kept}");
    // By force there is no time for it, and without being asked to be kept there is none.
    case.inside("echo four >> file")?;
    case.sandbox.tell("stop", &["--force"])?.success()?;
    case.sandbox.run(["start", "box", "--snapshot-every", "off"])?.success()?;
    ensure!(count(&case)? == 3);
    case.sandbox.tell("stop", &[])?.success()?;
    case.sandbox.run(["start", "box"])?.success()?;
    ensure!(count(&case)? == 3);
    Ok(())
}
