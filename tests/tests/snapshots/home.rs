//! Snapshots come home, are shown there, and can be had back.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use agent_tests::{Home, Who};
use anyhow::{Context, ensure};

use crate::support::{Case, git};

#[test]
fn what_was_kept_comes_home_and_is_had_back() -> anyhow::Result<()> {
    for who in Home::everyone() {
        let case = Case::start(*who)?;
        let home = &case.sandbox;
        case.inside(
            "echo two >> file; mkdir -p a/b; printf '\\0\\1' > a/b/c; ln -s ../file a/link; \
             echo '#!/bin/sh' > run; chmod +x run; rm .gitignore; printf 'a\\nb' > \"$(printf 'x\\ny')\"",
        )?;
        let taken = case.take(&[])?[0].clone();
        let at = taken["at_ms"].to_string();
        let listed = case.snapshot("list", &["--json"])?.success()?.json()?;
        ensure!(
            (&listed["snapshots"][0]["inside"], &listed["snapshots"][0]["home"])
                == (&true.into(), &false.into())
        );
        let shown = case.snapshot("show", &[&at])?.success()?.text();
        for line in
            ["D .gitignore +0 -2", "A a/b/c binary", "A a/link +1 -0", "M file +1 -0", "A x\\ny +2 -0"]
        {
            ensure!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
        }
        // To be shown it had to come home.
        let listed = case.snapshot("list", &["--json"])?.success()?.json()?;
        ensure!(
            listed["snapshots"][0]["home"] == true && listed["snapshots"][0]["changed"] == 6,
            "{listed:#}"
        );
        let patch = case.snapshot("show", &["last", "-p"])?.success()?.text();
        ensure!(
            patch.contains("+two") && patch.contains("new mode") || patch.contains("new file mode 100755"),
            "{patch}"
        );

        let into = home.path().join("home/back");
        let told = case.snapshot("restore", &["last", "--into", &into.to_string_lossy()])?.success()?.text();
        ensure!(told.starts_with("5 files in "), "{told}");
        ensure!(fs::read(into.join("file"))? == b"one\ntwo\n" && fs::read(into.join("a/b/c"))? == [0, 1]);
        ensure!(
            fs::read_link(into.join("a/link"))? == Path::new("../file") && !into.join(".gitignore").exists()
        );
        ensure!(
            into.join("run").metadata()?.mode() & 0o111 == 0o111 & !0o077
                || into.join("run").metadata()?.mode() & 0o100 != 0
        );
        ensure!(fs::read(into.join("x\ny"))? == b"a\nb");
        case.snapshot("restore", &["last", "--into", &into.to_string_lossy()])?
            .exits(2)?
            .complains("is not empty")?;

        case.snapshot("restore", &["main/last", "--worktree", "again"])?.success()?;
        let there = case.inside(
            "cd .worktrees/again; git status --porcelain; git rev-parse HEAD; git -C ../.. rev-parse HEAD",
        )?;
        let lines = there.text();
        let lines: Vec<&str> = lines.lines().collect();
        ensure!(
            lines.contains(&" D .gitignore") && lines.contains(&"?? a/") && lines.contains(&" M file"),
            "{there}"
        );
        ensure!(lines[lines.len() - 1] == lines[lines.len() - 2], "{there}");
        case.inside("git fsck --strict")?;
        git(home, home.project(), &["fsck", "--strict"])?.success()?;
    }
    Ok(())
}

#[test]
fn a_pull_brings_them_and_says_so_in_one_line() -> anyhow::Result<()> {
    let case = Case::start(Who::Ordinary)?;
    for n in 0..3 {
        case.inside(&format!("echo {n} >> file"))?;
        case.take(&[])?;
    }
    let told = case.sandbox.tell("pull", &[])?.success()?.text();
    let about: Vec<&str> = told.lines().filter(|line| line.contains("snapshot")).collect();
    ensure!(about == ["  3 snapshots"], "{told}");
    let here = git(&case.sandbox, case.sandbox.project(), &["for-each-ref", "refs/agents/box/snapshots"])?;
    ensure!(here.text().lines().count() == 3, "{here}");
    // The one inside goes, what is at home stays, and both can be told apart.
    case.inside("git for-each-ref --format='delete %(refname)' refs/agents | git update-ref --stdin")?;
    let told = case.sandbox.tell("pull", &[])?.success()?.text();
    ensure!(!told.contains("snapshot"), "{told}");
    let listed = case.snapshot("list", &["--json"])?.success()?.json()?;
    let all = listed["snapshots"].as_array().context("a list")?;
    ensure!(
        all.len() == 3 && all.iter().all(|one| one["home"] == true && one["inside"] == false),
        "{listed:#}"
    );
    case.snapshot("restore", &["last", "--worktree", "x"])?.exits(2)?.complains("--into")?;
    case.sandbox.tell("pull", &["--prune"])?.success()?;
    ensure!(case.snapshot("list", &[])?.success()?.text() == "`box` has no snapshots");
    Ok(())
}

/// What lies at home may have come in other ways than ours: trees that nobody checked.
#[test]
fn no_tree_writes_outside_of_the_folder() -> anyhow::Result<()> {
    let case = Case::start(Who::Ordinary)?;
    let home = &case.sandbox;
    let project = home.project().to_owned();
    let object = |kind: &str, content: &[u8]| -> anyhow::Result<String> {
        let mut command = home.command("git", ["hash-object", "-t", kind, "--literally", "-w", "--stdin"]);
        command.current_dir(&project);
        Ok(agent_tests::finish(command, content)?.success()?.text())
    };
    let entry = |mode: &str, name: &[u8], id: &str| -> Vec<u8> {
        let id = (0..20).map(|at| u8::from_str_radix(&id[at * 2..at * 2 + 2], 16).unwrap_or(0));
        [mode.as_bytes(), b" ", name, b"\0"].concat().into_iter().chain(id).collect()
    };
    let blob = object("blob", b"canary")?;
    let out = object("blob", b"../outside")?;
    let inner = object("tree", &entry("100644", b"canary", &blob))?;
    let up = object("tree", &[entry("40000", b"..", &inner), entry("100644", b"../canary", &blob)].concat())?;
    let evil = [
        entry("100644", b"..", &blob),
        entry("100644", b"../canary", &blob),
        entry("100644", b".", &blob),
        entry("100644", b"", &blob),
        entry("40000", b".git", &inner),
        entry("40000", b".GiT", &inner),
        entry("40000", b"git~1", &inner),
        entry("100644", b"/canary", &blob),
        // A link, and then a folder of the same name; and the other way round.
        entry("120000", b"a", &out),
        entry("40000", b"a", &inner),
        entry("40000", b"b", &inner),
        entry("120000", b"b", &out),
        entry("120000", b"c", &out),
        entry("100644", b"c", &blob),
        entry("40000", b"d", &up),
        entry("100644", b"e", &blob),
        entry("100644", b"e", &out),
        entry("160000", b"sub", &blob),
        entry("777777", b"odd", &blob),
        entry("100644", &[b'n'; 300], &blob),
    ];
    let tree = object("tree", &evil.concat())?;
    let who = "x <x@x> 1 +0000";
    let commit =
        object("commit", format!("tree {tree}\nauthor {who}\ncommitter {who}\n\nsnapshot\n").as_bytes())?;
    let name = "refs/agents/box/snapshots/main/1";
    fs::create_dir_all(project.join(".git/refs/agents/box/snapshots/main"))?;
    fs::write(project.join(".git").join(name), format!("{commit}\n"))?;

    let outside = home.path().join("home/outside");
    fs::create_dir(&outside)?;
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o777))?;
    let into = home.path().join("home/into");
    let told =
        case.snapshot("restore", &["1", "--into", &into.to_string_lossy(), "--json"])?.success()?.json()?;
    ensure!(fs::read_dir(&outside)?.next().is_none() && !home.path().join("home/canary").exists());
    let mut made: Vec<String> = Vec::new();
    for entry in fs::read_dir(&into)? {
        made.push(entry?.file_name().to_string_lossy().into_owned());
    }
    made.sort();
    ensure!(made == ["a", "b", "c", "d", "e", "sub"], "{made:?} {told:#}");
    ensure!(into.join("a/canary").is_file() && !into.join("a").is_symlink() && !into.join("b").is_symlink());
    ensure!(fs::read_dir(into.join("d"))?.next().is_none() && fs::read(into.join("e"))? == b"canary");
    ensure!(told["left_out"].as_array().is_some_and(|left| left.len() >= 14), "{told:#}");
    Ok(())
}
