//! A repository on its way into a new sandbox, beside `git clone`.

use std::path::Path;

use super::{Setting, against, pulls};
use crate::{
    ours::Ours,
    rounds::{Contender, in_turn},
    table::{Row, Unit},
    tools::{find, millis, quiet, timed},
};

/// Files of a small repository.
const FEW: usize = 100;

/// From `start` to the agent's, with a clone of a small repository and of one of about 32,000 objects and 100 MB.
pub(super) fn clones(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let git = find("git")?;
    let small = one(setting, &git, "of 100 files", 20, |folder| few(&git, folder))?;
    let large = one(setting, &git, "of 32,000 objects and 100 MB", 3, |folder| pulls::fill(&git, folder))?;
    Ok(vec![small, large])
}

fn one(
    setting: &Setting<'_>,
    git: &Path,
    what: &str,
    rounds: usize,
    fill: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<Row> {
    let ours = Ours::new(setting.workshop)?;
    fill(ours.project())?;
    // Beside what ours are made in, so that both write to one file system.
    let peer = ours.project().with_extension("peer");
    let start = |flags: &[&str]| {
        let took = ours.start("box", flags, &["sleep", "100000"])?;
        ours.destroy("box")?;
        Ok(millis(took))
    };
    let clone = |flag: &str| {
        let mut command = quiet(git);
        let took = timed(command.args(["clone", "-q", flag]).arg(ours.project()).arg(&peer))?;
        std::fs::remove_dir_all(&peer)?;
        Ok(millis(took))
    };
    let contenders = vec![
        Contender::repeated("agent-shim start", 1, || start(&["--workspace", "clone"])),
        Contender::repeated("start --clone-objects share", 1, || start(&["--clone-objects", "share"])),
        Contender::repeated("start --workspace bind", 1, || start(&["--workspace", "bind"])),
        Contender::repeated("git clone --no-local", 1, || clone("--no-local")),
        Contender::repeated("git clone --local", 1, || clone("--local")),
    ];
    Ok(Row {
        name: "clone",
        what: format!("start with a clone {what}"),
        unit: Unit::Milliseconds,
        series: in_turn(setting.rounds(rounds), contenders)?,
        targets: vec![against("agent-shim start", "git clone --no-local", 1.0)],
    })
}

/// A repository as most are: packed, with some files.
fn few(git: &Path, folder: &Path) -> anyhow::Result<()> {
    let run = |args: &[&str]| timed(quiet(git).arg("-C").arg(folder).args(args)).map(drop);
    run(&["init", "-q", "-b", "main"])?;
    for number in 0..FEW {
        let place = folder.join(format!("d{}", number % 7));
        std::fs::create_dir_all(&place)?;
        std::fs::write(place.join(format!("f{number}")), format!("file {number}\n").repeat(100))?;
    }
    run(&["add", "-A"])?;
    run(&["-c", "user.name=A", "-c", "user.email=a@b", "commit", "-qm", "one"])?;
    run(&["repack", "-adq"])
}
