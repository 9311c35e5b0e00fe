//! What of a person's configuration gets into a sandbox's home: decided here, carried out in [`copy`] and by mounts.

pub mod copy;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat2, statat};
use serde::Serialize;
use serde_json::Value;

use super::{ConfigFile, Settings};
use crate::isolation::{
    UserMount,
    plan::{Access, HOME},
};
use crate::sandbox::record::AgentConfig;

/// Longest path of an entry, bytes.
const MAX_PATH_BYTES: usize = 1024;

/// Where a person's configuration is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Person {
    /// Their home folder.
    pub home: PathBuf,
    /// By folder below the home folder: where it is in truth.
    pub moved: BTreeMap<String, PathBuf>,
}

/// What is to be done to a sandbox's home before its agent starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FolderPlan {
    /// Files and folders to be made in it.
    pub files: Vec<Carried>,
    /// What is mounted over it.
    #[serde(skip)]
    pub mounts: Vec<UserMount>,
    /// What a person should know, one line each.
    pub notes: Vec<String>,
}

/// A file or folder to be made in a sandbox's home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Carried {
    /// What it is a copy of.
    pub source: Option<PathBuf>,
    /// Where it will be, below the home folder.
    pub at: String,
    /// Of a JSON file, only these top-level keys. All if empty.
    pub only: Vec<String>,
    /// What is set in it.
    pub set: Option<Value>,
    /// Whether only what everyone may read is copied.
    pub public: bool,
}

/// Which logins there are: paths below the home folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logins {
    /// The sandbox has them, or will.
    pub inside: BTreeSet<String>,
    /// The person has them, and they stay where they are.
    pub left: BTreeSet<String>,
}

impl Person {
    /// Whose home folder that is. `moved` names the folders that a variable may have put elsewhere.
    pub fn new(
        home: PathBuf,
        moved: &BTreeMap<String, String>,
        variable: impl Fn(&str) -> Option<PathBuf>,
    ) -> Self {
        let moved = moved.iter().filter_map(|(folder, name)| {
            let place = variable(name).filter(|place| place.is_absolute())?;
            Some((folder.clone(), place))
        });
        Self { home, moved: moved.collect() }
    }

    /// Where a file of the configuration is, whether or not there is one.
    pub fn place(&self, path: &str) -> PathBuf {
        let moved = self.moved.iter().filter_map(|(folder, place)| {
            let rest = Path::new(path).strip_prefix(folder).ok()?;
            Some((folder.len(), place.join(rest)))
        });
        moved.max_by_key(|(length, _)| *length).map_or_else(|| self.home.join(path), |(_, place)| place)
    }

    /// The file or folder that is there, without links on the way.
    ///
    /// Whoever manages such files with links means them. But an agent that may write to one of these folders could plant one
    /// to a private key, for the next sandbox to get. So out of its folder, a link leads to what everyone may read.
    fn find(&self, path: &str) -> Option<Theirs> {
        let place = self.place(path);
        let real = place.canonicalize().ok().filter(|_| place.is_absolute())?;
        let found = real.metadata().ok().filter(|found| found.is_file() || found.is_dir())?;
        let folder = place.parent()?.canonicalize().ok()?;
        let is_own = real == folder.join(place.file_name()?);
        let stays = is_own || (real.starts_with(&folder) && place.parent() != Some(&self.home));
        let way = match (stays, is_public(found.mode(), found.is_dir())) {
            (true, _) => Way::Own,
            (false, true) => Way::Public,
            (false, false) => Way::Withheld,
        };
        Some(Theirs { path: real, way })
    }
}

/// A file or folder of the person's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Theirs {
    /// Where it is, without links on the way.
    pub path: PathBuf,
    /// How it was come to.
    pub way: Way,
}

/// How a file of the person's was come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is in its place, or in the same folder.
    Own,
    /// By a link out of its folder, to what everyone may read.
    Public,
    /// By a link out of its folder, to what not everyone may read.
    Withheld,
}

/// Whether a file's mode lets everyone read it, or look into it if it is a folder.
fn is_public(mode: u32, is_folder: bool) -> bool {
    let needed = if is_folder { 0o005 } else { 0o004 };
    mode & needed == needed
}

/// Looks for logins: in the sandbox's home, and in the person's.
pub fn logins<'a>(
    config: impl IntoIterator<Item = &'a ConfigFile>,
    how: AgentConfig,
    is_new: bool,
    person: &Person,
    sandbox_home: &Path,
) -> Logins {
    let mut logins = Logins::default();
    for ConfigFile { path, replaced, .. } in config.into_iter().filter(|file| file.login) {
        let taken = match how {
            AgentConfig::Own => false,
            AgentConfig::Copy => is_new,
            AgentConfig::ReadOnly => is_new || !replaced,
        };
        let found = person.find(path);
        let theirs = found.is_some();
        let taken = taken && found.is_some_and(|theirs| theirs.way != Way::Withheld);
        if (!is_new && is_kept(sandbox_home, path)) || taken {
            logins.inside.insert(path.clone());
        } else if theirs {
            logins.left.insert(path.clone());
        }
    }
    logins
}

/// Whether an agent left a file there earlier. Nothing is opened, and no link is followed.
fn is_kept(home: &Path, path: &str) -> bool {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(CWD, home, flags | OFlags::DIRECTORY, Mode::empty(), ResolveFlags::empty())
        .and_then(|home| openat2(home, path, flags, Mode::empty(), resolve))
        .and_then(|file| statat(file, "", AtFlags::EMPTY_PATH))
        .is_ok_and(|found| {
            FileType::from_raw_mode(found.st_mode) == FileType::RegularFile && found.st_size > 0
        })
}

/// Decides what enters. `find` tells where a file of the person's is, without links on the way.
pub fn plan(
    config: &[ConfigFile],
    settings: &Settings,
    how: AgentConfig,
    is_new: bool,
    find: impl Fn(&str) -> Option<Theirs>,
) -> FolderPlan {
    let mut plan = FolderPlan::default();
    let mut copied_for_mount = Vec::new();
    for file in config.iter().filter(|_| how != AgentConfig::Own) {
        let Some(Theirs { path: source, way }) = find(&file.path) else { continue };
        if way == Way::Withheld {
            let why = "it leads out of its folder to what not everyone may read";
            plan.notes.push(format!("not taken along, because {why}: ~/{}", file.path));
            continue;
        }
        let public = way == Way::Public;
        let set = settings.get(&file.path).cloned();
        let must_copy = file.replaced || public || !file.only.is_empty() || set.is_some();
        if how == AgentConfig::ReadOnly && !must_copy {
            let at = format!("{HOME}/{}", file.path);
            plan.mounts.push(UserMount { source, at, access: Access::ReadOnly });
            continue;
        }
        if how == AgentConfig::ReadOnly {
            copied_for_mount.push(format!("~/{}", file.path));
        }
        plan.files.push(Carried {
            source: Some(source),
            at: file.path.clone(),
            only: file.only.clone(),
            set,
            public,
        });
    }
    let made: BTreeSet<String> = plan.files.iter().map(|file| file.at.clone()).collect();
    let others = settings.iter().filter(|(path, _)| !made.contains(*path));
    plan.files.extend(others.map(|(path, set)| Carried {
        source: None,
        at: path.clone(),
        only: Vec::new(),
        set: Some(set.clone()),
        public: false,
    }));
    if !copied_for_mount.is_empty() && is_new {
        let files = copied_for_mount.join(", ");
        plan.notes.push(format!(
            "copied, because the agent replaces what cannot be replaced under a mount: {files}"
        ));
    }
    // What an agent has written meanwhile is neither read nor replaced.
    if !is_new {
        if how != AgentConfig::Own && plan.files.iter().any(|file| file.source.is_some()) {
            plan.notes
                .push("the sandbox keeps the configuration it has; `--fresh` copies it again".to_owned());
        }
        plan.files.clear();
    }
    plan
}

/// [`plan`] for a person as they are.
pub fn plan_for(
    config: &[ConfigFile],
    settings: &Settings,
    how: AgentConfig,
    is_new: bool,
    person: &Person,
) -> FolderPlan {
    plan(config, settings, how, is_new, |path| person.find(path))
}

/// Whether a path in a definition is one that lies below a home folder.
pub fn below_home(path: &str) -> Result<(), &'static str> {
    let parts: Vec<Component<'_>> = Path::new(path).components().collect();
    if path.len() > MAX_PATH_BYTES {
        Err("it is too long")
    } else if parts.is_empty() || path.contains('\0') {
        Err("it is not a path")
    } else if parts.iter().all(|part| matches!(part, Component::Normal(_))) {
        Ok(())
    } else {
        Err("it must lie below the home folder, without `..`")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;
    use serde_json::json;

    fn file(path: &str) -> ConfigFile {
        ConfigFile { path: path.to_owned(), ..ConfigFile::default() }
    }

    fn config() -> Vec<ConfigFile> {
        vec![
            ConfigFile { login: true, replaced: true, ..file(".x/login") },
            ConfigFile { replaced: true, only: vec!["a".to_owned()], ..file(".x.json") },
            file(".x/rules"),
            file(".x/absent"),
        ]
    }

    fn settings() -> Settings {
        [(".x.json".to_owned(), json!({ "b": 1 })), (".y.json".to_owned(), json!({ "c": 1 }))].into()
    }

    fn planned(how: AgentConfig, is_new: bool) -> FolderPlan {
        plan(&config(), &settings(), how, is_new, |path| {
            (!path.contains("absent"))
                .then(|| Theirs { path: Path::new("/home/me").join(path), way: Way::Own })
        })
    }

    fn places(plan: &FolderPlan) -> Vec<(&str, bool)> {
        plan.files.iter().map(|file| (file.at.as_str(), file.source.is_some())).collect()
    }

    #[test]
    fn by_default_nothing_of_the_persons_enters() {
        let plan = planned(AgentConfig::Own, true);
        assert_eq!(places(&plan), [(".x.json", false), (".y.json", false)]);
        assert!(plan.mounts.is_empty() && plan.notes.is_empty());
    }

    #[test]
    fn a_copy_takes_what_is_listed_and_there() {
        let plan = planned(AgentConfig::Copy, true);
        assert_eq!(
            places(&plan),
            [(".x/login", true), (".x.json", true), (".x/rules", true), (".y.json", false)]
        );
        assert_eq!(
            (plan.files[1].only.as_slice(), plan.files[1].set.clone()),
            (["a".to_owned()].as_slice(), Some(json!({ "b": 1 })))
        );
    }

    #[test]
    fn what_is_replaced_is_copied_where_the_rest_is_mounted() {
        let plan = planned(AgentConfig::ReadOnly, true);
        assert_eq!(places(&plan), [(".x/login", true), (".x.json", true), (".y.json", false)]);
        assert_eq!(plan.mounts.len(), 1);
        assert_eq!(plan.mounts[0].at, "/home/sandbox/.x/rules");
        assert_eq!(
            (&plan.mounts[0].source, plan.mounts[0].access),
            (&PathBuf::from("/home/me/.x/rules"), Access::ReadOnly)
        );
        assert!(plan.notes[0].ends_with("~/.x/login, ~/.x.json"), "{:?}", plan.notes);
    }

    #[test]
    fn a_home_that_an_agent_has_used_is_not_written_to() {
        for how in [AgentConfig::Own, AgentConfig::Copy, AgentConfig::ReadOnly] {
            let plan = planned(how, false);
            assert!(plan.files.is_empty());
            assert_eq!(plan.mounts.len(), usize::from(how == AgentConfig::ReadOnly));
            assert_eq!(plan.notes.is_empty(), how == AgentConfig::Own);
        }
    }

    #[test]
    fn a_variable_may_have_moved_a_folder() {
        let moved = [(".config", "XDG_CONFIG_HOME"), (".config/deep", "DEEP"), (".x", "X"), (".rel", "REL")];
        let moved = moved.map(|(folder, name)| (folder.to_owned(), name.to_owned())).into();
        let person = Person::new("/home/me".into(), &moved, |name| match name {
            "XDG_CONFIG_HOME" => Some("/cfg".into()),
            "DEEP" => Some("/deep".into()),
            "REL" => Some("relative".into()),
            _ => None,
        });
        for (path, place) in [
            (".config/a/b", "/cfg/a/b"),
            (".config/deep/b", "/deep/b"),
            (".configure", "/home/me/.configure"),
            (".x/a", "/home/me/.x/a"),
            (".rel/a", "/home/me/.rel/a"),
        ] {
            assert_eq!(person.place(path), Path::new(place), "{path}");
        }
    }

    #[test]
    fn a_link_out_of_its_folder_leads_to_what_everyone_may_read() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().canonicalize().unwrap();
        let write = |path: &str, mode: u32| {
            fs::create_dir_all(home.join(path).parent().unwrap()).unwrap();
            fs::write(home.join(path), "x").unwrap();
            fs::set_permissions(home.join(path), fs::Permissions::from_mode(mode)).unwrap();
        };
        write(".ssh/id", 0o600);
        write("dotfiles/rules", 0o644);
        write(".x/own", 0o600);
        for (link, target) in
            [("key", "../.ssh/id"), ("rules", "../dotfiles/rules"), ("same", "own"), ("gone", "nowhere")]
        {
            symlink(target, home.join(".x").join(link)).unwrap();
        }
        symlink(".ssh/id", home.join(".x.json")).unwrap();
        symlink("../dotfiles", home.join(".x/folder")).unwrap();
        let person = Person { home: home.clone(), moved: BTreeMap::new() };
        let way = |path: &str| person.find(path).map(|theirs| theirs.way);
        assert_eq!((way(".x/own"), way(".x/same")), (Some(Way::Own), Some(Way::Own)));
        assert_eq!((way(".x/rules"), way(".x/key")), (Some(Way::Public), Some(Way::Withheld)));
        assert_eq!((way(".x.json"), way(".x/gone")), (Some(Way::Withheld), None));
        assert_eq!(way(".x/folder"), Some(Way::Public));
        fs::set_permissions(home.join("dotfiles"), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(way(".x/folder"), Some(Way::Withheld));
        // Without a home folder there is nothing, the current folder least of all.
        let nobody = Person::default();
        assert_eq!(nobody.find("Cargo.toml"), None);
    }

    #[test]
    fn what_is_withheld_is_said() {
        let plan = plan(&[file(".far")], &Settings::new(), AgentConfig::Copy, true, |path| {
            Some(Theirs { path: path.into(), way: Way::Withheld })
        });
        assert!(plan.files.is_empty() && plan.notes[0].ends_with(": ~/.far"), "{:?}", plan.notes);
    }

    #[test]
    fn logins_are_found_where_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let (home, inside) = (folder.path().join("home"), folder.path().join("inside"));
        fs::create_dir_all(home.join(".x")).unwrap();
        fs::create_dir_all(inside.join(".x")).unwrap();
        let person = Person { home: home.clone(), moved: BTreeMap::new() };
        let found = |how, is_new| {
            let logins = logins(&config(), how, is_new, &person, &inside);
            (logins.inside.len(), logins.left.len())
        };
        assert_eq!(found(AgentConfig::Copy, true), (0, 0));
        fs::write(home.join(".x/login"), "{}").unwrap();
        assert_eq!(found(AgentConfig::Own, true), (0, 1));
        assert_eq!(found(AgentConfig::Copy, true), (1, 0));
        assert_eq!(found(AgentConfig::Copy, false), (0, 1));
        // What the agent has put there does not lead anywhere else.
        symlink(home.join(".x/login"), inside.join(".x/login")).unwrap();
        assert_eq!(found(AgentConfig::Own, false), (0, 1));
        fs::remove_file(inside.join(".x/login")).unwrap();
        fs::write(inside.join(".x/login"), "{}").unwrap();
        assert_eq!(found(AgentConfig::Own, false), (1, 0));
    }

    #[test]
    fn only_what_lies_below_a_home_folder_is_a_path() {
        for path in [".x", ".x/y", "a b"] {
            assert_eq!(below_home(path), Ok(()), "{path}");
        }
        for path in ["", "/etc/passwd", "../x", ".x/../../y", "a\0b", ".", &"x".repeat(MAX_PATH_BYTES + 1)] {
            assert!(below_home(path).is_err(), "{path:?}");
        }
    }
}
