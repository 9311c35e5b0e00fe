//! The repository on the host that things come home to.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    time::Instant,
};

use super::{
    host_git::{GitError, HostGit, Running, quoted},
    library::{Library, Look},
    object_id::{ObjectFormat, ObjectId},
    refs::RefName,
};

/// Most bytes of a list of refs. It is the person's own, so this is only where something must be wrong.
const MAX_LIST_BYTES: usize = 256 * 1024 * 1024;

/// Why a folder is no repository to pull into.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Git sees none there.
    #[error("{} is not in a git repository", .folder.display())]
    None {
        /// The folder.
        folder: PathBuf,
        /// What git said.
        source: GitError,
    },
    /// Git failed.
    #[error(transparent)]
    Git(#[from] GitError),
    /// Its files could not be read.
    #[error("reading {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It is in a place whose repositories are not opened.
    #[error("{} is not to be opened", .0.display())]
    Forbidden(PathBuf),
    /// Git answered in a way that we do not understand.
    #[error("git describes the repository in a way that this agent-shim does not understand")]
    Answer,
}

/// A repository: places, and what its objects are named with.
pub(crate) struct HomeRepository {
    /// What all worktrees share: refs and configuration.
    pub git_dir: PathBuf,
    /// Its objects.
    pub objects: PathBuf,
    /// What they are named with.
    pub format: ObjectFormat,
    /// The same repository, where it can be read without a process.
    pub library: Option<Library>,
}

/// Refs, or who was asked for them.
pub(crate) enum Listing {
    Read(Vec<HomeRef>),
    Asked(Running),
}

/// One ref of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HomeRef {
    /// Its name.
    pub name: RefName,
    /// What it points to.
    pub id: ObjectId,
    /// Whether it is what is checked out.
    pub is_head: bool,
}

impl HomeRepository {
    /// The repository that `folder` is in. What `forbids` says no to is not opened.
    pub(crate) fn of(
        git: &HostGit,
        folder: &Path,
        forbids: &dyn Fn(&Path) -> bool,
        until: Instant,
    ) -> Result<Self, HomeError> {
        let home = match Look::at(folder, forbids) {
            Look::Forbidden(place) => return Err(HomeError::Forbidden(place)),
            Look::Here(library) => {
                let (git_dir, objects) = places(library.git_dir().to_owned())?;
                Self { git_dir, objects, format: ObjectFormat::Sha1, library: Some(library) }
            }
            Look::AskGit => Self::by_git(git, folder, until)?,
        };
        let forbidden = [&home.git_dir, &home.objects].into_iter().find(|place| forbids(place)).cloned();
        forbidden.map_or(Ok(home), |place| Err(HomeError::Forbidden(place)))
    }

    fn by_git(git: &HostGit, folder: &Path, until: Instant) -> Result<Self, HomeError> {
        let args = ["rev-parse", "--path-format=absolute", "--git-common-dir", "--show-object-format"];
        let said = git.as_person(folder, &args, until).map_err(|source| match source {
            GitError::Refused { .. } => HomeError::None { folder: folder.to_owned(), source },
            other => other.into(),
        })?;
        // The path may hold line ends of its own.
        let text = said.strip_suffix(b"\n").ok_or(HomeError::Answer)?;
        let at = text.iter().rposition(|byte| *byte == b'\n').ok_or(HomeError::Answer)?;
        let format = ObjectFormat::named(&text[at + 1..]).ok_or(HomeError::Answer)?;
        let (git_dir, objects) = places(PathBuf::from(OsString::from_vec(text[..at].to_vec())))?;
        // Git trusts it, and that was the question.
        let library = Library::open(&git_dir);
        Ok(Self { git_dir, objects, format, library })
    }

    /// Begins to list its refs; [`refs`](Self::refs) takes the list.
    pub(crate) fn ask_refs(&self, git: &HostGit, until: Instant) -> Result<Listing, GitError> {
        if let Some(refs) = self.library.as_ref().and_then(Library::refs) {
            return Ok(Listing::Read(refs));
        }
        let mut command = git.on(&self.git_dir);
        command.args(["for-each-ref", "--format=%(objectname) %(HEAD) %(refname)"]);
        Ok(Listing::Asked(git.start(command, "for-each-ref", until)?))
    }

    /// Its refs.
    pub(crate) fn refs(&self, listing: Listing) -> Result<Vec<HomeRef>, GitError> {
        let asked = match listing {
            Listing::Read(refs) => return Ok(refs),
            Listing::Asked(asked) => asked,
        };
        let said = asked.output(MAX_LIST_BYTES)?;
        let parse = |line: &[u8]| {
            let mut words = line.splitn(2, |byte| *byte == b' ');
            let id = ObjectId::parse(words.next()?, self.format)?;
            let rest = words.next()?;
            let name = RefName::parse(rest.get(2..)?)?;
            Some(HomeRef { name, id, is_head: rest.starts_with(b"*") })
        };
        // What git lists and we would not make has no part in this.
        Ok(said.split(|byte| *byte == b'\n').filter_map(parse).collect())
    }

    /// Where its history ends although it goes on elsewhere.
    pub(crate) fn shallow(&self) -> Result<Vec<ObjectId>, HomeError> {
        let path = self.git_dir.join("shallow");
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(|source| HomeError::Io { path, source })?,
        };
        Ok(text.split(|byte| *byte == b'\n').filter_map(|line| ObjectId::parse(line, self.format)).collect())
    }

    /// Its objects' folder, open: who holds a lock on it publishes objects and refs.
    pub(crate) fn open_objects(&self) -> io::Result<File> {
        File::open(&self.objects)
    }

    /// The objects as an alternate.
    pub(crate) fn as_alternate(&self) -> OsString {
        quoted(&self.objects)
    }
}

/// Where a repository and its objects really are.
fn places(git_dir: PathBuf) -> Result<(PathBuf, PathBuf), HomeError> {
    let canonical = |path: PathBuf| path.canonicalize().map_err(|source| HomeError::Io { path, source });
    let git_dir = canonical(git_dir)?;
    let objects = canonical(git_dir.join("objects"))?;
    Ok((git_dir, objects))
}
