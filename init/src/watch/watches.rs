//! The folders that say where a repository's refs are, watched by inotify(7).
//!
//! All of it is the agent's to write: folders vanish, are links or pipes instead, or there are a hundred thousand of them.
//! So folders are opened one below the other without following a link, which no kind of file can make block; so many
//! are watched and looked through, and no more; and where that was not all, it is said that the picture is not whole.

use std::{ffi::CString, io, mem::MaybeUninit, os::fd::AsRawFd, os::fd::OwnedFd, path::Path, rc::Rc};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, RawDir,
        inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
        openat, statat,
    },
    io::Errno,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::sys;

/// Folders watched in one sandbox. The kernel's own bound is for all processes of the person together.
const MAX_WATCHES: usize = 512;

/// Entries of folders that are looked through for further folders, each time.
const MAX_ENTRIES: usize = 16 * 1024;

/// Folders in folders below `refs`.
const MAX_DEPTH: usize = 32;

/// News read at once.
const BUFFER_BYTES: usize = 16 * 1024;

/// Reads in a row. The kernel's queue, 16,384 news unless somebody set it higher, is shorter.
const MAX_READS: usize = 512;

/// What matters in any of the folders: files that come, go or were written.
const OF_FOLDER: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// In the project's own folder one name matters, and much else is written.
const OF_ROOT: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::ONLYDIR);

/// The watches on one repository.
pub(super) struct Watches {
    fd: AsyncFd<OwnedFd>,
    /// By their numbers; at most [`MAX_WATCHES`].
    folders: Vec<(i32, Folder)>,
    whole: bool,
}

/// What a watched folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Folder {
    /// The one that holds `.git`.
    Root,
    /// `.git` itself.
    Git,
    /// `refs`, and what is in it.
    Refs,
    /// `reftable`, which holds all refs where it is there.
    Reftable,
    /// `worktrees`, where each worktree has a folder.
    Worktrees,
    /// One of those.
    Worktree,
}

/// What happened since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Refs may have changed.
    pub(super) changed: bool,
    /// Folders came or went: what is watched is no longer what should be.
    pub(super) moved: bool,
}

impl Watches {
    /// Needs a runtime with I/O. Nothing is watched yet.
    pub(super) fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { fd: sys::watch(fd, Interest::READABLE)?, folders: Vec::new(), whole: false })
    }

    /// Whether every folder is watched that there was at the last look.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Waits for news. Cancel-safe.
    pub(super) async fn news(&self) -> io::Result<()> {
        self.fd.readable().await?.clear_ready();
        Ok(())
    }

    /// Takes the news that are there. Call it until it brings none: what it left is not announced again.
    pub(super) fn take(&mut self) -> News {
        let mut news = News::default();
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(self.fd.get_ref(), &mut buffer);
        let mut reads = 0;
        while reads < MAX_READS {
            reads += usize::from(reader.is_buffer_empty());
            match reader.next() {
                Ok(event) => {
                    let (flags, name) =
                        (event.events(), event.file_name().map_or(&b""[..], std::ffi::CStr::to_bytes));
                    let of = if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                        News { changed: true, moved: true }
                    } else {
                        folder_of(&self.folders, event.wd())
                            .map_or_else(News::default, |folder| folder.news(flags, name))
                    };
                    news = News { changed: news.changed | of.changed, moved: news.moved | of.moved };
                }
                Err(_) => break,
            }
        }
        news
    }

    /// Looks at what there is, and watches that and nothing else.
    pub(super) fn look(&mut self, repository: &Path) {
        let mut walk = Walk { fd: self.fd.get_ref(), found: Vec::new(), entries: 0, whole: true };
        walk.root(repository);
        let Walk { found, whole, .. } = walk;
        for (old, _) in self.folders.iter().filter(|(old, _)| folder_of(&found, *old).is_none()) {
            // The kernel took it away itself where the folder is gone.
            let _ = inotify::remove_watch(self.fd.get_ref(), *old);
        }
        self.folders = found;
        self.whole = whole;
    }
}

/// What the folder with this number is.
fn folder_of(folders: &[(i32, Folder)], number: i32) -> Option<Folder> {
    folders.iter().find(|(one, _)| *one == number).map(|(_, folder)| *folder)
}

impl Folder {
    /// What it means that something of this name was done in it.
    fn news(self, flags: ReadFlags, name: &[u8]) -> News {
        let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT | ReadFlags::IGNORED;
        if flags.intersects(gone) {
            return News { changed: false, moved: true };
        }
        let is_folder = flags.contains(ReadFlags::ISDIR);
        let both = |holds| News { changed: holds, moved: holds };
        let changed = |holds| News { changed: holds, moved: false };
        match self {
            Self::Root => both(name == b".git"),
            Self::Git => match name {
                b"HEAD" | b"packed-refs" => changed(true),
                b"refs" | b"reftable" | b"worktrees" => both(true),
                _ => News::default(),
            },
            // Git makes every ref under another name first.
            Self::Refs => News { changed: is_folder || !name.ends_with(b".lock"), moved: is_folder },
            Self::Reftable => changed(name == b"tables.list"),
            Self::Worktrees => both(is_folder),
            Self::Worktree => changed(name == b"HEAD"),
        }
    }
}

/// One look at the folders.
struct Walk<'a> {
    fd: &'a OwnedFd,
    found: Vec<(i32, Folder)>,
    entries: usize,
    whole: bool,
}

/// A folder that was opened, and is kept open until all in it was looked at.
type Open = Rc<OwnedFd>;

impl Walk<'_> {
    fn root(&mut self, repository: &Path) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(root) = openat(CWD, repository, flags, Mode::empty()) else {
            self.whole = false;
            return;
        };
        self.watch(&root, Folder::Root);
        match statat(&root, c".git", AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                self.git(&Rc::new(root));
            }
            // A file that names another place, or something that is no repository at all.
            Ok(_) | Err(_) => self.whole = false,
        }
    }

    fn git(&mut self, root: &Open) {
        let Some(git) = self.enter(root, c".git", Folder::Git) else { return };
        // Where a folder of these comes to be later, the one that holds it says so.
        if let Some(refs) = self.enter(&git, c"refs", Folder::Refs) {
            self.below(&refs, Folder::Refs, MAX_DEPTH);
        }
        self.enter(&git, c"reftable", Folder::Reftable);
        if let Some(worktrees) = self.enter(&git, c"worktrees", Folder::Worktrees) {
            self.below(&worktrees, Folder::Worktree, 1);
        }
    }

    /// Watches the folders in a folder, and those in them, down to a depth.
    fn below(&mut self, top: &Open, kind: Folder, depth: usize) {
        let mut waiting: Vec<(Open, CString, usize)> = self.folders_in(top, depth);
        while let Some((parent, name, depth)) = waiting.pop() {
            if let Some(folder) = self.enter(&parent, &name, kind)
                && kind == Folder::Refs
            {
                let found = self.folders_in(&folder, depth - 1);
                waiting.extend(found);
            }
            if !self.whole && self.is_full() {
                return;
            }
        }
    }

    fn folders_in(&mut self, folder: &Open, depth: usize) -> Vec<(Open, CString, usize)> {
        let mut found = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 8 * 1024];
        let mut entries = RawDir::new(&**folder, &mut buffer);
        while let Some(entry) = entries.next() {
            let Ok(entry) = entry else {
                self.whole = false;
                break;
            };
            self.entries += 1;
            let name = entry.file_name();
            let is_folder = matches!(entry.file_type(), FileType::Directory | FileType::Unknown)
                && !matches!(name.to_bytes(), b"." | b"..");
            if self.entries > MAX_ENTRIES || (is_folder && (depth == 0 || found.len() >= MAX_WATCHES)) {
                self.whole = false;
                break;
            }
            if is_folder {
                found.push((Rc::clone(folder), name.to_owned(), depth));
            }
        }
        found
    }

    /// Opens and watches a folder in another. What is no folder holds no refs; a link is not followed.
    fn enter(&mut self, parent: &Open, name: &std::ffi::CStr, kind: Folder) -> Option<Open> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&**parent, name, flags, Mode::empty()) {
            Ok(folder) => {
                self.watch(&folder, kind);
                Some(Rc::new(folder))
            }
            Err(Errno::NOENT) => None,
            Err(_) => {
                self.whole = false;
                None
            }
        }
    }

    fn watch(&mut self, folder: &OwnedFd, kind: Folder) {
        if self.is_full() {
            self.whole = false;
            return;
        }
        let flags = if kind == Folder::Root { OF_ROOT } else { OF_FOLDER };
        // The folder that is open, whatever has its name by now.
        match inotify::add_watch(self.fd, format!("/proc/self/fd/{}", folder.as_raw_fd()), flags) {
            Ok(number) => self.found.push((number, kind)),
            // The person's other programs may have used up all that the kernel gives.
            Err(_) => self.whole = false,
        }
    }

    fn is_full(&self) -> bool {
        self.found.len() >= MAX_WATCHES
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::PathBuf};

    use super::*;

    /// A folder of its own, with a repository in it as git makes one.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("agent-init-watch-{}-{name}", std::process::id()));
            drop(fs::remove_dir_all(&path));
            for folder in [".git/refs/heads", ".git/refs/tags"] {
                fs::create_dir_all(path.join(folder)).unwrap();
            }
            fs::write(path.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
            Self(path)
        }

        fn write(&self, name: &str) {
            fs::write(self.0.join(name), "x").unwrap();
        }

        fn rename(&self, from: &str, to: &str) {
            fs::rename(self.0.join(from), self.0.join(to)).unwrap();
        }

        fn watches(&self) -> Watches {
            let mut watches = Watches::new().unwrap();
            watches.look(&self.0);
            watches
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    const NOTHING: News = News { changed: false, moved: false };
    const CHANGED: News = News { changed: true, moved: false };
    const BOTH: News = News { changed: true, moved: true };

    #[tokio::test]
    async fn refs_count_and_other_files_do_not() {
        let place = Place::new("refs");
        let mut watches = place.watches();
        assert!(watches.is_whole());
        for other in [".git/index", ".git/COMMIT_EDITMSG", "file", ".git/refs/heads/main.lock"] {
            place.write(other);
            assert_eq!(watches.take(), NOTHING, "{other}");
        }
        place.rename(".git/refs/heads/main.lock", ".git/refs/heads/main");
        watches.news().await.unwrap();
        assert_eq!(watches.take(), CHANGED);
        for other in [".git/HEAD", ".git/packed-refs", ".git/refs/stash"] {
            place.write(other);
            assert_eq!(watches.take(), CHANGED, "{other}");
        }
        fs::remove_file(place.0.join(".git/refs/heads/main")).unwrap();
        assert_eq!(watches.take(), CHANGED);
        assert_eq!(watches.take(), NOTHING);
    }

    #[tokio::test]
    async fn folders_that_come_later_are_watched_too() {
        let place = Place::new("later");
        let mut watches = place.watches();
        fs::create_dir_all(place.0.join(".git/refs/heads/a/b")).unwrap();
        assert_eq!(watches.take(), BOTH);
        watches.look(&place.0);
        place.write(".git/refs/heads/a/b/c");
        assert_eq!(watches.take(), CHANGED);
        for folder in [".git/worktrees/fix", ".git/reftable"] {
            fs::create_dir_all(place.0.join(folder)).unwrap();
        }
        assert_eq!(watches.take(), BOTH);
        watches.look(&place.0);
        for (file, news) in [
            (".git/worktrees/fix/index", NOTHING),
            (".git/worktrees/fix/HEAD", CHANGED),
            (".git/reftable/0x1.ref", NOTHING),
            (".git/reftable/tables.list", CHANGED),
        ] {
            place.write(file);
            assert_eq!(watches.take(), news, "{file}");
        }
    }

    #[tokio::test]
    async fn a_repository_may_go_and_come() {
        let place = Place::new("comes");
        let mut watches = place.watches();
        place.rename(".git", "away");
        assert!(watches.take().moved);
        watches.look(&place.0);
        assert!(watches.is_whole(), "where there is no repository there is nothing to watch");
        place.write("away/refs/heads/main");
        assert_eq!(watches.take(), NOTHING, "it is not the repository any more");
        place.rename("away", ".git");
        assert_eq!(watches.take(), BOTH);
        watches.look(&place.0);
        place.write(".git/refs/heads/main");
        assert_eq!(watches.take(), CHANGED);
    }

    #[tokio::test]
    async fn what_is_no_folder_is_not_entered() {
        for (name, make) in [
            ("link", (|path: &Path| symlink("/proc", path).unwrap()) as fn(&Path)),
            ("pipe", |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap()),
            ("file", |path| fs::write(path, "gitdir: /proc\n").unwrap()),
        ] {
            for what in [".git", ".git/refs", ".git/refs/heads", ".git/worktrees", ".git/reftable"] {
                let place = Place::new(name);
                drop(fs::remove_dir_all(place.0.join(what)));
                make(&place.0.join(what));
                let mut watches = place.watches();
                // Below `refs` a link or a pipe is a ref like any other, and hides no folder of refs.
                assert_eq!(watches.is_whole(), what == ".git/refs/heads", "{name} {what}");
                fs::remove_file(place.0.join(what)).unwrap();
                assert!(watches.take().changed, "{name} {what}: it may become one");
            }
        }
    }

    #[tokio::test]
    async fn more_folders_than_can_be_watched_are_not_whole_and_take_no_more() {
        let place = Place::new("many");
        for number in 0..MAX_WATCHES + 10 {
            fs::create_dir(place.0.join(format!(".git/refs/heads/{number}"))).unwrap();
        }
        let mut watches = place.watches();
        assert!(!watches.is_whole());
        assert!(watches.folders.len() <= MAX_WATCHES, "{}", watches.folders.len());
        for number in 0..MAX_WATCHES {
            fs::remove_dir(place.0.join(format!(".git/refs/heads/{number}"))).unwrap();
        }
        watches.take();
        watches.look(&place.0);
        assert!(watches.is_whole());
        let deep = place.0.join(".git/refs/heads").join("d/".repeat(MAX_DEPTH + 2));
        fs::create_dir_all(deep).unwrap();
        watches.look(&place.0);
        assert!(!watches.is_whole());
    }

    #[tokio::test]
    async fn news_that_the_kernel_lost_mean_that_all_may_have_changed() {
        let place = Place::new("storm");
        let mut watches = place.watches();
        // Two names in turn: the same news again are merged by the kernel.
        for _ in 0..20_000 {
            place.write(".git/a");
            place.write(".git/b");
        }
        assert_eq!(watches.take(), BOTH);
        assert_eq!(watches.take(), NOTHING);
    }
}
