//! Git's pack protocol on standard input and output, for environments that have no git, and for what git is slow at.
//!
//! ```text
//! pkt, band      the bytes                       place, refs, store    the repository's files
//! upload         a client fetches                walk, select, send    which objects, and the pack of them
//! receive        a client pushes
//! ```
//!
//! Both sides may be anybody: the client is bounded in what it says, the repository in what it makes us read.

mod band;
mod file;
mod id;
mod object;
mod pkt;
mod place;
mod receive;
mod refs;
mod select;
mod send;
mod store;
#[cfg(test)]
mod testing;
mod trouble;
mod upload;
mod walk;

use std::{
    env,
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode},
};

use pkt::{Reader, Writer};
use place::Place;
use trouble::{Outcome, Trouble};

/// What git exits with when it gives up.
const GIVEN_UP: u8 = 128;

/// Who we are, to the other side.
const AGENT: &str = concat!("agent-git/", env!("CARGO_PKG_VERSION"));

/// Longest complaint, bytes: one packet, and no page.
const MAX_COMPLAINT_BYTES: usize = 1024;

/// A side of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// A client fetches.
    Upload,
    /// A client pushes.
    Receive,
}

/// Versions of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Zero,
    One,
    Two,
}

/// Serves the repository of a folder to whoever speaks on standard input and output.
pub(crate) fn main(service: Service, folder: &Path) -> ExitCode {
    let version = Version::named(&env::var("GIT_PROTOCOL").unwrap_or_default());
    let (stdin, stdout) = (io::stdin().lock(), io::stdout().lock());
    let found = Place::find(folder);
    if let Err(Trouble::Foreign(_)) = &found {
        // Nothing was said yet, so git can say it. If there is none, that is what we say.
        let _ = service.by_git(folder).exec();
    }
    match serve(service, found, version, stdin, stdout) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Trouble::Gone) => ExitCode::from(GIVEN_UP),
        Err(Trouble::Said(why) | Trouble::Told(why) | Trouble::Foreign(why)) => {
            // Whoever started us may want to know, too.
            drop(writeln!(io::stderr(), "fatal: {why}"));
            ExitCode::from(GIVEN_UP)
        }
    }
}

/// The whole conversation. A client that is still there is told how it ended.
fn serve(
    service: Service,
    found: Outcome<Place>,
    version: Version,
    from: impl Read,
    to: impl Write,
) -> Outcome<()> {
    let (mut reader, mut writer) = (Reader::new(from), Writer::new(to));
    let found = found.map_err(|trouble| match trouble {
        Trouble::Foreign(what) => Trouble::said(format!(
            "the repository inside {what}, which only git itself can serve: add git to the environment"
        )),
        trouble => trouble,
    });
    let served = found.and_then(|place| match service {
        Service::Upload => upload::serve(&place, version, &mut reader, &mut writer),
        Service::Receive => receive::serve(&place, version, &mut reader, &mut writer),
    });
    if let Err(Trouble::Said(why)) = &served {
        let most = why.floor_char_boundary(MAX_COMPLAINT_BYTES);
        writer.data(&[b"ERR ", &why.as_bytes()[..most]])?;
        writer.send()?;
    }
    served
}

impl Service {
    /// The environment's own git in our place.
    fn by_git(self, folder: &Path) -> Command {
        let mut git = Command::new("git");
        // As init runs it.
        git.args(["-c", "safe.directory=*"]);
        match self {
            Self::Upload => git.arg("upload-pack"),
            Self::Receive => git.args(["-c", "receive.denyCurrentBranch=updateInstead", "receive-pack"]),
        };
        git.arg(folder);
        git
    }
}

impl Version {
    /// The newest that a client speaks, in its words: `version=2`, among others between colons.
    fn named(words: &str) -> Self {
        words.split(':').fold(Self::Zero, |best, word| match (best, word) {
            (_, "version=2") => Self::Two,
            (Self::Zero, "version=1") => Self::One,
            _ => best,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_counts() {
        assert_eq!(Version::named(""), Version::Zero);
        assert_eq!(Version::named("version=1"), Version::One);
        assert_eq!(Version::named("x:version=2:version=1"), Version::Two);
        assert_eq!(Version::named("version=3"), Version::Zero);
    }
}
