//! Names, messages and errors from inside, as every command shows them: nothing in them moves a cursor, turns text around or
//! hides it.

use agent_tests::{Home, Output, Sandbox};
use anyhow::ensure;

use crate::support::{git, repository};

/// Work of an agent that knows terminals. Git takes all of these names.
const WORK: &str = r#"set -e; cd /workspace
git config user.name "$(printf 'A\033[2J\342\200\256B')"; git config user.email 'a@b'
for name in 'fix\342\200\256gpj.exe' 'a\342\200\213b' '\342\201\246x\342\201\251' '\357\273\277main' 'c\302\205d' 'e\302\2331mf' \
    '\377\376' '\363\240\201\201' "$(printf %0240d 0)"; do
    git branch "$(printf "$name")"
done
for name in 'a\033]0;evil\007b' 'c\rd' 'e\nf' 'g\342\200\256h' 'i\302\2332Jj' '\377' "$(printf %0200d 0)"; do
    printf x > "$(printf "$name")"
done
git add -A; git commit -q -m "$(printf '\033]0;evil\007\033[2J\342\200\256message\r\n\nSigned-off-by: \033[31m')"
git tag "$(printf 'v1\342\200\256')"; git tag -a -m "$(printf '\033[2J')" "$(printf 'v2\342\200\213')"
git update-ref "refs/agents/snapshots/$(printf 'x\342\200\256y')/1" HEAD
git update-ref "refs/agents/snapshots/main/99999999999999999999" HEAD
git update-ref "refs/agents/snapshots/main/18446744073709551615" HEAD
git worktree add -q -b "$(printf 'w\342\200\256')" ".worktrees/$(printf 'w\342\200\256\033[2J')"
mkdir -p .git/hooks; printf '#!/bin/sh\nprintf "\\033]0;evil\\007\\033[2J\\342\\200\\256\\n" >&2; exit 1\n' > .git/hooks/pre-receive
chmod +x .git/hooks/pre-receive
printf 'more\033[2J' > "$(printf 'dirty\033[2J\342\200\256')"
"#;

fn is_harmful(shown: char) -> bool {
    (shown.is_control() && !matches!(shown, '\n' | '\t'))
        || matches!(shown, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(shown, '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

fn is_harmless(output: &Output) -> anyhow::Result<()> {
    let shown = format!("{}{}", output.text(), output.errors());
    let bad = shown.chars().find(|shown| is_harmful(*shown));
    ensure!(bad.is_none(), "{bad:?} in {:?}", shown.escape_debug().to_string());
    ensure!(
        std::str::from_utf8(&output.stdout).is_ok() && std::str::from_utf8(&output.stderr).is_ok(),
        "{output}"
    );
    ensure!(![101, 134, 139].contains(&output.code()) && !shown.contains("panicked"), "{output}");
    Ok(())
}

#[test]
fn nothing_from_inside_controls_a_terminal() -> anyhow::Result<()> {
    let home = Home::new(agent_tests::Who::Ordinary)?;
    let project = repository(&home, "project")?;
    let sandbox = Sandbox::builder().home(home).flags(["--workspace", "clone"]).start()?;
    sandbox.sh(WORK)?.success()?;
    git(&sandbox, &project, &["branch", "from-the-host"])?.success()?;
    git(&sandbox, &project, &["commit", "-q", "--allow-empty", "-m", "mine"])?.success()?;
    for command in [
        &["snapshot", "take", "box"][..],
        &["snapshot", "take", "box", "--ignored"],
        &["snapshot", "take", "box", "--worktree", "nobody"],
        &["snapshot", "list", "box"],
        &["snapshot", "show", "box"],
        &["worktree", "list", "box"],
        &["pull", "box", "-n"],
        &["pull", "box", "--branch", "main", "--merge", "-n"],
        &["destroy", "box"],
        &["push", "box", "from-the-host"],
        &["push", "box", "main"],
        &["pull", "box"],
        &["pull", "box"],
        &["pull", "box", "--prune", "--merge"],
        &["status", "box"],
        &["events", "box"],
        &["list"],
        &["logs", "box"],
    ] {
        for json in [&[][..], &["--json"]] {
            let output = sandbox.run([command, json].concat())?;
            is_harmless(&output)?;
            let told = command[..command.len().min(2)].join(" ");
            ensure!(output.code() != 64 || told.starts_with("snapshot"), "{output}");
        }
    }
    // The host's git can read all of it, and the refs are where they belong.
    git(&sandbox, &project, &["fsck", "--connectivity-only"])?.success()?;
    let refs = git(&sandbox, &project, &["for-each-ref", "--format=%(refname)"])?.success()?;
    ensure!(
        refs.text()
            .lines()
            .all(|name| { name.starts_with("refs/agents/box/") || name.starts_with("refs/heads/") })
    );
    Ok(())
}
