//! The agent's commits on their way home, beside plain git.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context;

use super::{Setting, against};
use crate::{
    ours::Ours,
    rounds::{Contender, in_turn},
    table::{Row, Unit},
    tools::{find, millis, quiet, timed},
};

/// Commits of the repository, files in its first one, and files that each other one changes: about 32,000 objects.
const COMMITS: usize = 2000;
const FILES: usize = 4000;
const CHANGED: usize = 4;

/// What is fetched, and where it goes.
const REFSPEC: &str = "+refs/heads/*:refs/agents/box/heads/*";

/// One new commit, in a repository of about 32,000 objects and 100 MB, by `pull`, by plain git, and over file://.
pub(super) fn one_commit(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let git = find("git")?;
    let ours = Ours::new(setting.workshop)?;
    let project = ours.project().to_owned();
    fill(&git, &project)?;
    let clones = ["pull", "file", "agent"].map(|name| setting.workshop.path(name));
    for clone in &clones {
        let mut command = quiet(&git);
        timed(command.args(["clone", "-q", "--bare", "--no-hardlinks"]).arg(&project).arg(clone))?;
    }
    // Git finds the helper by its name.
    let bin = setting.workshop.path("bin");
    std::fs::create_dir_all(&bin)?;
    std::os::unix::fs::symlink(agent_tests::agent_shim(), bin.join("git-remote-agent"))?;
    ours.start("box", &["--workspace", "bind"], &["sleep", "100000"])?;
    let [pulled, over_file, over_agent] = clones.each_ref().map(|clone| clone.to_string_lossy().into_owned());
    let pull = || timed(ours.shim(&["pull", "box", "--into", &pulled]).stdout(Stdio::null()));
    let fetch = |clone: &str, from: &str| {
        let mut command = ours.shim(&[]);
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display());
        let variables: Vec<_> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        command = quiet(&git);
        command.envs(variables).env("PATH", path).args(["-C", clone, "fetch", "-q", from, REFSPEC]);
        timed(&mut command)
    };
    let file = format!("file://{}", project.display());
    let mut number = 0;
    let contenders = vec![
        Contender::repeated("agent-shim pull", 1, || {
            number += 1;
            commit(&git, &project, number)?;
            Ok(millis(pull()?))
        }),
        Contender::repeated("git fetch file://", 1, || Ok(millis(fetch(&over_file, &file)?))),
        Contender::repeated("git fetch agent::", 1, || Ok(millis(fetch(&over_agent, "agent::box")?))),
    ];
    let series = in_turn(setting.rounds(20), contenders)?;
    Ok(vec![Row {
        name: "pull",
        what: "pull of one new commit".to_owned(),
        unit: Unit::Milliseconds,
        series,
        targets: vec![against("agent-shim pull", "git fetch file://", 0.5)],
    }])
}

/// Makes the repository, the same each time.
fn fill(git: &Path, folder: &Path) -> anyhow::Result<()> {
    timed(quiet(git).args(["init", "-q", "-b", "main"]).arg(folder))?;
    let mut import = Command::new(git);
    import.arg("-C").arg(folder).args(["fast-import", "--quiet"]).stdin(Stdio::piped());
    let mut import = import.spawn()?;
    let mut input = std::io::BufWriter::new(import.stdin.take().context("the import's input")?);
    let mut random = Random(1);
    for commit in 0..COMMITS {
        let at = 1_600_000_000 + commit * 60;
        write!(input, "commit refs/heads/main\ncommitter A <a@b> {at} +0000\ndata 2\nx\n")?;
        let first: Vec<usize> = (0..FILES).collect();
        let files = if commit == 0 { first } else { (0..CHANGED).map(|_| random.next() % FILES).collect() };
        for file in files {
            // Text of hexadecimal digits: half of it goes when it is compressed.
            let mut text = String::new();
            for _ in 0..(500 + random.next() % 700) {
                write!(text, "{:016x}", random.next())?;
            }
            write!(
                input,
                "M 100644 inline d{}/s{}/f{file}\ndata {}\n{text}\n",
                file % 40,
                file % 13,
                text.len()
            )?;
        }
        writeln!(input)?;
    }
    drop(input);
    anyhow::ensure!(import.wait()?.success(), "importing the repository");
    timed(quiet(git).arg("-C").arg(folder).args(["reset", "-q", "--hard"])).map(drop)
}

fn commit(git: &Path, folder: &Path, number: usize) -> anyhow::Result<()> {
    std::fs::write(folder.join("d0/s0/f0"), format!("{number}\n"))?;
    let mut command = quiet(git);
    command.arg("-C").arg(folder).args([
        "-c",
        "user.name=A",
        "-c",
        "user.email=a@b",
        "commit",
        "-qam",
        "next",
    ]);
    timed(&mut command).map(drop)
}

/// Numbers without a pattern that compression finds (xorshift).
struct Random(u64);

impl Random {
    #[allow(clippy::cast_possible_truncation)] // Any part of it will do.
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as usize
    }
}
