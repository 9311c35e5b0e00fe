//! `--sync auto-commit`: what is committed inside is at home, and nobody asked for it.

use anyhow::ensure;

use crate::support::Case;

#[test]
fn a_commit_arrives_by_itself_and_is_told_of() -> anyhow::Result<()> {
    let case = Case::start(&["--sync", "auto-commit"])?;
    let commit = case.inside("echo two >> file; git commit -qam two; git rev-parse HEAD")?.text();
    case.arrives("heads/main", &commit)?;
    let pulled =
        case.sandbox.wait_for("the pull", |event| event["event"] == "pulled" && event["insertions"] == 1)?;
    ensure!(pulled["commits"] == 1 && pulled["files"] == 1, "{pulled}");
    let sync = case.sync()?;
    ensure!(sync["mode"] == "auto-commit" && sync["failure"].is_null(), "{sync:#}");
    ensure!(sync["came"]["commits"] == 1 && sync["last_pull"].is_string(), "{sync:#}");
    let shown = case.sandbox.tell("status", &[])?.success()?.text();
    ensure!(shown.contains("auto-commit") && shown.contains("1 commit, 1 file, +1 -0"), "{shown}");
    case.fsck()
}

#[test]
fn whatever_is_done_to_refs_arrives() -> anyhow::Result<()> {
    let case = Case::start(&["--sync", "auto-commit"])?;
    for script in [
        "git checkout -q -b work; echo a > a; git add a; git commit -qm a; echo b > b; git add b; git commit -qm b",
        // Rebased and amended: the old commits are no longer there.
        "git checkout -q main; echo m > m; git add m; git commit -qm m; git checkout -q work; git rebase -q main",
        "git commit -q --amend -m again",
        // All refs in one file, and then one more beside it.
        "git branch deep/er/branch; git pack-refs --all; git commit -q --allow-empty -m c",
        // In a folder that did not exist, from a worktree of its own.
        "git worktree add -q -b side /tmp/side; cd /tmp/side; git commit -q --allow-empty -m d",
        "git reset -q --hard HEAD~1",
    ] {
        let refs = case.inside(&format!(
            "{script}; cd /workspace; git for-each-ref --format='%(refname) %(objectname)' refs/heads"
        ))?;
        for line in refs.text().lines() {
            let (name, commit) = line.split_once(' ').unwrap_or_default();
            case.arrives(name.trim_start_matches("refs/"), commit)?;
        }
    }
    // What is deleted inside stays at home until somebody prunes it; that it went is a change like any other.
    case.inside("git branch -q -D deep/er/branch; git commit -q --allow-empty -m e")?;
    let commit = case.inside("git rev-parse HEAD")?.text();
    case.arrives("HEAD", &commit)?;
    ensure!(!case.at_home("heads/deep/er/branch")?.is_empty());
    case.fsck()
}

#[test]
fn what_was_committed_last_arrives_when_the_sandbox_has_ended() -> anyhow::Result<()> {
    let case = Case::start(&["--sync", "auto-commit"])?;
    case.inside("git commit -q --allow-empty -m last")?;
    let commit = case.inside("git commit -q --allow-empty -m last; git rev-parse HEAD")?.text();
    case.sandbox.tell("stop", &["--force"])?.success()?;
    case.arrives("heads/main", &commit)
}

#[test]
fn a_repository_that_comes_and_goes_is_followed() -> anyhow::Result<()> {
    let case = Case::start(&["--sync", "auto-commit"])?;
    let first = case.inside("git commit -q --allow-empty -m a; git rev-parse HEAD")?.text();
    case.arrives("heads/main", &first)?;
    for script in
        ["mv .git /tmp/git; mkfifo .git", "rm .git; ln -s /tmp/git .git", "rm .git; mv /tmp/git .git"]
    {
        case.sandbox.sh(&format!("cd /workspace; {script}"))?.success()?;
    }
    let second = case.inside("git commit -q --allow-empty -m c; git rev-parse HEAD")?.text();
    case.arrives("heads/main", &second)
}

/// A hostile tree: refs that change thousands of times a second cost so many pulls a minute, and no more. The last state
/// arrives all the same.
#[test]
fn a_storm_of_changes_costs_a_bounded_number_of_pulls() -> anyhow::Result<()> {
    let case = Case::start(&["--sync", "auto-commit"])?;
    let commit = case.inside("git commit -q --allow-empty -m a; git rev-parse HEAD")?.text();
    case.arrives("heads/main", &commit)?;
    let before = case.count("refs-changed")?;
    // Five seconds of it, and what the last round takes longer.
    let took = case.inside(
        "cp .git/refs/heads/main /tmp/ref; begin=$(date +%s)
         while [ $(date +%s) -lt $((begin + 5)) ]; do
             for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
                 mkdir -p .git/refs/heads/d$i; echo x > .git/refs/heads/d$i/.lock; : > .git/refs/heads/z.lock
                 mv /tmp/ref .git/refs/heads/storm; mv .git/refs/heads/storm /tmp/ref
             done
         done; echo $(($(date +%s) - begin))",
    )?;
    let took: usize = took.text().parse()?;
    let last = case.inside("git commit -q --allow-empty -m last; git rev-parse HEAD")?.text();
    case.arrives("heads/main", &last)?;
    let told = case.count("refs-changed")? - before;
    ensure!(told < 4 * took, "{told} events in {took} s");
    let pulls = case.count("pulled")? + case.count("pull-failed")?;
    ensure!(pulls < 5 * took, "{pulls} pulls in {took} s");
    Ok(())
}
