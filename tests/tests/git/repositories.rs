//! What an agent can put into its own repository. None of it happens on the host, whichever way the work comes home.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
};

use agent_tests::{Home, Output, Sandbox, Who, layer, skip, until};
use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use crate::support::{contents, git};

/// The table of evils, and how each is made.
const TABLE: &str = include_str!("repositories.py");

/// How long what never ends may take, where the table does not say.
const TIME: &str = "40s";

/// One line of the table.
#[derive(Clone, Debug, Deserialize)]
struct Evil {
    name: String,
    /// A word of the refusal; nothing where it comes safely.
    refused: Option<String>,
    /// What makes the evil happen when a person runs git on the folder itself.
    control: Option<String>,
    /// Ways that are not gone: they would take too long, by plain git's own choice.
    without: Vec<String>,
    /// What plain git says when it refuses.
    plain: Option<String>,
    /// How long it is waited for.
    time: Option<String>,
}

type Contents = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// A way home.
struct Way {
    name: &'static str,
    go: fn(&Lair, &Evil) -> anyhow::Result<Output>,
    /// Where it may put something, if it succeeds. What was there before stays as it was even so.
    adds: &'static [&'static str],
    exits: Exits,
}

/// How a way ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exits {
    /// As the table says.
    AsTold,
    /// Either well or by a refusal: it does not look at everything.
    WellOrRefused,
    /// As git likes.
    Anyhow,
}

/// Where a pull puts what came.
const PULLED: &[&str] = &["objects/pack/", "refs/agents/box/", "logs/refs/agents/box/"];

const WAYS: [Way; 7] = [
    Way { name: "dry", go: |lair, evil| lair.pull(evil, &["-n"]), adds: &[], exits: Exits::AsTold },
    Way {
        name: "branch",
        go: |lair, evil| lair.pull(evil, &["--branch", "main"]),
        adds: &["objects/pack/", "refs/agents/box/heads/main", "logs/refs/agents/box/heads/main"],
        exits: Exits::WellOrRefused,
    },
    Way { name: "pull", go: |lair, evil| lair.pull(evil, &[]), adds: PULLED, exits: Exits::AsTold },
    Way {
        name: "list",
        go: |lair, _| lair.git(&["ls-remote", "agent::box"]),
        adds: &[],
        exits: Exits::Anyhow,
    },
    // Into what the person has checked out: the one way that changes files of theirs.
    Way {
        name: "merge",
        go: |lair, evil| lair.pull(evil, &["--merge"]),
        adds: &["objects/", "refs/agents/box/", "logs/", "ORIG_HEAD", "index", "refs/heads/main", "/"],
        exits: Exits::WellOrRefused,
    },
    Way {
        name: "fetch",
        go: |lair, _| {
            lair.git(&["fetch", "-q", "--no-tags", "agent::box", "+refs/heads/*:refs/remotes/box/*"])
        },
        adds: &["objects/", "refs/remotes/box/", "logs/refs/remotes/box/", "FETCH_HEAD"],
        exits: Exits::Anyhow,
    },
    Way {
        name: "clone",
        go: |lair, _| {
            let into = lair.sandbox.path().join("clone");
            let cloned = lair.git(&["clone", "-q", "agent::box", &into.to_string_lossy()]);
            Lair::remove(&into)?;
            cloned
        },
        adds: &[],
        exits: Exits::Anyhow,
    },
];

/// Where evils live: a sandbox for all of them, one after the other.
struct Lair {
    sandbox: Sandbox,
    repository: PathBuf,
    pristine: PathBuf,
    canaries: PathBuf,
}

impl Lair {
    fn new(who: Who) -> anyhow::Result<Self> {
        let home = Home::new(who)?;
        let script = home.file("repositories.py", TABLE.as_bytes())?;
        let (pristine, repository) = (home.project("pristine")?, home.path().join("repository"));
        let canaries = home.project("home/canaries")?;
        let args = [&script, Path::new("none"), &pristine, &canaries, &repository];
        agent_tests::finish(home.command("python3", args), b"")?.success()?;
        git(&home, &pristine, &["reset", "-q", "--hard"])?.success()?;
        // The agent's programs come before those of the environment.
        let flags = ["--workspace", "bind", "-e", "PATH=/workspace/bin:/usr/local/bin:/usr/bin:/bin"];
        let sandbox = Sandbox::builder().home(home).flags(flags).start()?;
        sandbox.file("data/agent-shim/agents/box/home/repositories.py", TABLE.as_bytes())?;
        let lair = Self { sandbox, repository, pristine, canaries };
        lair.refresh()?;
        Ok(lair)
    }

    fn canary(&self, evil: &Evil) -> PathBuf {
        self.canaries.join(&evil.name)
    }

    /// The repository at home as it was in the beginning.
    fn refresh(&self) -> anyhow::Result<()> {
        Self::remove(&self.repository)?;
        let status =
            std::process::Command::new("cp").arg("-a").args([&self.pristine, &self.repository]).status()?;
        ensure!(status.success(), "copying the repository: {status}");
        Ok(())
    }

    fn remove(folder: &Path) -> anyhow::Result<()> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", folder.display()))
            }
            _ => Ok(()),
        }
    }

    /// The workspace holds this evil, and nothing else.
    fn make(&self, evil: &Evil) -> anyhow::Result<()> {
        for entry in fs::read_dir(self.sandbox.project())? {
            let path = entry?.path();
            if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        let (canary, host) = (self.canary(evil), &self.repository);
        let command = format!(
            "python3 ~/repositories.py {} /workspace {} {}",
            evil.name,
            canary.display(),
            host.display()
        );
        self.sandbox.sh(&command)?.success()?;
        Ok(())
    }

    fn pull(&self, evil: &Evil, args: &[&str]) -> anyhow::Result<Output> {
        let into = self.repository.to_string_lossy();
        let time = evil.time.as_deref().unwrap_or(TIME);
        self.sandbox.tell("pull", &[&["--into", &*into, "--timeout", time], args].concat())
    }

    fn git(&self, args: &[&str]) -> anyhow::Result<Output> {
        git(&self.sandbox, &self.repository, args)
    }

    /// Everything of the person's that could have been hurt: the repository, and what is in their home.
    fn everything(&self) -> anyhow::Result<Contents> {
        let mut all = contents(&self.repository)?;
        all.extend(contents(&self.sandbox.path().join("home"))?);
        Ok(all)
    }

    /// Goes every way, and says what went wrong on each.
    fn face(&self, evil: &Evil) -> anyhow::Result<Vec<String>> {
        let mut wrong = Vec::new();
        self.make(evil)?;
        let mut before = self.everything()?;
        for way in WAYS.iter().filter(|way| !evil.without.iter().any(|without| without == way.name)) {
            let output = (way.go)(self, evil)?;
            let after = self.everything()?;
            let mut complain =
                |what: &str| wrong.push(format!("{} by {}: {what}: {output}", evil.name, way.name));
            for path in changes(&before, &after) {
                let place = path.strip_prefix(self.repository.join(".git"));
                let is_work = place.is_err() && path.starts_with(&self.repository);
                let place = if is_work { Path::new("/") } else { place.unwrap_or(path) };
                // What was pulled stays where it cannot be merged.
                let is_merge = way.name == "merge";
                let adds = if is_merge && output.code() != 0 { PULLED } else { way.adds };
                let may = output.code() == 0 || way.exits == Exits::Anyhow || is_merge;
                let is_new = !before.contains_key(path) || (is_merge && output.code() == 0);
                let is_among = adds.iter().any(|add| {
                    let (place, add) = (
                        place.to_string_lossy(),
                        add.strip_suffix('/').filter(|add| !add.is_empty()).unwrap_or(add),
                    );
                    // The folders on the way there are new as well.
                    place.starts_with(add)
                        || (after.get(path).is_some_and(|after| after.1.is_empty())
                            && add.starts_with(&*place))
                });
                if !(may && is_new && is_among) {
                    complain(&format!("{} is not what it was", path.display()));
                }
            }
            if let Err(error) = ends_as(evil, way, &output) {
                complain(&format!("{error:#}"));
            }
            if self.canary(evil).exists() {
                complain("the canary is there");
            }
            if way.exits != Exits::Anyhow {
                let shown = format!("{}{}", output.text(), output.errors());
                if let Some(bad) = shown.chars().find(|shown| is_harmful(*shown)) {
                    complain(&format!("{bad:?} on the terminal"));
                }
                if output.code() == 0
                    && after != before
                    && self.git(&["fsck", "--connectivity-only"])?.code() != 0
                {
                    complain("what came is not whole");
                }
            }
            if after == before {
                continue;
            }
            self.refresh()?;
            before = self.everything()?;
        }
        // Whoever was spoken with has ended: it has no reason to work for somebody who has left.
        until("the last git inside to be gone", || {
            let running = self.sandbox.sh("grep -l ^git /proc/[0-9]*/comm 2>/dev/null")?.text();
            Ok(running.is_empty().then_some(()))
        })?;
        if let Some(error) = self.control(evil)? {
            wrong.push(error);
        }
        Ok(wrong)
    }

    /// The evil is none if nothing happens to somebody who runs git on the folder itself.
    fn control(&self, evil: &Evil) -> anyhow::Result<Option<String>> {
        let Some(script) = &evil.control else { return Ok(None) };
        let mut command = self.sandbox.command("sh", ["-c", script]);
        command.current_dir(self.sandbox.project()).env("GIT_TERMINAL_PROMPT", "0");
        let output = agent_tests::finish(command, b"")?;
        let fired = self.canary(evil).exists();
        if fired {
            fs::remove_file(self.canary(evil))?;
        }
        Ok((!fired).then(|| format!("{} is harmless: {output}", evil.name)))
    }
}

fn ends_as(evil: &Evil, way: &Way, output: &Output) -> anyhow::Result<()> {
    let said = output.errors();
    match (way.exits, &evil.refused) {
        (Exits::AsTold, None) => ensure!(output.code() == 0, "it does not come"),
        (Exits::AsTold, Some(word)) if word == "?" => {
            ensure!([0, 3].contains(&output.code()), "it neither comes nor is refused");
        }
        (Exits::AsTold, Some(word)) => {
            ensure!(output.code() == 3, "it is not refused");
            ensure!(said.contains(word.as_str()), "the refusal does not say `{word}`");
        }
        (Exits::WellOrRefused, _) => {
            ensure!([0, 3].contains(&output.code()), "it neither comes nor is refused");
        }
        (Exits::Anyhow, _) => {}
    }
    if let (Some(word), "clone") = (&evil.plain, way.name) {
        ensure!(output.code() != 0 && said.contains(word.as_str()), "git does not say `{word}`");
    }
    Ok(())
}

/// Paths whose content or mode differs, or that only one of both has.
fn changes<'a>(before: &'a Contents, after: &'a Contents) -> Vec<&'a PathBuf> {
    let gone = before.keys().filter(|path| !after.contains_key(*path));
    let other =
        after.iter().filter(|(path, content)| before.get(*path) != Some(content)).map(|(path, _)| path);
    gone.chain(other).collect()
}

/// What moves a cursor, turns text around or hides it.
fn is_harmful(shown: char) -> bool {
    (shown.is_control() && shown != '\n')
        || matches!(shown, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn has_python() -> bool {
    let found = std::process::Command::new("python3").arg("--version").output().is_ok();
    if !found {
        skip("there is no python3 to be evil with");
    }
    found
}

/// Half of them for each kind of person, at the same time. `AGENT_SHIM_EVIL` names a few by a part of their names. What the host
/// does with them is the same on every layer, and where a start takes seconds one out of `every` shows that it is done there at all.
fn in_two_lanes(
    evils: &[Evil],
    every: usize,
    lane: impl Fn(Who, Vec<Evil>) -> anyhow::Result<Vec<String>> + Sync,
) -> anyhow::Result<()> {
    let only = std::env::var("AGENT_SHIM_EVIL").unwrap_or_default();
    let everyone = Home::everyone();
    let wrong = thread::scope(|scope| -> anyhow::Result<Vec<String>> {
        let lanes: Vec<_> = (0..2)
            .map(|number| {
                let every = if only.is_empty() { every } else { 1 };
                let chosen = evils.iter().filter(|evil| evil.name.contains(&only)).step_by(every);
                let mine = chosen.skip(number).step_by(2).cloned().collect();
                let (who, lane) = (everyone[number % everyone.len()], &lane);
                scope.spawn(move || lane(who, mine))
            })
            .collect();
        let mut all = Vec::new();
        for lane in lanes {
            match lane.join() {
                Ok(wrong) => all.extend(wrong?),
                Err(_) => bail!("a lane panicked"),
            }
        }
        Ok(all)
    })?;
    ensure!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

fn table() -> anyhow::Result<Vec<Evil>> {
    let mut command = std::process::Command::new("python3");
    let listed = agent_tests::finish(
        {
            command.args(["-c", TABLE, "list"]);
            command
        },
        b"",
    )?;
    Ok(serde_json::from_slice(&listed.success()?.stdout)?)
}

/// A person may have got their project from anybody, and its `.git` with it: what goes in is made without asking that.
#[test]
fn nothing_in_a_project_happens_when_it_goes_in() -> anyhow::Result<()> {
    if !has_python() {
        return Ok(());
    }
    let lane = |who: Who, evils: Vec<Evil>| -> anyhow::Result<Vec<String>> {
        let home = Home::new(who)?;
        let script = home.file("repositories.py", TABLE.as_bytes())?;
        let (canaries, host) = (home.project("home/canaries")?, home.project("host")?);
        let mut wrong = Vec::new();
        for evil in evils {
            let (project, canary) = (home.project(&evil.name)?, canaries.join(&evil.name));
            let args = [&script, Path::new(&evil.name), &project, &canary, &host];
            agent_tests::finish(home.command("python3", args), b"")?.success()?;
            let before = contents(&project)?;
            let flags = ["start", "--workspace", "clone", "--env", "host", "--name", &evil.name];
            let output =
                home.run(flags.iter().map(Path::new).chain([&*project]).chain(["--", "cat"].map(Path::new)))?;
            let mut complain = |what: &str| wrong.push(format!("{}: {what}: {output}", evil.name));
            if contents(&project)? != before {
                complain("the project is not what it was");
            }
            if canary.exists() {
                complain("the canary is there");
            }
            if ![0, 2, 3].contains(&output.code()) {
                complain("it neither goes in nor is refused");
            }
            if output.errors().chars().any(is_harmful) {
                complain("on the terminal");
            }
            if output.code() == 0 {
                home.run(["destroy", "--force", &evil.name])?.success()?;
            }
        }
        ensure!(
            fs::read_dir(canaries)?.next().is_none() && fs::read_dir(host)?.next().is_none(),
            "something ran"
        );
        Ok(wrong)
    };
    // What stands in the way of every git is waited for elsewhere.
    let evils = table()?.into_iter().filter(|evil| !evil.without.iter().any(|without| without == "clone"));
    in_two_lanes(&evils.collect::<Vec<_>>(), layer().patience as usize, lane)
}

#[test]
fn nothing_in_a_repository_happens_on_the_host() -> anyhow::Result<()> {
    if !has_python() {
        return Ok(());
    }
    let evils = table()?;
    ensure!(evils.len() >= 140, "only {} evils", evils.len());
    ensure!(
        evils.iter().filter(|evil| evil.control.is_some()).count() >= 34,
        "too few that are seen to happen"
    );
    let lane = |who: Who, evils: Vec<Evil>| -> anyhow::Result<Vec<String>> {
        let lair = Lair::new(who)?;
        let mut wrong = Vec::new();
        for evil in evils {
            match lair.face(&evil) {
                Ok(more) => wrong.extend(more),
                Err(error) => wrong.push(format!("{}: {error:#}", evil.name)),
            }
        }
        let left: Vec<_> = fs::read_dir(&lair.canaries)?.flatten().map(|entry| entry.file_name()).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(wrong)
    };
    // Each of them goes all ways home.
    in_two_lanes(&evils, layer().patience.pow(2) as usize, lane)
}
