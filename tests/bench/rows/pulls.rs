//! The agent's commits on their way home, beside plain git.

use std::{
    cell::Cell,
    fmt::Write as _,
    fs,
    io::Write as _,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
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

/// For the daemon to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// One new commit, in a repository of about 32,000 objects and 100 MB, by `pull`, by plain git, and over what git has itself.
pub(super) fn one_commit(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let field = Field::new(setting)?;
    let number = Cell::new(0);
    // Everybody brings home the same: one commit, made just before and not timed.
    let turn = |who: &'static str, from: String| {
        let home = field.setting.workshop.path(&format!("home-{who}"));
        let cloned = field.clone(&home);
        let (field, number) = (&field, &number);
        let once = move || {
            // What was made for the others comes before.
            field.fetch(&home, &from)?;
            number.set(number.get() + 1);
            commit(&field.git, field.ours.project(), number.get())?;
            Ok(millis(field.fetch(&home, &from)?))
        };
        cloned.map(|()| Contender::repeated(who, 1, once))
    };
    let contenders = field.peers().map(|(who, from)| turn(who, from)).collect::<anyhow::Result<_>>()?;
    let series = in_turn(setting.rounds(20), contenders)?;
    Ok(vec![Row {
        name: "pull",
        what: "pull of one new commit".to_owned(),
        unit: Unit::Milliseconds,
        series,
        targets: vec![against(OURS, FILE, 0.5)],
    }])
}

/// All of that repository, into an empty one.
pub(super) fn everything(setting: &Setting<'_>) -> anyhow::Result<Vec<Row>> {
    let field = Field::new(setting)?;
    let turn = |(who, from): (&'static str, String)| {
        let home = field.setting.workshop.path(&format!("empty-{who}"));
        let field = &field;
        Contender::repeated(who, 1, move || {
            let _ = fs::remove_dir_all(&home);
            timed(quiet(&field.git).args(["init", "-q"]).arg(&home))?;
            Ok(millis(field.fetch(&home, &from)?))
        })
    };
    let series = in_turn(setting.rounds(5), field.peers().map(turn).collect())?;
    Ok(vec![Row {
        name: "pull-everything",
        what: "first pull of 32,000 objects, 100 MB".to_owned(),
        unit: Unit::Milliseconds,
        series,
        targets: vec![against(OURS, FILE, 1.0)],
    }])
}

const OURS: &str = "agent-shim pull";
const FILE: &str = "git fetch file://";

/// A sandbox whose workspace is the repository, and others who have it to give.
struct Field<'a> {
    setting: &'a Setting<'a>,
    git: PathBuf,
    bin: PathBuf,
    ours: Ours,
    daemon: Daemon,
}

/// `git daemon`. Killed on drop.
struct Daemon {
    child: Child,
    address: String,
}

impl<'a> Field<'a> {
    fn new(setting: &'a Setting<'a>) -> anyhow::Result<Self> {
        let git = find("git")?;
        let ours = Ours::new(setting.workshop)?;
        fill(&git, ours.project())?;
        // Git finds the helper by its name.
        let bin = setting.workshop.path("bin");
        fs::create_dir_all(&bin)?;
        let link = bin.join("git-remote-agent");
        if !link.exists() {
            std::os::unix::fs::symlink(agent_tests::agent_shim(), link)?;
        }
        ours.start("box", &["--workspace", "bind"], &["sleep", "100000"])?;
        let daemon = Daemon::start(&git, ours.project())?;
        Ok(Self { setting, git, bin, ours, daemon })
    }

    /// Who takes part, and where it fetches from.
    fn peers(&self) -> impl Iterator<Item = (&'static str, String)> {
        let project = self.ours.project().display();
        [
            (OURS, String::new()),
            (FILE, format!("file://{project}")),
            ("git fetch ext::", format!("ext::git %s {project}")),
            ("git daemon", self.daemon.address.clone()),
            ("git fetch agent::", "agent::box".to_owned()),
        ]
        .into_iter()
    }

    fn clone(&self, home: &Path) -> anyhow::Result<()> {
        let mut command = quiet(&self.git);
        timed(command.args(["clone", "-q", "--no-hardlinks"]).arg(self.ours.project()).arg(home)).map(drop)
    }

    /// Brings home what is new there.
    fn fetch(&self, home: &Path, from: &str) -> anyhow::Result<Duration> {
        let into = home.to_string_lossy();
        if from.is_empty() {
            return timed(self.ours.shim(&["pull", "box", "--into", &into]).stdout(Stdio::null()));
        }
        let shim = self.ours.shim(&[]);
        let variables =
            shim.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        let variables: Vec<_> = variables.collect();
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.bin.display());
        let mut command = quiet(&self.git);
        command.envs(variables).env("PATH", path).args(["-c", "protocol.ext.allow=always", "-C", &into]);
        timed(command.args(["fetch", "-q", from, REFSPEC]))
    }
}

impl Daemon {
    fn start(git: &Path, project: &Path) -> anyhow::Result<Self> {
        // A number that nobody has; that somebody takes it in between is not worth more.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = quiet(git);
        command.args(["daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1"]);
        let child = command.arg(format!("--port={port}")).arg(project).spawn()?;
        let daemon = Self { child, address: format!("git://127.0.0.1:{port}{}", project.display()) };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        Ok(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes the repository, the same each time.
pub(super) fn fill(git: &Path, folder: &Path) -> anyhow::Result<()> {
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

pub(super) fn commit(git: &Path, folder: &Path, number: usize) -> anyhow::Result<()> {
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
