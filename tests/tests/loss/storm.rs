//! An agent that never rests, and everything around it killed again and again.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use agent_tests::{Home, Output, Part, Sandbox, Traces, Who, layer, skip, until};
use anyhow::{Context, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The agent.
const WRITER: &str = include_str!("writer.py");

/// Moments at which something is killed. `AGENT_SHIM_KILLS` asks for more.
const KILLS: usize = 40;

/// Between two pulls.
const BETWEEN_PULLS: Duration = Duration::from_millis(100);

/// Everything that is killed, one or more at once.
const VICTIMS: [&[Part]; 6] = [
    &[Part::Agent],
    &[Part::Monitor],
    &[Part::Init],
    &[Part::Layer],
    &[Part::Monitor, Part::Layer, Part::Init],
    &[Part::Agent, Part::Monitor],
];

struct Storm {
    sandbox: Sandbox,
    /// Pulls that brought everything, and those that something came in between of.
    whole: AtomicU32,
    broken: AtomicU32,
    /// Snapshots that were looked into at home.
    kept: AtomicU32,
    over: AtomicBool,
}

impl Storm {
    fn start(who: Who) -> anyhow::Result<Self> {
        let home = Home::new(who)?;
        let project = home.project("project")?;
        let script = home.file("writer.py", WRITER.as_bytes())?;
        for args in [
            &["init", "-q", "-b", "main"][..],
            &["commit", "-q", "--allow-empty", "-m", "a"],
            &["commit", "-q", "--allow-empty", "-m", "b"],
            &["commit", "-q", "--allow-empty", "-m", "c"],
        ] {
            git(&home, &project, args)?.success()?;
        }
        let mount = format!("{}:/writer.py:ro", script.display());
        let flags = ["--workspace", "clone", "--restart", "always", "--mount", &mount];
        let sandbox =
            Sandbox::builder().home(home).flags(flags).command(["python3", "/writer.py"]).start()?;
        let (whole, broken) = (AtomicU32::new(0), AtomicU32::new(0));
        Ok(Self { sandbox, whole, broken, kept: AtomicU32::new(0), over: AtomicBool::new(false) })
    }

    fn done_file(&self) -> PathBuf {
        self.sandbox.folder().join("home/done")
    }

    /// Commits that the agent knows to be done.
    fn done(&self) -> BTreeSet<String> {
        let text = fs::read_to_string(self.done_file()).unwrap_or_default();
        // The last line may be half of one.
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.filter_map(|line| Some(line.trim().split_once(' ')?.1.to_owned())).collect()
    }

    /// Waits until the agent works again.
    fn works(&self) -> anyhow::Result<()> {
        let before = self.done().len();
        until("the agent to work again", || Ok((self.done().len() > before).then_some(())))
    }

    /// Kills these, as far as they are there.
    fn kill(&self, parts: &[Part]) -> anyhow::Result<()> {
        let (agent, parts): (Vec<Part>, Vec<Part>) = parts.iter().partition(|part| **part == Part::Agent);
        let pids: Vec<i32> = parts.iter().filter_map(|part| self.sandbox.pid(*part).ok()).collect();
        if !agent.is_empty() {
            // It may be between two lives.
            let _ = self.sandbox.kill_agent();
        }
        for pid in &pids {
            // One may have gone with another.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        pids.into_iter().try_for_each(agent_tests::until_gone)
    }

    /// Has everything run again.
    fn mend(&self, parts: &[Part]) -> anyhow::Result<()> {
        if parts.contains(&Part::Init) {
            // A pull may be speaking with what is stopped.
            until("the sandbox to start", || {
                let started = self.sandbox.tell("start", &[])?;
                let is_busy = started.code() == 2 && started.errors().contains("another command");
                if is_busy { Ok(None) } else { started.success().map(Some) }
            })?;
        } else if parts.contains(&Part::Agent) {
            // At once, rather than when so many failures in a row let it.
            self.sandbox.tell("restart", &[])?.success()?;
        }
        Ok(())
    }

    fn pull(&self) -> anyhow::Result<Output> {
        self.sandbox.tell("pull", &["--timeout", "30s"])
    }

    /// Pulls until the storm is over. Each that succeeds has brought what is whole.
    fn pull_on(&self) -> anyhow::Result<()> {
        while !self.over.load(Ordering::Relaxed) {
            let output = self.pull()?;
            if output.code() == 0 {
                if self.whole.fetch_add(1, Ordering::Relaxed).is_multiple_of(5) {
                    // Not by fsck, which takes for missing what another pull brings while it looks.
                    let walk = ["rev-list", "--objects", "--quiet", "--glob=refs/agents/*"];
                    self.at_home(&walk)?.success().context(output)?;
                }
            } else {
                // It did not run, something else was at it, or it ended in the middle.
                let is_clash = output.errors().contains("cannot lock ref");
                ensure!([2, 3].contains(&output.code()) && !is_clash, "{output}");
                self.broken.fetch_add(1, Ordering::Relaxed);
            }
            // The agent is to have some of the processors as well.
            thread::sleep(BETWEEN_PULLS);
        }
        Ok(())
    }

    /// The last number that the agent has left uncommitted.
    fn dirty(&self) -> u64 {
        let text = fs::read_to_string(self.sandbox.folder().join("home/dirty")).unwrap_or_default();
        text.lines().rev().find_map(|line| line.parse().ok()).unwrap_or(0)
    }

    /// Takes snapshots until the storm is over. What was not committed before one that succeeds, is at home after the next pull.
    fn snapshot_on(&self) -> anyhow::Result<()> {
        while !self.over.load(Ordering::Relaxed) {
            let before = self.dirty();
            let taken = self.sandbox.run(["snapshot", "take", self.sandbox.name()])?;
            ensure!([0, 1, 2, 3].contains(&taken.code()), "{taken}");
            if taken.code() == 0 && before > 0 && self.pull()?.code() == 0 {
                let kept = self.kept()?;
                ensure!(
                    kept.is_some_and(|kept| kept >= before),
                    "{before} is not in {kept:?}, the agent is at {}, after {taken}",
                    self.dirty()
                );
                self.kept.fetch_add(1, Ordering::Relaxed);
            }
            thread::sleep(BETWEEN_PULLS * 3);
        }
        Ok(())
    }

    /// What the newest snapshot at home holds of that.
    fn kept(&self) -> anyhow::Result<Option<u64>> {
        let newest = [
            "for-each-ref",
            "--sort=-refname",
            "--count=1",
            "--format=%(refname)",
            "refs/agents/box/snapshots/main",
        ];
        let newest = self.at_home(&newest)?.success()?.text();
        Ok(self.at_home(&["cat-file", "-p", &format!("{newest}:dirty")])?.text().parse().ok())
    }

    fn at_home(&self, args: &[&str]) -> anyhow::Result<Output> {
        git(&self.sandbox, self.sandbox.project(), args)
    }
}

fn git(home: &Home, folder: &Path, args: &[&str]) -> anyhow::Result<Output> {
    let who = ["-c", "user.name=A", "-c", "user.email=a@b"];
    let mut command = home.command("git", who.iter().chain(args));
    command.current_dir(folder);
    agent_tests::finish(command, b"")
}

/// Names of files below a folder that somebody should have removed.
fn left_over(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut left, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let kind = path.extension().and_then(|kind| kind.to_str());
            if matches!(kind, Some("lock" | "keep")) || name.starts_with("tmp_") {
                left.push(path.clone());
            }
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            }
        }
    }
    Ok(left)
}

#[test]
fn nothing_is_lost_whatever_is_killed() -> anyhow::Result<()> {
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        skip("there is no python3 to write with");
        return Ok(());
    }
    let kills = std::env::var("AGENT_SHIM_KILLS").ok().and_then(|text| text.parse().ok());
    let kills = kills.unwrap_or(layer().often(KILLS) as u64);
    let storm = Storm::start(Who::Ordinary)?;
    storm.works()?;
    thread::scope(|scope| -> anyhow::Result<()> {
        let mut beside: Vec<_> = (0..2).map(|_| scope.spawn(|| storm.pull_on())).collect();
        beside.push(scope.spawn(|| storm.snapshot_on()));
        let killed = (0..kills).try_for_each(|number| {
            let seed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
            let victims = VICTIMS[usize::try_from(seed % VICTIMS.len() as u64)?];
            // A moment of its own, whatever it is that is done just then.
            thread::sleep(Duration::from_micros(seed / 7 % 200_000));
            storm.kill(victims)?;
            storm.mend(victims).with_context(|| format!("after kill {number}, of {victims:?}"))?;
            storm.works().with_context(|| format!("after kill {number}, of {victims:?}"))
        });
        storm.over.store(true, Ordering::Relaxed);
        for one in beside {
            one.join().expect("no panic")?;
        }
        killed
    })?;
    let (whole, broken) = (storm.whole.load(Ordering::Relaxed), storm.broken.load(Ordering::Relaxed));
    let kept = storm.kept.load(Ordering::Relaxed);
    println!(
        "{kills} kills, {} commits, {whole} whole pulls and {broken} others, {kept} snapshots",
        storm.done().len()
    );
    ensure!(whole > 0 && kept > 0, "nothing came through");
    is_all_at_home(&storm)
}

/// Stopped, pulled, and compared.
fn is_all_at_home(storm: &Storm) -> anyhow::Result<()> {
    let sandbox = &storm.sandbox;
    sandbox.tell("stop", &["--force"])?.success()?;
    let done = storm.done();
    storm.pull()?.success()?;
    let reached = storm.at_home(&["rev-list", "--glob=refs/agents/box/*"])?.success()?.text();
    let reached: BTreeSet<&str> = reached.lines().collect();
    let lost: Vec<_> = done.iter().filter(|commit| !reached.contains(commit.as_str())).collect();
    ensure!(lost.is_empty(), "{} of {} commits are lost: {lost:?}", lost.len(), done.len());

    // What is inside is what is at home.
    sandbox.tell("start", &["--", "cat"])?.success()?;
    let format = "--format=%(objectname) %(refname:lstrip=1)";
    let inside =
        sandbox.sh(&format!("cd /workspace; git for-each-ref '{format}' refs/heads refs/tags refs/stash"))?;
    let inside: BTreeSet<String> = inside.success()?.text().lines().map(str::to_owned).collect();
    let format = "--format=%(objectname) %(refname:lstrip=3)";
    let home = storm.at_home(&["for-each-ref", format, "refs/agents/box"])?.success()?.text();
    let home: BTreeSet<String> = home.lines().map(str::to_owned).collect();
    let missing: Vec<_> = inside.difference(&home).collect();
    ensure!(missing.is_empty(), "not at home: {missing:?}");

    sandbox.sh("cd /workspace && git fsck --strict")?.success()?;
    storm.at_home(&["fsck", "--strict"])?.success()?;
    let left = left_over(&sandbox.project().join(".git"))?;
    ensure!(left.is_empty(), "left over: {left:?}");
    sandbox.tell("stop", &["--force"])?.success()?;
    until("the last process to be gone", || Ok(Traces::of(sandbox)?.processes.is_empty().then_some(())))
        .with_context(|| format!("{:?}", Traces::of(sandbox).map(|traces| traces.processes)))
}
