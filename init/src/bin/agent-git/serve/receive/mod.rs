//! `receive-pack`: a client pushes (gitprotocol-pack(5)).
//!
//! As git does it by default, with `receive.denyCurrentBranch=updateInstead`, and with no hooks: who pushes is the person,
//! and what a hook would do is the agent's affair.

mod commands;
mod quarantine;
mod stream;
#[cfg(test)]
mod tests;
mod watch;
mod worktree;

use std::{
    collections::{HashMap, HashSet},
    io::{Read, Write},
};

use commands::{Command, Request};
use git2::{Oid, Repository, Signature, Transaction};
use quarantine::Quarantine;

use super::{
    Version,
    id::Id,
    object::Kind,
    pkt::{Reader, Writer},
    place::Place,
    refs::Refs,
    select::Selection,
    store::Store,
    trouble::{Outcome, Trouble},
    upload::shallow,
    walk::History,
};

/// What we can do.
const CAPABILITIES: &str =
    "report-status delete-refs side-band-64k quiet atomic ofs-delta object-format=sha1";

/// Who moves refs, in their logs.
const WHO: (&str, &str) = ("agent-git", "agent-git@localhost");

/// What the logs of refs say.
const WHY: &str = "push";

/// What becomes of one command; the client is told in git's words.
type Verdict = Result<(), String>;

/// Serves one client.
pub(crate) fn serve<R: Read, W: Write>(
    place: &Place,
    version: Version,
    reader: &mut Reader<R>,
    writer: &mut Writer<W>,
) -> Outcome<()> {
    let refs = Refs::read(place)?;
    let objects = place.common.join("objects");
    let store = Store::open(&objects)?;
    advertise(place, version, &refs, &store, writer)?;
    let request = Request::hear(reader)?;
    if request.commands.is_empty() {
        return Ok(());
    }
    let mut quarantine = None;
    let taken = if request.has_pack() {
        let made = quarantine.insert(Quarantine::new(&objects)?);
        made.take(&objects, reader.rest())
    } else {
        Ok(())
    };
    let verdicts = match &taken {
        Ok(()) => watch::in_time(|| carry_out(place, &request, &refs, quarantine))?,
        Err(Trouble::Said(_)) => vec![Err("unpacker error".to_owned()); request.commands.len()],
        Err(_) => return taken,
    };
    if request.report { report(&request, &taken, &verdicts, writer) } else { Ok(()) }
}

fn advertise<W: Write>(
    place: &Place,
    version: Version,
    refs: &Refs,
    store: &Store,
    writer: &mut Writer<W>,
) -> Outcome<()> {
    if version == Version::One {
        writer.line("version 1")?;
    }
    let capabilities = format!("{CAPABILITIES} agent={}", super::AGENT);
    let mut first = Some(capabilities);
    for (name, found) in &refs.all {
        if !store.has(found.id)? {
            continue;
        }
        let id = found.id.to_string();
        match first.take() {
            Some(can) => writer.data(&[id.as_bytes(), b" ", name, b"\0", can.as_bytes(), b"\n"])?,
            None => writer.data(&[id.as_bytes(), b" ", name, b"\n"])?,
        }
    }
    if let Some(can) = first {
        writer.data(&[Id::ZERO.to_string().as_bytes(), b" capabilities^{}\0", can.as_bytes(), b"\n"])?;
    }
    for id in shallow(place)? {
        writer.line(&format!("shallow {id}"))?;
    }
    writer.flush();
    writer.send()
}

/// Decides about each command, and does what was decided. One that fails leaves the others alone, unless all or none were
/// asked for.
fn carry_out(
    place: &Place,
    request: &Request,
    refs: &Refs,
    quarantine: Option<Quarantine>,
) -> Outcome<Vec<Verdict>> {
    let repository = Repository::open(&place.own).map_err(|error| library(&error))?;
    let worktrees = worktree::all(&repository, place).map_err(|error| library(&error))?;
    let objects = place.common.join("objects");
    let mut verdicts = {
        let folders: Vec<_> = quarantine.iter().map(Quarantine::path).chain([&*objects]).collect();
        let store = Store::of(&folders)?;
        let history = History::new(&store, shallow(place)?);
        judge(request, refs, &worktrees, &history)?
    };
    if request.atomic {
        all_or_none(&mut verdicts, "atomic push failure");
    }
    // What nobody may refer to goes as it came.
    if let Some(quarantine) = quarantine.filter(|_| verdicts.iter().any(Result::is_ok)) {
        quarantine.keep(&objects)?;
    }
    let signature = Signature::now(WHO.0, WHO.1).map_err(|error| library(&error))?;
    let mut change = Change { repository: &repository, worktrees: &worktrees, signature };
    if request.atomic {
        if verdicts.iter().all(Result::is_ok) {
            let commands: Vec<_> = request.commands.iter().collect();
            if change.make(&commands).is_err() {
                for verdict in &mut verdicts {
                    *verdict = Err("atomic transaction failed".to_owned());
                }
            }
        }
    } else {
        for (command, verdict) in request.commands.iter().zip(&mut verdicts) {
            if verdict.is_ok() {
                *verdict = change.make(&[command]);
            }
        }
    }
    Ok(verdicts)
}

/// What is wrong with each command before anything is done.
fn judge(
    request: &Request,
    refs: &Refs,
    worktrees: &[worktree::Worktree],
    history: &History<'_>,
) -> Outcome<Vec<Verdict>> {
    let mut names: HashMap<&[u8], usize> = HashMap::new();
    for command in &request.commands {
        *names.entry(&command.name).or_default() += 1;
    }
    let mut had = Vec::new();
    for found in refs.all.values().chain(&refs.head) {
        had.extend(
            history.peel(found.id)?.filter(|peeled| peeled.kind == Kind::Commit).map(|peeled| peeled.id),
        );
    }
    let mut verdicts = Vec::new();
    for command in &request.commands {
        let is_checked_out = worktrees.iter().any(|worktree| worktree.is_on(&command.name));
        let verdict = if let Err(why) = command.reference() {
            Err(why)
        } else if names[&*command.name] > 1 {
            Err("multiple updates for ref".to_owned())
        } else if refs.all.get(&command.name).is_some_and(|found| found.target.is_some()) {
            Err("a symbolic ref".to_owned())
        } else if command.is_delete() {
            let is_current = is_checked_out || refs.head_target.as_ref() == Some(&command.name);
            if is_current && !command.old.is_zero() {
                Err("deletion of the current branch prohibited".to_owned())
            } else {
                Ok(())
            }
        } else {
            match whole(history, command, &had) {
                Err(Trouble::Said(_)) => Err("missing necessary objects".to_owned()),
                whole => whole?,
            }
        };
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

/// Whether everything is there that a ref is to reach and the refs that are there do not.
fn whole(history: &History<'_>, command: &Command, had: &[Id]) -> Outcome<Verdict> {
    let Some(peeled) = history.peel(command.new)? else { return Ok(Err("bad pack".to_owned())) };
    let is_branch = command.name.starts_with(b"refs/heads/");
    if is_branch && !(peeled.tags.is_empty() && peeled.kind == Kind::Commit) {
        return Ok(Err("failed to update ref".to_owned()));
    }
    let mut selection = Selection::default();
    let mut tick = || Ok(());
    match peeled.kind {
        Kind::Commit => {
            let none = HashSet::new();
            let commits = history.between(&[peeled.id], had, &none, &mut tick)?;
            selection.add_commits(history, &commits, &none, &mut tick)?;
        }
        Kind::Tree => selection.add_whole_tree(history.store, peeled.id, &mut tick)?,
        Kind::Blob | Kind::Tag => {}
    }
    Ok(Ok(()))
}

/// How refs are changed.
struct Change<'a> {
    repository: &'a Repository,
    worktrees: &'a [worktree::Worktree],
    signature: Signature<'static>,
}

impl Change<'_> {
    /// Locks refs, looks whether they still are what the client believes, has the files follow, and moves them.
    fn make(&mut self, commands: &[&Command]) -> Verdict {
        let failed = |_: git2::Error| "failed to update ref".to_owned();
        let mut transaction = self.repository.transaction().map_err(failed)?;
        for command in commands {
            let name = command.reference()?;
            transaction.lock_ref(name).map_err(failed)?;
            let now = self.repository.refname_to_id(name).ok();
            // Nothing is deleted where nothing is: git says so and is content.
            if command.is_delete() && now.is_none() {
                continue;
            }
            if now.unwrap_or(Oid::zero()).as_bytes() != command.old.0 {
                return Err("failed to update ref".to_owned());
            }
        }
        for command in commands.iter().filter(|command| !command.is_delete()) {
            for worktree in self.worktrees.iter().filter(|worktree| worktree.is_on(&command.name)) {
                worktree.update(command.new)?;
            }
        }
        for command in commands {
            self.set(command, &mut transaction)?;
        }
        transaction.commit().map_err(failed)
    }

    fn set(&self, command: &Command, transaction: &mut Transaction<'_>) -> Verdict {
        let name = command.reference()?;
        let set = if command.is_delete() {
            if self.repository.find_reference(name).is_err() {
                return Ok(());
            }
            transaction.remove(name)
        } else {
            let new = Oid::from_bytes(&command.new.0);
            new.and_then(|new| transaction.set_target(name, new, Some(&self.signature), WHY))
        };
        set.map_err(|_| "failed to update ref".to_owned())
    }
}

fn all_or_none(verdicts: &mut [Verdict], why: &str) {
    if verdicts.iter().any(Result::is_err) {
        for verdict in verdicts.iter_mut().filter(|verdict| verdict.is_ok()) {
            *verdict = Err(why.to_owned());
        }
    }
}

/// Tells the client what became of what it asked for.
fn report<W: Write>(
    request: &Request,
    taken: &Outcome<()>,
    verdicts: &[Verdict],
    writer: &mut Writer<W>,
) -> Outcome<()> {
    let mut report = Vec::new();
    let mut lines = Writer::new(&mut report);
    match taken {
        Err(Trouble::Said(why)) => lines.line(&format!("unpack {why}"))?,
        _ => lines.line("unpack ok")?,
    }
    for (command, verdict) in request.commands.iter().zip(verdicts) {
        match verdict {
            Ok(()) => lines.data(&[b"ok ", &command.name, b"\n"])?,
            Err(why) => lines.data(&[b"ng ", &command.name, b" ", why.as_bytes(), b"\n"])?,
        }
    }
    lines.flush();
    lines.send()?;
    drop(lines);
    if !request.bands {
        return writer.raw(&report);
    }
    for piece in report.chunks(super::pkt::MAX_PACKET_BYTES - 5) {
        writer.data(&[b"\x01", piece])?;
    }
    writer.flush();
    writer.send()
}

fn library(error: &git2::Error) -> Trouble {
    Trouble::said(format!("the repository inside cannot be opened: {}", error.message()))
}
