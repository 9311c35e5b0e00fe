//! Whether a program is there inside, found from outside, before anything starts.
//!
//! A path inside is followed through the mounts of the plan: links are read as the sandbox will see them, and files that an
//! agent may have written are looked at and not opened.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::{self, File},
    io::Read,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Component, Path, PathBuf},
};

use super::Definition;
use crate::isolation::plan::{Access, Mount, WORKSPACE};

/// Links on the way to one file; the kernel follows as many.
const MAX_LINKS: usize = 40;
/// What is read of a script, bytes; the kernel reads as much to find its interpreter.
const MAX_SCRIPT_BYTES: u64 = 256;

/// Whether a program can be started inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is there, at this path inside.
    Found(PathBuf),
    /// It is not.
    Missing,
    /// It is a script, and what runs it is not there.
    NoInterpreter {
        /// Where the script is, inside.
        script: PathBuf,
        /// What it needs.
        interpreter: String,
    },
}

/// What is said of a program that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Absent {
    /// What is missing.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// Looks for `program` as a shell inside would: through `path`, or at the path it is.
pub fn look(mounts: &[Mount], path: &str, program: &str) -> Presence {
    let inside = Inside { mounts };
    let Some((at, file)) = inside.program(path, program) else { return Presence::Missing };
    match interpreter(&file) {
        Some(needed) if inside.program(path, &needed).is_none() => {
            Presence::NoInterpreter { script: at, interpreter: needed }
        }
        _ => Presence::Found(at),
    }
}

/// Where the person has the program, though the sandbox has not.
pub fn on_host(program: &str, path: &OsString) -> Option<PathBuf> {
    if program.contains('/') {
        return None;
    }
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find(|file| is_executable(file))
}

/// Says what is missing, and how it gets there. `nix` tells whether the environment is made of packages.
pub fn absent(
    agent: &str,
    definition: &Definition,
    program: &str,
    presence: &Presence,
    nix: bool,
    on_host: Option<&Path>,
) -> Option<Absent> {
    let what = match presence {
        Presence::Found(_) => return None,
        Presence::Missing => {
            format!("the agent `{agent}` is not in the environment: there is no `{program}`")
        }
        Presence::NoInterpreter { script, interpreter } => {
            format!(
                "the agent `{agent}` cannot run: {} needs `{interpreter}`, which is not in the environment",
                script.display()
            )
        }
    };
    let hint = match (presence, nix, &definition.preset, &definition.package, &definition.install) {
        (Presence::NoInterpreter { interpreter, .. }, true, ..) => {
            format!("add the package that has `{interpreter}`: `--nix-packages NAME`")
        }
        (Presence::NoInterpreter { interpreter, .. }, false, ..) => {
            format!("install `{interpreter}` below /usr, or use packages: `--env nix`")
        }
        (_, true, Some(preset), ..) => format!("choose its preset: `--nix-preset {preset}`"),
        (_, true, None, Some(package), _) => format!("add its package: `--nix-packages {package}`"),
        (_, true, None, None, _) => "add the package that has it: `--nix-packages NAME`".to_owned(),
        (_, false, _, package, install) => {
            let install = install.as_ref().map_or_else(
                || format!("install `{program}` below /usr"),
                |install| format!("install it below /usr, such as with `{install}` as root"),
            );
            let package = package.as_ref().map(|_| ", or use packages: `--env nix`").unwrap_or_default();
            let seen = on_host.map(|file| format!("; {} is outside of what is seen inside", file.display()));
            install + package + &seen.unwrap_or_default()
        }
    };
    Some(Absent { what, hint })
}

/// The file system that a list of mounts makes.
#[derive(Clone, Copy)]
struct Inside<'a> {
    mounts: &'a [Mount],
}

/// What is at a path inside.
enum Place {
    /// A file or folder of the host.
    Host { file: PathBuf, access: Access },
    /// Something that is made for the sandbox, with no host path of its own.
    Made,
}

/// A file inside that can be executed.
struct Executable {
    file: PathBuf,
    /// Whether nobody inside could have written it.
    is_ours: bool,
}

impl Inside<'_> {
    fn program(self, path: &str, program: &str) -> Option<(PathBuf, Executable)> {
        let candidates: Vec<PathBuf> = if program.contains('/') {
            vec![Path::new(WORKSPACE).join(program)]
        } else {
            path.split(':')
                .filter(|folder| folder.starts_with('/'))
                .map(|folder| Path::new(folder).join(program))
                .collect()
        };
        candidates.into_iter().find_map(|at| {
            let Place::Host { file, access } = self.resolve(&at)? else { return None };
            is_executable(&file).then(|| (at, Executable { file, is_ours: access == Access::ReadOnly }))
        })
    }

    /// Follows a path, link by link.
    fn resolve(self, path: &Path) -> Option<Place> {
        let mut left: VecDeque<OsString> = parts(path);
        let mut done = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = left.pop_front() {
            if part == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&part);
            let target = match self.place(&next)? {
                Found::Link(target) => Some(target),
                Found::Place(Place::Host { file, .. }) => {
                    let found = fs::symlink_metadata(&file).ok()?;
                    found.is_symlink().then(|| fs::read_link(&file)).transpose().ok()?
                }
                Found::Place(Place::Made) => None,
            };
            match target {
                Some(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return None;
                    }
                    if target.is_absolute() {
                        done = PathBuf::from("/");
                    }
                    let mut parts = parts(&target);
                    parts.append(&mut left);
                    left = parts;
                }
                None => done = next,
            }
        }
        match self.place(&done)? {
            Found::Place(place) => Some(place),
            Found::Link(_) => None,
        }
    }

    /// What the last mount at or above a path without links makes of it.
    fn place(self, path: &Path) -> Option<Found> {
        let made = Some(Found::Place(Place::Made));
        for mount in self.mounts.iter().rev() {
            match mount {
                Mount::Symlink { target, at } if path == Path::new(at) => {
                    return Some(Found::Link(target.into()));
                }
                Mount::Bind { source, at, access, .. } => {
                    if let Ok(below) = path.strip_prefix(at) {
                        // A file that is bound has nothing below it, and no empty name to be joined.
                        let file =
                            if below.as_os_str().is_empty() { source.clone() } else { source.join(below) };
                        return Some(Found::Place(Place::Host { file, access: *access }));
                    }
                }
                // Packages beside the closure are files of the host too; whether they can be run is the layer's to say.
                Mount::Store { source, at, .. } => {
                    if let Ok(below) = path.strip_prefix(at) {
                        let file = source.join(below);
                        return Some(Found::Place(Place::Host { file, access: Access::ReadOnly }));
                    }
                }
                Mount::File { at, .. } | Mount::Dir { at, .. } if path == Path::new(at) => return made,
                Mount::Tmpfs { at, .. } | Mount::Proc { at } | Mount::Dev { at } if path.starts_with(at) => {
                    return if path == Path::new(at) { made } else { None };
                }
                Mount::Seal { .. }
                | Mount::Symlink { .. }
                | Mount::File { .. }
                | Mount::Dir { .. }
                | Mount::Tmpfs { .. }
                | Mount::Proc { .. }
                | Mount::Dev { .. } => {}
            }
        }
        // A folder that mounts below it make.
        if self.mounts.iter().any(|mount| Path::new(mount.at()).starts_with(path)) { made } else { None }
    }
}

enum Found {
    Link(PathBuf),
    Place(Place),
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part).collect()
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// What a script is run by: the program behind `#!`, or behind `env` in it.
fn interpreter(program: &Executable) -> Option<String> {
    if !program.is_ours {
        return None;
    }
    let mut beginning = Vec::new();
    File::open(&program.file).ok()?.take(MAX_SCRIPT_BYTES).read_to_end(&mut beginning).ok()?;
    let line = beginning.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_whitespace();
    let first = words.next()?;
    if Path::new(first).file_name().is_some_and(|name| name.as_bytes() == b"env") {
        // `env -S prog args`, `env VAR=x prog`.
        return words.find(|word| !word.starts_with('-') && !word.contains('=')).map(str::to_owned);
    }
    Some(first.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::isolation::plan::Origin;

    struct Host {
        root: tempfile::TempDir,
    }

    impl Host {
        /// Names that end in `*` are executable, `a -> b` is a link, `a: text` is an executable with that text.
        fn new(entries: &[&str]) -> Self {
            let root = tempfile::tempdir().unwrap();
            for entry in entries {
                let (path, target) =
                    entry.split_once(" -> ").map_or((*entry, None), |(path, to)| (path, Some(to)));
                let (path, text) = path.split_once(": ").unwrap_or((path, ""));
                let full = root.path().join(path.trim_end_matches('*'));
                fs::create_dir_all(full.parent().unwrap()).unwrap();
                if let Some(target) = target {
                    symlink(target, full).unwrap();
                    continue;
                }
                fs::write(&full, text).unwrap();
                let mode = if path.ends_with('*') || !text.is_empty() { 0o755 } else { 0o644 };
                fs::set_permissions(&full, fs::Permissions::from_mode(mode)).unwrap();
            }
            Self { root }
        }

        fn bind(&self, source: &str, at: &str, access: Access) -> Mount {
            Mount::Bind {
                source: self.root.path().join(source),
                at: at.into(),
                access,
                origin: Origin::System,
            }
        }

        fn look(&self, program: &str) -> Presence {
            let mounts = [
                self.bind("usr", "/usr", Access::ReadOnly),
                Mount::symlink("usr/bin", "/bin"),
                self.bind("etc/alternatives", "/etc/alternatives", Access::ReadOnly),
                Mount::text("/etc/passwd", ""),
                Mount::Dir { at: "/opt".into(), mode: 0o755 },
                self.bind("tool", "/opt/tool", Access::ReadOnly),
                self.bind("project", WORKSPACE, Access::ReadWrite),
                Mount::Tmpfs { at: "/usr/hidden".into(), size_bytes: 1, mode: 0o555 },
                Mount::Seal { at: "/".into() },
            ];
            look(&mounts, "relative:/usr/local/bin:/usr/bin:/bin", program)
        }
    }

    fn host() -> Host {
        Host::new(&[
            "usr/bin/plain*",
            "usr/bin/data",
            "usr/bin/alternative -> /etc/alternatives/alternative",
            "etc/alternatives/alternative -> /bin/plain",
            "usr/bin/relative -> ../lib/deep/real",
            "usr/lib/deep/real*",
            "usr/bin/outside -> /home/me/tool",
            "home/me/tool*",
            "usr/bin/round -> round",
            "usr/bin/masked -> ../hidden/tool",
            "usr/hidden/tool*",
            "usr/local/bin/script: #!/usr/bin/env -S plain --flag\n",
            "usr/local/bin/lost: #!/usr/bin/env node\nx",
            "usr/local/bin/shell: #! /bin/plain -e\n",
            "tool*",
            "project/agent: #!/nowhere\n",
            "project/file",
        ])
    }

    #[test]
    fn a_program_is_found_as_it_will_be_seen_inside() {
        let host = host();
        let found =
            |program: &str, at: &str| assert_eq!(host.look(program), Presence::Found(at.into()), "{program}");
        found("plain", "/usr/bin/plain");
        found("alternative", "/usr/bin/alternative");
        found("relative", "/usr/bin/relative");
        found("script", "/usr/local/bin/script");
        found("shell", "/usr/local/bin/shell");
        found("/bin/plain", "/bin/plain");
        found("/opt/tool", "/opt/tool");
        // What is in the workspace is looked at and not opened.
        found("./agent", "/workspace/./agent");
        found("agent/../agent", "/workspace/agent/../agent");
    }

    #[test]
    fn what_only_the_host_has_is_missing() {
        let host = host();
        for program in [
            "absent",
            "data",
            "outside",
            "round",
            "masked",
            "/opt",
            "/etc/passwd",
            "/usr",
            "tool",
            "./file",
            "",
        ] {
            assert_eq!(host.look(program), Presence::Missing, "{program}");
        }
    }

    #[test]
    fn a_script_needs_what_runs_it() {
        let expected =
            Presence::NoInterpreter { script: "/usr/local/bin/lost".into(), interpreter: "node".to_owned() };
        assert_eq!(host().look("lost"), expected);
    }

    #[test]
    fn what_is_missing_comes_with_the_way_to_get_it() {
        let definition: Definition =
            toml::from_str("package = 'x-code'\ninstall = 'npm install -g x'\ncommand = ['x']").unwrap();
        let say = |nix, elsewhere: Option<&str>| {
            absent("x", &definition, "x", &Presence::Missing, nix, elsewhere.map(Path::new)).unwrap()
        };
        assert_eq!(say(true, None).what, "the agent `x` is not in the environment: there is no `x`");
        assert_eq!(say(true, None).hint, "add its package: `--nix-packages x-code`");
        assert_eq!(
            say(false, Some("/home/me/.local/bin/x")).hint,
            "install it below /usr, such as with `npm install -g x` as root, or use packages: `--env nix`; \
             /home/me/.local/bin/x is outside of what is seen inside"
        );
        let lost = Presence::NoInterpreter { script: "/usr/bin/x".into(), interpreter: "node".to_owned() };
        let lost = absent("x", &definition, "x", &lost, false, None).unwrap();
        assert!(lost.what.ends_with("/usr/bin/x needs `node`, which is not in the environment"), "{lost}");
        assert!(absent("x", &definition, "x", &Presence::Found("/x".into()), false, None).is_none());
    }

    #[test]
    fn the_hosts_own_place_of_a_program_is_known() {
        let host = host();
        let path = std::env::join_paths([host.root.path().join("usr/bin"), "relative".into()]).unwrap();
        assert_eq!(on_host("plain", &path), Some(host.root.path().join("usr/bin/plain")));
        assert_eq!(on_host("data", &path), None);
        assert_eq!(on_host("/bin/sh", &path), None);
    }
}
