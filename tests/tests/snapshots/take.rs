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
    case.sandbox.tell("stop", &["--force"])?.success()?;
    case.snapshot("take", &[])?.exits(2)?.complains("hint: `agent-shim start box`")?;
    let bind = Sandbox::builder().start()?;
    bind.run(["snapshot", "take", "box"])?.exits(2)?.complains("on this host already")?;
    Ok(())
}
