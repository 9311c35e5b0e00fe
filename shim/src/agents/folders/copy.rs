//! Making files in a sandbox's home, which an earlier agent may have filled with links to anywhere.
//!
//! Nothing is opened through a link there and nothing is replaced: a name that is taken stays as it is. What is copied
//! is counted before the first byte is written, so that too much of it leaves nothing half done.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::{
    fs::{CWD, Dir, DirEntry, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, openat2},
    io::Errno,
};
use serde_json::Value;

use super::{Carried, FolderPlan};
use crate::agents::{AgentError, settings};

/// Most files of a person's configuration; skills and commands are tens.
const MAX_FILES: usize = 2_000;
/// Most bytes of them together.
const MAX_BYTES: u64 = 32 * 1024 * 1024;
/// Deepest folder looked into. Links can make a loop, which ends here.
const MAX_DEPTH: usize = 16;

/// What a copy left out, one line each for the person.
pub type Notes = Vec<String>;

/// Makes what the plan lists in the home folder of a sandbox.
pub fn carry_out(plan: &FolderPlan, home: &Path) -> Result<Notes, AgentError> {
    let mut notes = Notes::new();
    let mut found = Found::default();
    for carried in &plan.files {
        let source =
            carried.source.as_deref().map(|source| found.look(source, carried, &mut notes)).transpose();
        source.map_err(|error| failed(carried.source.as_deref().unwrap_or(home), &error))?;
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let folder = openat2(CWD, home, flags, Mode::empty(), ResolveFlags::empty())
        .map_err(|error| failed(home, &error.into()))?;
    for copy in &found.copies {
        copy.make(&folder).map_err(|error| failed(&copy.shown, &error))?;
    }
    for carried in &plan.files {
        if let Some(note) =
            write_settings(carried, &folder).map_err(|error| failed(&home.join(&carried.at), &error))?
        {
            notes.push(note);
        }
    }
    Ok(notes)
}

fn failed(path: &Path, error: &io::Error) -> AgentError {
    let why = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => {
            "there is a symbolic link in its place; `--fresh` starts with an empty home".to_owned()
        }
        Some(Errno::NOTDIR) => "there is a file where its folder is to be".to_owned(),
        _ => error.to_string(),
    };
    AgentError::Copy { path: path.to_owned(), why }
}

/// What is to be copied.
#[derive(Debug, Default)]
struct Found {
    copies: Vec<OneFile>,
    bytes: u64,
}

/// One file, found and counted.
#[derive(Debug)]
struct OneFile {
    /// The listed folder it was found in, or the file itself.
    root: Rc<OwnedFd>,
    /// Where it is in there; empty for the file itself.
    below: PathBuf,
    /// Where it goes, below the home folder.
    at: PathBuf,
    /// For messages.
    shown: PathBuf,
}

impl Found {
    fn look(&mut self, source: &Path, carried: &Carried, notes: &mut Notes) -> io::Result<()> {
        // Found without a link on the way when the plan was made.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = openat2(CWD, source, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
        let stat = fstat(&root)?;
        match FileType::from_raw_mode(stat.st_mode) {
            // It is read as JSON when it is written.
            FileType::RegularFile if carried.reads_json() => self.count(&stat),
            FileType::RegularFile => {
                self.count(&stat)?;
                let root = openat2(CWD, source, readable(), Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
                self.copies.push(OneFile {
                    root: Rc::new(root),
                    below: PathBuf::new(),
                    at: carried.at.clone().into(),
                    shown: source.to_owned(),
                });
                Ok(())
            }
            FileType::Directory => {
                let root = Rc::new(root);
                let place = Place { root: &root, source, at: Path::new(&carried.at) };
                self.look_into(&place, Path::new(""), 0, notes)
            }
            _ => Ok(()),
        }
    }

    /// A link is followed as long as it stays in the folder that is listed.
    fn look_into(
        &mut self,
        place: &Place<'_>,
        below: &Path,
        depth: usize,
        notes: &mut Notes,
    ) -> io::Result<()> {
        let shown = place.source.join(below);
        if depth == MAX_DEPTH {
            notes.push(format!("not copied, because it lies too deep: {}", shown.display()));
            return Ok(());
        }
        let folder = open_below(place.root, below, readable() | OFlags::DIRECTORY)?;
        let entries = Dir::read_from(&folder)?;
        let named = |entry: DirEntry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        let mut names = entries.map(|entry| entry.map(named)).collect::<Result<Vec<_>, _>>()?;
        names.retain(|name| name != "." && name != "..");
        names.sort();
        for name in names {
            let below = below.join(&name);
            let shown = place.source.join(&below);
            let stat = match open_below(place.root, &below, OFlags::PATH | OFlags::CLOEXEC).and_then(fstat_of)
            {
                Ok(stat) => stat,
                Err(error) => {
                    let leads_out = error.raw_os_error() == Some(Errno::XDEV.raw_os_error());
                    let why =
                        if leads_out { "it leads out of the folder".to_owned() } else { error.to_string() };
                    notes.push(format!("not copied, because {why}: {}", shown.display()));
                    continue;
                }
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => self.look_into(place, &below, depth + 1, notes)?,
                FileType::RegularFile => {
                    self.count(&stat)?;
                    let at = place.at.join(&below);
                    self.copies.push(OneFile { root: Rc::clone(place.root), below, at, shown });
                }
                _ => notes.push(format!("not copied, because it is no file: {}", shown.display())),
            }
        }
        Ok(())
    }

    fn count(&mut self, stat: &Stat) -> io::Result<()> {
        self.bytes = self.bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or(u64::MAX));
        if self.bytes > MAX_BYTES {
            return Err(io::Error::other(format!("the configuration has more than {MAX_BYTES} bytes")));
        }
        if self.copies.len() >= MAX_FILES {
            return Err(io::Error::other(format!("the configuration has more than {MAX_FILES} files")));
        }
        Ok(())
    }
}

/// A listed folder: where it is, and where it goes.
struct Place<'a> {
    root: &'a Rc<OwnedFd>,
    source: &'a Path,
    at: &'a Path,
}

impl OneFile {
    fn make(&self, home: &OwnedFd) -> io::Result<()> {
        let opened;
        let file = if self.below.as_os_str().is_empty() {
            &*self.root
        } else {
            opened = open_below(&self.root, &self.below, readable())?;
            &opened
        };
        let stat = fstat(file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is no file any more"));
        }
        let executable = stat.st_mode & 0o100 != 0;
        let Some(mut to) = create(home, &self.at, executable)? else { return Ok(()) };
        // It may have grown since it was counted.
        let mut from = File::from(file.try_clone()?).take(MAX_BYTES + 1);
        if io::copy(&mut from, &mut to)? > MAX_BYTES {
            return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
        }
        Ok(())
    }
}

impl Carried {
    /// Whether more than its bytes matter.
    fn reads_json(&self) -> bool {
        !self.only.is_empty() || self.set.is_some()
    }
}

/// Makes a JSON file of what of the person's is listed, and of what is to be set in it.
fn write_settings(carried: &Carried, home: &OwnedFd) -> io::Result<Option<String>> {
    if !carried.reads_json() {
        return Ok(None);
    }
    let shown = carried.source.as_ref().map(|source| source.display().to_string()).unwrap_or_default();
    let bytes = carried.source.as_deref().map(read_json).transpose()?.unwrap_or_else(|| b"{}".to_vec());
    let (bytes, note) = match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => {
            let kept = if carried.only.is_empty() { object } else { settings::only(&object, &carried.only) };
            let mut whole = Value::Object(kept);
            if let Some(set) = &carried.set {
                settings::merge(&mut whole, set);
            }
            (serde_json::to_vec_pretty(&whole)?, None)
        }
        // What is not understood is not searched for what may enter.
        Ok(_) | Err(_) if !carried.only.is_empty() => {
            let set = carried.set.clone().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
            (
                serde_json::to_vec_pretty(&set)?,
                Some(format!("not copied, because it is no JSON object: {shown}")),
            )
        }
        // Some agents allow comments; it is theirs to understand.
        Ok(_) | Err(_) => (bytes, Some(format!("copied as it is, because it is no JSON object: {shown}"))),
    };
    if let Some(mut file) = create(home, Path::new(&carried.at), false)? {
        file.write_all(&bytes)?;
    }
    Ok(note)
}

fn read_json(source: &Path) -> io::Result<Vec<u8>> {
    let file = File::from(openat2(CWD, source, readable(), Mode::empty(), ResolveFlags::NO_SYMLINKS)?);
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

/// Makes a file for its owner alone, and the folders it lies in. `None` if the name is taken.
fn create(home: &OwnedFd, at: &Path, executable: bool) -> io::Result<Option<File>> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mut folder = home.try_clone()?;
    for part in at.parent().into_iter().flat_map(Path::components) {
        match mkdirat(&folder, part.as_os_str(), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        folder = openat2(&folder, part.as_os_str(), flags, Mode::empty(), resolve)?;
    }
    let name = at.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = if executable { Mode::RWXU } else { Mode::RUSR | Mode::WUSR };
    match openat2(&folder, name, flags, mode, resolve) {
        Ok(file) => Ok(Some(file.into())),
        Err(Errno::EXIST) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn readable() -> OFlags {
    OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC
}

fn open_below(root: &OwnedFd, below: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(root, below, flags, Mode::empty(), resolve)?)
}

#[allow(clippy::needless_pass_by_value)] // It is closed here.
fn fstat_of(file: OwnedFd) -> io::Result<Stat> {
    Ok(fstat(&file)?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    struct Scene {
        folder: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for name in ["person", "home", "elsewhere"] {
                fs::create_dir(folder.path().join(name)).unwrap();
            }
            Self { folder }
        }

        fn path(&self, path: &str) -> PathBuf {
            self.folder.path().canonicalize().unwrap().join(path)
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn carried(&self, path: &str) -> Carried {
            let source = self.path("person").join(path);
            let source = source.exists().then_some(source);
            Carried { source, at: path.to_owned(), only: Vec::new(), set: None }
        }

        fn carry(&self, files: Vec<Carried>) -> Result<Notes, AgentError> {
            carry_out(&FolderPlan { files, ..FolderPlan::default() }, &self.path("home"))
        }

        /// Every file of the sandbox's home, with what it holds.
        fn inside(&self) -> Vec<(String, String)> {
            let home = self.path("home");
            let mut folders = vec![home.clone()];
            let mut files = Vec::new();
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).unwrap().flatten() {
                    if entry.file_type().unwrap().is_dir() {
                        folders.push(entry.path());
                    } else {
                        let name = entry.path().strip_prefix(&home).unwrap().display().to_string();
                        files.push((name, fs::read_to_string(entry.path()).unwrap_or_default()));
                    }
                }
            }
            files.sort();
            files
        }
    }

    fn pairs(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn files_and_folders_are_copied_for_their_owner_alone() {
        let scene = Scene::new();
        scene.write("person/.x/one", "1");
        scene.write("person/.x/deep/two", "2");
        fs::set_permissions(scene.path("person/.x/one"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(scene.path("person/.x/deep/two"), fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(scene.carry(vec![scene.carried(".x")]).unwrap(), Notes::new());
        assert_eq!(scene.inside(), pairs(&[(".x/deep/two", "2"), (".x/one", "1")]));
        let mode = |path: &str| fs::metadata(scene.path(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("home/.x"), mode("home/.x/one"), mode("home/.x/deep/two")), (0o700, 0o700, 0o600));
    }

    #[test]
    fn what_is_there_stays() {
        let scene = Scene::new();
        scene.write("person/.x/one", "theirs");
        scene.write("home/.x/one", "kept");
        scene.carry(vec![scene.carried(".x")]).unwrap();
        assert_eq!(scene.inside(), pairs(&[(".x/one", "kept")]));
    }

    #[test]
    fn links_that_an_agent_planted_lead_nowhere() {
        for (planted, target) in
            [("home/.x", "elsewhere"), ("home/.x/deep", "elsewhere"), ("home/.x/deep/two", "elsewhere/new")]
        {
            let scene = Scene::new();
            scene.write("person/.x/deep/two", "secret");
            fs::create_dir_all(scene.path(planted).parent().unwrap()).unwrap();
            symlink(scene.path(target), scene.path(planted)).unwrap();
            let result = scene.carry(vec![scene.carried(".x")]);
            assert_eq!(fs::read_dir(scene.path("elsewhere")).unwrap().count(), 0, "{planted}");
            // A link in place of the file is a name that is taken; in place of a folder, nothing can be made.
            assert_eq!(result.is_ok(), planted.ends_with("two"), "{planted}: {result:?}");
            if let Err(error) = result {
                assert!(
                    error.to_string().contains("symbolic link") || error.to_string().contains("a file where"),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn a_home_that_is_a_link_is_refused() {
        let scene = Scene::new();
        scene.write("person/.x", "1");
        fs::remove_dir(scene.path("home")).unwrap();
        symlink(scene.path("elsewhere"), scene.folder.path().join("home")).unwrap();
        let plan = FolderPlan { files: vec![scene.carried(".x")], ..FolderPlan::default() };
        assert!(carry_out(&plan, &scene.folder.path().canonicalize().unwrap().join("home")).is_err());
        assert_eq!(fs::read_dir(scene.path("elsewhere")).unwrap().count(), 0);
    }

    #[test]
    fn links_of_the_persons_are_followed_inside_the_folder_only() {
        let scene = Scene::new();
        scene.write("person/.x/real", "1");
        scene.write("person/private", "s3cret");
        symlink("real", scene.path("person/.x/link")).unwrap();
        symlink("../private", scene.path("person/.x/out")).unwrap();
        symlink(scene.path("person/private"), scene.path("person/.x/absolute")).unwrap();
        symlink(".", scene.path("person/.x/zloop")).unwrap();
        rustix::fs::mknodat(CWD, scene.path("person/.x/pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let notes = scene.carry(vec![scene.carried(".x")]).unwrap();
        let inside = scene.inside();
        assert!(!format!("{inside:?}").contains("s3cret"));
        assert!(inside.contains(&(".x/link".to_owned(), "1".to_owned())), "{inside:?}");
        for (name, why) in
            [("out", "leads out"), ("absolute", "leads out"), ("pipe", "is no file"), ("zloop", "too deep")]
        {
            assert!(notes.iter().any(|note| note.contains(name) && note.contains(why)), "{name}: {notes:?}");
        }
    }

    #[test]
    fn too_much_is_refused_before_anything_is_written() {
        let scene = Scene::new();
        scene.write("person/.x/small", "1");
        File::create(scene.path("person/.x/large")).unwrap().set_len(MAX_BYTES).unwrap();
        let error = scene.carry(vec![scene.carried(".x")]).unwrap_err();
        assert!(error.to_string().contains("more than 33554432 bytes"), "{error}");
        assert_eq!(error.hint().unwrap(), "`--agent-config own` starts without your configuration");
        fs::remove_file(scene.path("person/.x/large")).unwrap();
        for number in 0..MAX_FILES {
            scene.write(&format!("person/.x/{number}"), "");
        }
        let error = scene.carry(vec![scene.carried(".x")]).unwrap_err();
        assert!(error.to_string().contains("more than 2000 files"), "{error}");
        assert!(scene.inside().is_empty());
        fs::remove_file(scene.path("person/.x/small")).unwrap();
        scene.carry(vec![scene.carried(".x")]).unwrap();
        assert_eq!(scene.inside().len(), MAX_FILES);
    }

    #[test]
    fn of_a_json_file_only_what_is_listed_enters() {
        let scene = Scene::new();
        scene.write("person/.x.json", r#"{ "theme": "dark", "projects": { "/secret": 1 } }"#);
        let mut carried = scene.carried(".x.json");
        carried.only = vec!["theme".to_owned()];
        carried.set = Some(json!({ "trusted": true }));
        let mut made = scene.carried(".new/settings.json");
        made.set = Some(json!({ "a": { "b": 1 } }));
        assert_eq!(scene.carry(vec![carried, made]).unwrap(), Notes::new());
        let read =
            |path: &str| serde_json::from_slice::<Value>(&fs::read(scene.path(path)).unwrap()).unwrap();
        assert_eq!(read("home/.x.json"), json!({ "theme": "dark", "trusted": true }));
        assert_eq!(read("home/.new/settings.json"), json!({ "a": { "b": 1 } }));
    }

    #[test]
    fn what_is_no_json_is_not_searched_for_what_may_enter() {
        let scene = Scene::new();
        scene.write("person/.x.json", "// comment\n{ \"projects\": \"s3cret\" }");
        scene.write("person/.y.json", "// comment\n{}");
        let mut listed = scene.carried(".x.json");
        listed.only = vec!["theme".to_owned()];
        listed.set = Some(json!({ "trusted": true }));
        let mut whole = scene.carried(".y.json");
        whole.set = Some(json!({ "trusted": true }));
        let notes = scene.carry(vec![listed, whole]).unwrap();
        assert!(notes[0].starts_with("not copied") && notes[1].starts_with("copied as it is"), "{notes:?}");
        assert!(!format!("{:?}", scene.inside()).contains("s3cret"));
        assert_eq!(fs::read_to_string(scene.path("home/.y.json")).unwrap(), "// comment\n{}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Wherever an agent put links, and whatever is copied, nothing outside its home changes.
        #[test]
        fn nothing_outside_the_home_changes(
            files in proptest::collection::vec("[ab](/[ab]){0,3}", 1..5),
            links in proptest::collection::vec(("[ab](/[ab]){0,2}", prop_oneof!["elsewhere", "person", "home", "."]), 0..4),
        ) {
            let scene = Scene::new();
            for file in &files {
                let path = scene.path("person").join(file);
                if fs::create_dir_all(path.parent().unwrap()).is_ok() {
                    drop(fs::write(path, "text"));
                }
            }
            for (place, target) in &links {
                let place = scene.path("home").join(place);
                if place.parent().unwrap().canonicalize().is_ok_and(|parent| parent.starts_with(scene.path("home")))
                    || fs::create_dir_all(place.parent().unwrap()).is_ok()
                {
                    drop(symlink(scene.path(target), place));
                }
            }
            let before = listing(&scene, &["person", "elsewhere"]);
            drop(scene.carry(vec![scene.carried("a"), scene.carried("b")]));
            prop_assert_eq!(before, listing(&scene, &["person", "elsewhere"]));
        }
    }

    fn listing(scene: &Scene, tops: &[&str]) -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> = tops.iter().map(|top| scene.path(top)).collect();
        let mut all = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                }
                all.push(entry.path());
            }
        }
        all.sort();
        all
    }
}
