//! Where the history of a clone ends although it goes on elsewhere.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Seek, Write},
    process::Stdio,
};

use rustix::fs::{MemfdFlags, memfd_create};

use super::{MAX_LIST_BYTES, Making, error::CloneError, layout::Layout, watch::Watch};
use crate::{
    repo::{
        host_git::{GitError, Running},
        object_id::{ObjectFormat, ObjectId},
    },
    sandbox::record::CloneObjects,
};

/// Commits that git is asked for before its answers are read: their names fit into a pipe.
const ASKED_AT_ONCE: usize = 64;

/// Longest commit that is read, bytes.
const MAX_COMMIT_BYTES: usize = 64 * 1024 * 1024;

/// The commits whose parents are left out, so that no more than `depth` commits lie on any way from a tip.
pub(super) fn cut<'a>(
    making: &Making<'_>,
    tips: impl Iterator<Item = &'a ObjectId>,
    depth: u32,
    watch: &mut Watch<'_>,
) -> Result<BTreeSet<ObjectId>, CloneError> {
    let ends: BTreeSet<ObjectId> = of_origin(making)?.into_iter().collect();
    let mut command = making.git.on(&making.origin.git_dir);
    command.env("GIT_GRAFT_FILE", "/dev/null").args(["-c", "advice.graftFileDeprecated=false"]);
    command.args(["cat-file", "--batch"]).stdin(Stdio::piped());
    let mut git = making.git.start(command, "cat-file", watch.until())?;
    let mut seen = BTreeSet::new();
    let mut cut = BTreeSet::new();
    let mut level: Vec<ObjectId> = tips.cloned().collect();
    for distance in 1..=depth {
        let mut next = Vec::new();
        for some in level.chunks(ASKED_AT_ONCE) {
            watch.look(&format!("{} commits", seen.len()))?;
            // A tag leads to a commit; what leads to none has no history.
            let names: String = some.iter().map(|id| format!("{id}^{{commit}}\n")).collect();
            git.write(names.as_bytes())?;
            for _ in some {
                let Some((id, parents)) = commit(&mut git, making.origin.format)? else { continue };
                if !seen.insert(id.clone()) {
                    continue;
                }
                if ends.contains(&id) || (distance == depth && !parents.is_empty()) {
                    cut.insert(id);
                } else {
                    next.extend(parents);
                }
            }
        }
        next.retain(|id| !seen.contains(id));
        next.sort();
        next.dedup();
        level = next;
    }
    Ok(cut)
}

/// Where the person's own history ends, as far as it is in the clone.
pub(super) fn inherited(
    making: &Making<'_>,
    layout: &Layout,
    watch: &Watch<'_>,
) -> Result<BTreeSet<ObjectId>, CloneError> {
    let ends = of_origin(making)?;
    let ask = || -> io::Result<File> {
        let mut file: File = memfd_create(c"commits", MemfdFlags::CLOEXEC)?.into();
        ends.iter().try_for_each(|id| writeln!(file, "{id}"))?;
        file.rewind()?;
        Ok(file)
    };
    let asked = ask().map_err(CloneError::io("asking for commits"))?;
    if making.wish.objects == Some(CloneObjects::Share) {
        return Ok(ends.into_iter().collect());
    }
    let mut command = making.git.on(&layout.git_dir);
    command.args(["cat-file", "--batch-check=%(objectname)"]).stdin(asked);
    let said = making.git.start(command, "cat-file", watch.until())?.output(MAX_LIST_BYTES)?;
    // One that is not there is called missing.
    Ok(said
        .split(|byte| *byte == b'\n')
        .filter_map(|line| ObjectId::parse(line, making.origin.format))
        .collect())
}

fn of_origin(making: &Making<'_>) -> Result<Vec<ObjectId>, CloneError> {
    if !making.origin.is_shallow {
        return Ok(Vec::new());
    }
    let text = fs::read(making.origin.git_dir.join("shallow"))
        .map_err(CloneError::io("reading where the repository's history ends"))?;
    let lines = text.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(|line| ObjectId::parse(line, making.origin.format)).collect())
}

/// Reads one answer: a commit's name and its parents.
fn commit(git: &mut Running, format: ObjectFormat) -> Result<Option<(ObjectId, Vec<ObjectId>)>, CloneError> {
    let Some(line) = git.line()? else {
        git.wait()?;
        return Err(CloneError::Answer);
    };
    let mut words = line.split(|byte| *byte == b' ');
    let (id, kind, size) = (words.next(), words.next(), words.next());
    if line.ends_with(b" missing") {
        return Ok(None);
    }
    let id = id.and_then(|id| ObjectId::parse(id, format)).filter(|_| kind == Some(b"commit"));
    let size = size.and_then(|size| std::str::from_utf8(size).ok()?.parse::<usize>().ok());
    let (Some(id), Some(size)) = (id, size.filter(|size| *size <= MAX_COMMIT_BYTES)) else {
        return Err(CloneError::Answer);
    };
    // And the line's end behind it.
    let mut text = vec![0; size + 1];
    let mut read = 0;
    while read < text.len() {
        match git.read(&mut text[read..])? {
            0 => return Err(GitError::Refused { what: "cat-file", said: "it ended early".to_owned() }.into()),
            count => read += count,
        }
    }
    Ok(Some((id, parents(&text, format))))
}

fn parents(commit: &[u8], format: ObjectFormat) -> Vec<ObjectId> {
    let lines = commit.split(|byte| *byte == b'\n').skip(1);
    lines.map_while(|line| ObjectId::parse(line.strip_prefix(b"parent ")?, format)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_stand_behind_the_tree_and_nowhere_else() {
        let id = |digit: &str| digit.repeat(40);
        let text = format!(
            "tree {}\nparent {}\nparent {}\nauthor A <a> 0 +0000\n\nparent {}\n",
            id("1"),
            id("2"),
            id("3"),
            id("4")
        );
        let parents: Vec<String> =
            parents(text.as_bytes(), ObjectFormat::Sha1).iter().map(ToString::to_string).collect();
        assert_eq!(parents, [id("2"), id("3")]);
    }
}
