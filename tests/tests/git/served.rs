//! What our own side of the pack protocol serves, beside what git itself serves: the same refs and the same objects, by
//! every way that a client has.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use agent_tests::{Home, Output, Who, agent_git, finish};
use anyhow::ensure;

use crate::support::git;

/// Histories that are tried. Each has all that a history can have, in another order.
const SEEDS: u64 = 2;

/// Commits of one import.
const COMMITS: usize = 40;

/// Where the objects of the first import are packed, those of the others are not.
const IMPORTS: usize = 3;

/// Numbers that are the same each time (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % most
    }
}

/// A repository that grows.
struct History {
    home: Home,
    dice: Dice,
    made: usize,
    imports: usize,
    /// Branches that there are, and whether there are notes.
    known: [bool; BRANCHES],
    has_notes: bool,
}

const BRANCHES: usize = 4;

impl History {
    fn new(seed: u64) -> anyhow::Result<Self> {
        let home = Home::new(Who::Ordinary)?;
        home.project("source")?;
        let history = Self {
            home,
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1),
            made: 0,
            imports: 0,
            known: [false; BRANCHES],
            has_notes: false,
        };
        history.at("source", &["init", "-q", "-b", "b0"])?.success()?;
        history.at("source", &["config", "fastimport.unpackLimit", "100000"])?;
        history.at("source", &["config", "gc.auto", "0"])?;
        Ok(history)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Git in one of the folders.
    fn at(&self, name: &str, args: &[&str]) -> anyhow::Result<Output> {
        git(&self.home, &self.path(name), args)
    }

    /// What git is told, so that it is served by us.
    fn by_us(service: &str) -> String {
        format!("--{service}={} {service}", agent_git().display())
    }

    fn address(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }

    /// Commits on several branches, merges, moved and deleted files, tags of each kind, notes.
    fn grow(&mut self) -> anyhow::Result<()> {
        let mut input = String::new();
        let dice = &mut self.dice;
        // What this import has made can be named; what was there before is named as a commit.
        let mut begun = [false; BRANCHES];
        let mut has_new_notes = false;
        for _ in 0..COMMITS {
            self.made += 1;
            let number = self.made;
            let branch = dice.below(BRANCHES);
            // Some clocks are wrong.
            let date = 1_600_000_000 + if dice.below(8) == 0 { dice.below(9000) } else { number * 60 };
            writeln!(input, "commit refs/heads/b{branch}\nmark :{number}")?;
            writeln!(input, "committer A <a@example.org> {date} +0000\ndata 2\nx")?;
            let end = |begun: bool| if begun { "" } else { "^0" };
            if self.known[branch] && !begun[branch] {
                writeln!(input, "from refs/heads/b{branch}^0")?;
            }
            let other = dice.below(BRANCHES);
            if (self.known[branch] || begun[branch])
                && (self.known[other] || begun[other])
                && other != branch
                && dice.below(4) == 0
            {
                writeln!(input, "merge refs/heads/b{other}{}", end(begun[other]))?;
            }
            begun[branch] = true;
            for _ in 0..=dice.below(3) {
                let (folder, file) = (dice.below(4), dice.below(6));
                match dice.below(9) {
                    0 => writeln!(input, "D d{folder}/f{file}")?,
                    1 => writeln!(input, "M 040000 4b825dc642cb6eb9a060e54bf8d69288fbee4904 empty{file}")?,
                    2 => writeln!(input, "M 160000 {:040x} module{file}", number + 1)?,
                    3 => writeln!(input, "M 120000 inline link{file}\ndata 2\nd0")?,
                    _ => {
                        let text = format!("{folder} {file}\n").repeat(40 + dice.below(200));
                        let text = format!("{text}{}\n", dice.below(1000));
                        writeln!(
                            input,
                            "M 100644 inline d{folder}/e{}/f{file}\ndata {}\n{text}",
                            dice.below(3),
                            text.len()
                        )?;
                    }
                }
            }
            writeln!(input)?;
            match dice.below(10) {
                0 => writeln!(input, "reset refs/tags/light{number}\nfrom :{number}\n")?,
                1 => writeln!(
                    input,
                    "tag v{number}\nfrom :{number}\ntagger A <a@example.org> {date} +0000\ndata 1\nv"
                )?,
                2 => {
                    writeln!(
                        input,
                        "commit refs/notes/commits\ncommitter A <a@example.org> {date} +0000\ndata 1\nn"
                    )?;
                    if self.has_notes && !has_new_notes {
                        writeln!(input, "from refs/notes/commits^0")?;
                    }
                    has_new_notes = true;
                    writeln!(input, "N inline :{number}\ndata 1\n!")?;
                }
                _ => {}
            }
        }
        self.imports += 1;
        self.has_notes |= has_new_notes;
        for (known, begun) in self.known.iter_mut().zip(begun) {
            *known |= begun;
        }
        let mut import = self.home.command("git", ["fast-import", "--quiet", "--force"]);
        import.current_dir(self.path("source"));
        // The empty folder has to be there to be named.
        self.at("source", &["hash-object", "-t", "tree", "-w", "/dev/null"])?.success()?;
        finish(import, input.as_bytes())?.success()?;
        if self.imports == 1 {
            self.at("source", &["repack", "-q", "-a", "-d", "-f"])?.success()?;
            self.at("source", &["pack-refs", "--all"])?.success()?;
        }
        Ok(())
    }

    /// Refs, and every object that they reach.
    fn everything(&self, name: &str) -> anyhow::Result<(String, Vec<String>)> {
        let refs = self.at(name, &["for-each-ref", "--format=%(refname) %(objectname) %(*objectname)"])?;
        let objects = self.at(name, &["rev-list", "--objects", "--no-object-names", "--all"])?.success()?;
        let mut objects: Vec<String> = objects.text().lines().map(str::to_owned).collect();
        objects.sort();
        Ok((refs.success()?.text(), objects))
    }

    /// A folder has all of another one, and nothing in it is broken.
    fn same(&self, name: &str, source: &str) -> anyhow::Result<()> {
        self.at(name, &["fsck", "--full", "--strict"])?.success()?;
        let (ours, theirs) = (self.everything(name)?, self.everything(source)?);
        ensure!(ours.0 == theirs.0, "{name} has other refs: {}\n{}", ours.0, theirs.0);
        ensure!(ours.1 == theirs.1, "{name} has {} objects, not {}", ours.1.len(), theirs.1.len());
        Ok(())
    }

    /// A mirror of the source, by us.
    fn mirror(&self, version: &str, to: &str) -> anyhow::Result<()> {
        let version = format!("protocol.version={version}");
        let us = Self::by_us("upload-pack");
        self.at(".", &["-c", &version, "clone", "-q", "--mirror", &us, &self.address("source"), to])?
            .success()?;
        Ok(())
    }
}

#[test]
fn clones_and_fetches_are_those_of_git() -> anyhow::Result<()> {
    for seed in 0..SEEDS {
        let mut history = History::new(seed)?;
        history.grow()?;
        for version in ["2", "1", "0"] {
            history.mirror(version, &format!("mirror{version}"))?;
            history.same(&format!("mirror{version}"), "source")?;
        }
        for _ in 1..IMPORTS {
            history.grow()?;
            for version in ["2", "1", "0"] {
                let mirror = format!("mirror{version}");
                let version = format!("protocol.version={version}");
                let us = History::by_us("upload-pack");
                history.at(&mirror, &["-c", &version, "fetch", "-q", "--prune", &us, "origin"])?.success()?;
                history.same(&mirror, "source")?;
            }
        }
        let listed = |by: &[&str]| {
            let address = history.address("source");
            history.at(".", &[&["ls-remote", "--symref"], by, &[&address]].concat())?.success()
        };
        ensure!(listed(&[&History::by_us("upload-pack")])?.text() == listed(&[])?.text());
        // One branch, and the tags that come with it; a client that knows no differences by distance.
        for options in [&["--single-branch"][..], &["--no-tags", "-b", "b1"]] {
            for (name, by) in [("ours", &[&*History::by_us("upload-pack")][..]), ("gits", &[])] {
                let address = history.address("source");
                let args = [&["clone", "-q", "--bare"], options, by, &[&*address, name]].concat();
                history.at(".", &args)?.success()?;
            }
            history.same("ours", "gits")?;
            for name in ["ours", "gits"] {
                fs::remove_dir_all(history.path(name))?;
            }
        }
    }
    Ok(())
}

#[test]
fn short_histories_are_those_of_git() -> anyhow::Result<()> {
    for seed in 0..SEEDS {
        let mut history = History::new(seed)?;
        history.grow()?;
        history.grow()?;
        for version in ["2", "0"] {
            let version = format!("protocol.version={version}");
            let us = History::by_us("upload-pack");
            let address = history.address("source");
            let steps: [&[&str]; 5] = [
                &["fetch", "-q", "--depth", "5"],
                &["fetch", "-q", "--shallow-since=1600001000"],
                &["fetch", "-q", "--depth", "3"],
                &["fetch", "-q", "--shallow-exclude=b1"],
                &["fetch", "-q", "--unshallow"],
            ];
            for (name, by) in [("ours", &[&*us][..]), ("gits", &[])] {
                let args = [
                    &["-c", &version, "clone", "-q", "--bare", "--depth", "2", "--no-single-branch"],
                    by,
                    &[&*address, name],
                ];
                history.at(".", &args.concat())?.success()?;
            }
            let shallow = |name| {
                fs::read_to_string(history.path(name).join("shallow"))
                    .map(|text| {
                        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                        lines.sort();
                        lines
                    })
                    .unwrap_or_default()
            };
            for step in steps {
                history.same("ours", "gits")?;
                ensure!(
                    shallow("ours") == shallow("gits"),
                    "{seed} {version} before {step:?}: {:?} {:?}",
                    shallow("ours"),
                    shallow("gits")
                );
                let all = "+refs/heads/*:refs/heads/*";
                let codes: Vec<i32> = [("ours", &[&*us][..]), ("gits", &[])]
                    .iter()
                    .map(|(name, by)| {
                        let args = [&["-c", &version], step, *by, &[&*address, all]].concat();
                        Ok(history.at(name, &args)?.code())
                    })
                    .collect::<anyhow::Result<_>>()?;
                ensure!(codes[0] == codes[1], "{step:?}: {codes:?}");
            }
            history.same("ours", "gits")?;
            ensure!(shallow("ours") == shallow("gits"), "{:?} {:?}", shallow("ours"), shallow("gits"));
            for name in ["ours", "gits"] {
                fs::remove_dir_all(history.path(name))?;
            }
            deepened(&history, &version)?;
        }
        // Out of a repository that is a short one itself.
        let source = history.address("source");
        history
            .at(".", &["clone", "-q", "--bare", "--depth", "3", "--no-single-branch", &source, "short"])?
            .success()?;
        let short = history.address("short");
        for version in ["protocol.version=2", "protocol.version=0"] {
            history
                .at(
                    ".",
                    &["-c", version, "clone", "-q", "--bare", &History::by_us("upload-pack"), &short, "copy"],
                )?
                .success()?;
            history.same("copy", "short")?;
            fs::remove_dir_all(history.path("copy"))?;
        }
    }
    Ok(())
}

/// Where several histories end, git may leave an old end in the list although what lies behind it has come. Ours is never
/// shorter, and never broken.
fn deepened(history: &History, version: &str) -> anyhow::Result<()> {
    let (us, source) = (History::by_us("upload-pack"), history.address("source"));
    for (name, by) in [("ours", &[&*us][..]), ("gits", &[])] {
        let start = ["-c", version, "clone", "-q", "--bare", "--depth", "2", "--no-single-branch"];
        history.at(".", &[&start, by, &[&*source, name]].concat())?.success()?;
        let deepen = ["-c", version, "fetch", "-q", "--deepen", "2"];
        history.at(name, &[&deepen, by, &[&*source, "+refs/heads/*:refs/heads/*"]].concat())?.success()?;
    }
    history.at("ours", &["fsck", "--full", "--strict"])?.success()?;
    let (ours, gits) = (history.everything("ours")?, history.everything("gits")?);
    ensure!(
        ours.0 == gits.0 && gits.1.iter().all(|id| ours.1.contains(id)),
        "{version}: something is missing"
    );
    for name in ["ours", "gits"] {
        fs::remove_dir_all(history.path(name))?;
    }
    Ok(())
}

#[test]
fn pushes_are_taken_as_git_takes_them() -> anyhow::Result<()> {
    for seed in 0..SEEDS {
        let mut history = History::new(seed)?;
        history.grow()?;
        let us = History::by_us("receive-pack");
        history.at(".", &["init", "-q", "--bare", "-b", "b0", "target"])?.success()?;
        let target = history.address("target");
        let push = |history: &History, more: &[&str]| {
            history.at("source", &[&["push", "-q", &us, &target], more].concat())
        };
        push(&history, &["refs/*:refs/*"])?.success()?;
        history.same("target", "source")?;
        // The second time with differences to what is there.
        history.grow()?;
        push(&history, &["--force", "--prune", "refs/*:refs/*"])?.success()?;
        history.same("target", "source")?;
        ensure!(!leftovers(&history.path("target"))?, "something was left in objects/");
        push(&history, &["b1:refs/heads/new", ":refs/heads/b2"])?.success()?;
        history.at("target", &["rev-parse", "-q", "--verify", "b2"])?.exits(1)?;
        // The branch that a clone would check out stays, bare or not.
        push(&history, &[":refs/heads/b0"])?
            .exits(1)?
            .complains("deletion of the current branch prohibited")?;
        push(&history, &["--atomic", "b1:refs/heads/one", ":refs/heads/b0"])?.exits(1)?;
        history.at("target", &["rev-parse", "-q", "--verify", "one"])?.exits(1)?;
    }
    Ok(())
}

/// Whether anything but packs and loose objects is among the objects.
fn leftovers(repository: &Path) -> anyhow::Result<bool> {
    for entry in fs::read_dir(repository.join("objects"))? {
        if entry?.file_name().to_string_lossy().starts_with("tmp") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What only git can read is left to git; without one, it is said why not.
#[test]
fn another_form_of_repository_is_gits_affair() -> anyhow::Result<()> {
    let home = Home::new(Who::Ordinary)?;
    home.project("new")?;
    git(&home, &home.path().join("new"), &["init", "-q", "--object-format=sha256"])?.success()?;
    let us = History::by_us("upload-pack");
    let address = format!("file://{}", home.path().join("new").display());
    git(&home, home.path(), &["ls-remote", &us, &address])?.success()?;
    let script = "PATH=/nowhere; exec \"$0\" upload-pack new";
    let mut alone = home.command("sh", ["-c".as_ref(), script.as_ref(), agent_git().as_os_str()]);
    alone.current_dir(home.path());
    let said = finish(alone, b"")?.exits(128)?;
    ensure!(said.text().contains("ERR the repository inside names its objects by sha256"), "{said}");
    Ok(())
}
