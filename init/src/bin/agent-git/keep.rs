//! Names for what has none: commits that are work and that no ref holds, so that whoever pulls gets them too.
//!
//! Those are the older entries of the stash, which only its log holds, and what is checked out on no branch in worktrees.
//! It is asked for before a repository is removed, so it also says where one is damaged.

use std::{ffi::OsString, path::Path, process::ExitCode};

use git2::{Oid, Reference, Repository};

/// Where they are named.
const PLACE: &str = "refs/agents/kept/";

/// Entries of the stash that are named, and worktrees.
const MAX_KEPT: usize = 1000;

/// As sysexits(3) has it.
const USAGE: u8 = 64;

/// `agent-git keep FOLDER`: says nothing where it worked.
pub(crate) fn main(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let (Some(folder), None) = (words.next(), words.next()) else {
        eprintln!("agent-git: error: keep: name one folder");
        return ExitCode::from(USAGE);
    };
    match keep(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent-git: error: {}", error.message());
            ExitCode::FAILURE
        }
    }
}

fn keep(folder: &Path) -> Result<(), git2::Error> {
    let repository = Repository::open(folder)?;
    whole(&repository)?;
    let wanted: Vec<(String, Oid)> = stashed(&repository)?.chain(detached(&repository)?).collect();
    for (name, id) in &wanted {
        if repository.refname_to_id(name).ok() != Some(*id) {
            repository.reference(name, *id, true, "")?;
        }
    }
    // What was worked on or dropped since is no longer without a name for a reason.
    for old in repository.references_glob(&format!("{PLACE}*"))? {
        let mut old = old?;
        if !wanted.iter().any(|(name, _)| Some(name.as_str()) == old.name()) {
            old.delete()?;
        }
    }
    Ok(())
}

/// Refuses a repository whose refs lead nowhere: whoever serves it may pass over them, and nobody would hear of it.
fn whole(repository: &Repository) -> Result<(), git2::Error> {
    let objects = repository.odb()?;
    for reference in repository.references()?.chain([repository.find_reference("HEAD")]) {
        let reference = reference?;
        if let Some(id) = reference.target()
            && !objects.exists(id)
        {
            let name = String::from_utf8_lossy(reference.name_bytes()).into_owned();
            return Err(git2::Error::from_str(&format!(
                "it is damaged: {name} leads to {id}, which is not there"
            )));
        }
    }
    Ok(())
}

/// The newest entry has a ref, `refs/stash`.
fn stashed(repository: &Repository) -> Result<impl Iterator<Item = (String, Oid)>, git2::Error> {
    let log = repository.reflog("refs/stash")?;
    let ids: Vec<Oid> = log.iter().skip(1).map(|entry| entry.id_new()).take(MAX_KEPT).collect();
    let there = ids.into_iter().filter(|id| repository.find_commit(*id).is_ok());
    Ok(there.map(|id| (format!("{PLACE}stash/{id}"), id)).collect::<Vec<_>>().into_iter())
}

/// Linked worktrees alone: what the main one has checked out is `HEAD`.
fn detached(repository: &Repository) -> Result<impl Iterator<Item = (String, Oid)>, git2::Error> {
    let mut found = Vec::new();
    for name in repository.worktrees()?.iter().flatten().take(MAX_KEPT) {
        let place = format!("{PLACE}worktrees/{name}");
        if let Some(id) = head_of(repository, name)
            && repository.find_commit(id).is_ok()
            && Reference::is_valid_name(&place)
        {
            found.push((place, id));
        }
    }
    Ok(found.into_iter())
}

/// The commit that a worktree has checked out on no branch.
fn head_of(repository: &Repository, name: &str) -> Option<Oid> {
    let text =
        std::fs::read_to_string(repository.commondir().join("worktrees").join(name).join("HEAD")).ok()?;
    Oid::from_str(text.trim_end()).ok()
}
