//! `upload-pack`: a client fetches (gitprotocol-v2(5), gitprotocol-pack(5)).

mod depth;
mod one;
mod request;
#[cfg(test)]
mod tests;
mod two;

use std::{
    collections::HashSet,
    io::{Read, Write},
};

use depth::Ends;
use request::Wish;

use super::{
    Version,
    band::{Bands, Width},
    file,
    id::Id,
    object::Kind,
    pkt::{Reader, Writer},
    place::Place,
    refs::{Peel, Ref, Refs},
    select::Selection,
    send::{self, Abilities},
    store::Store,
    trouble::{Outcome, Trouble},
    walk::History,
};

/// Where history ends in the repository.
const MAX_SHALLOW_BYTES: u64 = 16 << 20;

/// What one client talks with.
pub(super) struct Upload<'a> {
    place: &'a Place,
    store: &'a Store,
    history: History<'a>,
}

/// Serves one client.
pub(crate) fn serve<R: Read, W: Write>(
    place: &Place,
    version: Version,
    reader: &mut Reader<R>,
    writer: &mut Writer<W>,
) -> Outcome<()> {
    let store = Store::open(&place.common.join("objects"))?;
    let history = History::new(&store, shallow(place)?);
    let upload = Upload { place, store: &store, history };
    match version {
        Version::Two => upload.two(reader, writer),
        Version::One | Version::Zero => upload.one(version, reader, writer),
    }
}

/// Commits at which the repository's own history ends.
pub(super) fn shallow(place: &Place) -> Outcome<HashSet<Id>> {
    let bytes = file::read(&place.common.join("shallow"), MAX_SHALLOW_BYTES)
        .map_err(|error| Trouble::reading("shallow", &error))?;
    Ok(bytes.unwrap_or_default().split(|byte| *byte == b'\n').filter_map(Id::from_hex).collect())
}

impl Upload<'_> {
    /// What a ref is in the end, if it is a tag.
    fn peeled(&self, found: &Ref) -> Outcome<Option<Id>> {
        match found.peeled {
            Peel::To(id) => Ok(Some(id)),
            Peel::NoTag => Ok(None),
            Peel::Unknown => {
                let peeled = self.history.peel(found.id)?;
                Ok(peeled.filter(|peeled| !peeled.tags.is_empty()).map(|peeled| peeled.id))
            }
        }
    }

    /// The commits among objects, behind tags too. Those that are not here are left out.
    fn commits_of(&self, ids: &[Id]) -> Outcome<Vec<Id>> {
        let mut commits = Vec::new();
        for id in ids {
            let peeled = self.history.peel(*id)?;
            commits.extend(peeled.filter(|peeled| peeled.kind == Kind::Commit).map(|peeled| peeled.id));
        }
        Ok(commits)
    }

    /// Whether the client has said enough to be sent what it lacks.
    fn is_enough(&self, wish: &Wish, common: &[Id]) -> Outcome<bool> {
        if common.is_empty() {
            return Ok(false);
        }
        let wants = self.commits_of(&wish.wants)?;
        let haves = self.commits_of(common)?.into_iter().collect();
        self.history.all_reach(&wants, &haves, &mut || Ok(()))
    }

    /// Sends everything that is wanted and that the client does not have.
    fn send<W: Write>(
        &self,
        refs: &Refs,
        wish: &Wish,
        (common, ends): (&[Id], &Ends),
        (writer, width): (&mut Writer<W>, Width),
    ) -> Outcome<()> {
        let mut bands = Bands::new(writer, width);
        match self.send_in(refs, wish, (common, ends), &mut bands) {
            // The client is told in the middle of it.
            Err(Trouble::Said(why)) => {
                bands.failed(&format!("fatal: {why}"))?;
                Err(Trouble::Told(why))
            }
            sent => sent,
        }
    }

    fn send_in<W: Write>(
        &self,
        refs: &Refs,
        wish: &Wish,
        (common, ends): (&[Id], &Ends),
        bands: &mut Bands<'_, W>,
    ) -> Outcome<()> {
        let mut selection = Selection::default();
        let (mut wants, mut others) = (ends.behind.clone(), Vec::new());
        for id in &wish.wants {
            let peeled = self.history.peel(*id)?.ok_or_else(|| Trouble::missing(*id))?;
            for tag in peeled.tags {
                selection.add(self.store, tag)?;
            }
            if peeled.kind == Kind::Commit {
                wants.push(peeled.id);
            } else {
                others.push((peeled.kind, peeled.id));
            }
        }
        let haves = self.commits_of(common)?;
        let mut commits = self.history.between(&wants, &haves, &ends.cut, &mut || bands.tick())?;
        commits.edges.extend(&ends.edges);
        // What lies behind a new end is not followed, so no way leads to what the client has; it may have much of it all the same.
        if commits.edges.is_empty() && !ends.cut.is_empty() {
            commits.edges.extend(haves);
        }
        selection.add_commits(&self.history, &commits, &ends.cut, &mut || bands.tick())?;
        for (kind, id) in others {
            if kind == Kind::Tree {
                selection.add_whole_tree(self.store, id, &mut || bands.tick())?;
            } else {
                selection.add(self.store, id)?;
            }
        }
        if wish.include_tag {
            self.add_tags(refs, &mut selection)?;
        }
        if !wish.no_progress {
            bands.progress(&format!("Sending {} objects.\n", selection.objects.len()))?;
        }
        let abilities = Abilities { thin: wish.thin, distances: wish.distances };
        send::pack(self.store, &selection, abilities, &mut |bytes| bands.pack(bytes))?;
        bands.end()
    }

    /// Tags of what is sent anyway.
    fn add_tags(&self, refs: &Refs, selection: &mut Selection) -> Outcome<()> {
        for (name, found) in &refs.all {
            if !name.starts_with(b"refs/tags/") || selection.has(found.id) {
                continue;
            }
            if self.peeled(found)?.is_some_and(|id| selection.has(id)) {
                let peeled = self.history.peel(found.id)?;
                for tag in peeled.into_iter().flat_map(|peeled| peeled.tags) {
                    selection.add(self.store, tag)?;
                }
            }
        }
        Ok(())
    }
}
