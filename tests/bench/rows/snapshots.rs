//! What keeping the work in progress costs, beside what git would do for it.

use std::{fs, path::Path, process::Command};

use anyhow::ensure;
use nix::sys::resource::{UsageWho, getrusage};

use super::{Setting, absolute};
use crate::{
    rounds::{Contender, in_turn},
    table::{Row, Unit},
    tools::{find, quiet, timed},
};

/// Folders, and files in each: 20,000 files.
const FOLDERS: usize = 200;
const FILES: usize = 100;

/// Processor time for everything in a repository of 20,000 files: where nothing has changed, and where one file has.
pub(super) fn everything(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let git = find("git")?;
    let program = agent_tests::agent_init().with_file_name("agent-git");
    let mut rows = Vec::new();
    for (name, what, changes) in [
        ("snapshot", "processor time of a snapshot of 20,000 unchanged files", false),
        ("snapshot-one", "the same with one file changed", true),
    ] {
        let folders = ["ours", "add", "stash"].map(|who| setting.workshop.path(&format!("{name}-{who}")));
        for folder in &folders {
            fill(&git, folder)?;
        }
        let [ours, add, stash] = &folders;
        let index = setting.workshop.path(&format!("{name}-index"));
        let mut number = 0;
        let mut change = |folder: &Path| -> anyhow::Result<()> {
            number += 1;
            if changes {
                fs::write(folder.join("d7/f7"), format!("{number}\n"))?;
            }
            Ok(())
        };
        let change = &std::cell::RefCell::new(&mut change);
        let run = |folder: &Path, commands: Vec<Command>| {
            (change.borrow_mut())(folder)?;
            processor_time(commands)
        };
        let in_folder = |folder: &Path, args: &[&str]| {
            let mut command = quiet(&git);
            command.arg("-C").arg(folder).args(args).stdout(std::process::Stdio::null());
            command
        };
        let contenders = vec![
            Contender::repeated("agent-git snapshot", 1, || {
                let mut command = quiet(&program);
                command.args(["snapshot", "take"]).arg(ours).stdout(std::process::Stdio::null());
                run(ours, vec![command])
            }),
            Contender::repeated("git add -A, git write-tree", 1, || {
                let mut commands = vec![in_folder(add, &["add", "-A"]), in_folder(add, &["write-tree"])];
                for command in &mut commands {
                    command.env("GIT_INDEX_FILE", &index);
                }
                run(add, commands)
            }),
            Contender::repeated("git stash create", 1, || {
                run(stash, vec![in_folder(stash, &["stash", "create"])])
            }),
        ];
        let series = in_turn(setting.rounds(20), contenders)?;
        let targets = vec![absolute("agent-git snapshot", 50.0)];
        rows.push(Row { name, what: what.to_owned(), unit: Unit::Milliseconds, series, targets });
    }
    Ok(rows)
}

/// What the commands used, one after the other.
fn processor_time(commands: Vec<Command>) -> anyhow::Result<f64> {
    let used = || -> anyhow::Result<f64> {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let millis = |time: nix::sys::time::TimeVal| {
            #[allow(clippy::cast_precision_loss)] // Of days.
            let (seconds, micros) = (time.tv_sec() as f64, time.tv_usec() as f64);
            seconds * 1000.0 + micros / 1000.0
        };
        Ok(millis(usage.user_time()) + millis(usage.system_time()))
    };
    let before = used()?;
    for mut command in commands {
        timed(&mut command)?;
    }
    Ok(used()? - before)
}

fn fill(git: &Path, folder: &Path) -> anyhow::Result<()> {
    for number in 0..FOLDERS {
        let inner = folder.join(format!("d{number}"));
        fs::create_dir_all(&inner)?;
        for file in 0..FILES {
            fs::write(inner.join(format!("f{file}")), format!("{number} {file}\n").repeat(40))?;
        }
    }
    fs::write(folder.join(".gitignore"), "*.o\n/target/\n!keep.o\n")?;
    let who = ["-c", "user.name=A", "-c", "user.email=a@b"];
    for args in [&["init", "-q"][..], &["add", "-A"], &["commit", "-q", "-m", "x"]] {
        timed(quiet(git).arg("-C").arg(folder).args(who).args(args))?;
    }
    ensure!(folder.join(".git/HEAD").exists(), "a repository");
    Ok(())
}
