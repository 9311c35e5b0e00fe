//! What a sandbox's file system looks like, the same on every layer.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::error::IsolationError;
use super::plan::{Access, Caller, Content, GIT, HOME, INIT, Mount, OBJECTS, SECRETS, StoreView, WORKSPACE};
use super::{Request, UserMount};

/// Shared memory is the only file system in memory that can be written to inside.
const SHARED_MEMORY_BYTES: u64 = 1 << 30;
/// Paths that are ours: a mount there would replace what the sandbox is made of.
const RESERVED: [&str; 6] = ["/proc", "/dev", "/sys", "/etc", "/run/agent", "/run/secrets"];
/// Folders that are ours, below which more can be mounted.
const OCCUPIED: [&str; 10] =
    ["/", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/run", WORKSPACE, HOME, "/tmp"];

/// Lists the mounts for `request`, in order. Looks at the host, to find what must stay hidden.
pub fn mounts(request: &Request) -> Result<Vec<Mount>, IsolationError> {
    // A store comes last: it can lie below what is mounted later, as in a home below /tmp, and for each step after a tree of
    // many mounts bwrap would look at all of them, sealing / included.
    let is_store = |mount: &Mount| matches!(mount, Mount::Store { .. });
    let (stores, mut mounts): (Vec<Mount>, Vec<Mount>) =
        request.environment.mounts.iter().cloned().partition(is_store);
    let dir = |at: &str, mode| Mount::Dir { at: at.to_owned(), mode };
    let at = |at: &str| at.to_owned();
    mounts.extend([
        Mount::text("/etc/hostname", format!("{}\n", request.name)),
        Mount::text("/etc/hosts", hosts(&request.name)),
        Mount::Proc { at: at("/proc") },
    ]);
    // Settings of the sandbox's own namespaces belong to its user. Where namespaces may be nested it stays open: the
    // kernel allows a new /proc only to those who see a whole one.
    if !request.nested_namespaces {
        mounts.push(Mount::system("/proc/sys"));
    }
    mounts.extend([
        Mount::Dev { at: at("/dev") },
        Mount::Tmpfs { at: at("/dev/shm"), size_bytes: SHARED_MEMORY_BYTES, mode: 0o1777 },
        Mount::Seal { at: at("/dev") },
        // Some programs stop when it is missing; what it would show is the host.
        dir("/sys", 0o755),
        Mount::given(&request.init, INIT, Access::ReadOnly),
        Mount::given(&request.git, GIT, Access::ReadOnly),
    ]);
    mounts.extend(objects(request)?);
    if !request.secrets.is_empty() {
        mounts.push(dir(SECRETS, 0o700));
    }
    for secret in &request.secrets {
        check_secret_name(&secret.name)?;
        mounts.push(Mount::File {
            at: format!("{SECRETS}/{}", secret.name),
            mode: 0o400,
            content: Content::Given(secret.source.clone()),
        });
    }
    mounts.extend([
        Mount::given(request.folder.join("tmp"), "/tmp", Access::ReadWrite),
        Mount::symlink("/tmp", "/var/tmp"),
        Mount::given(request.folder.join("home"), HOME, Access::ReadWrite),
        Mount::given(&request.workspace, WORKSPACE, Access::ReadWrite),
    ]);
    let workspace =
        UserMount { source: request.workspace.clone(), at: at(WORKSPACE), access: Access::ReadWrite };
    mounts.extend(masks(&workspace, request)?);
    let made = mounts.len();
    for mount in &request.mounts {
        check_place(mount)?;
        let at = Path::new(&mount.at);
        if let Some(why) = link_above(at, &mounts[..made]).or_else(|| hides(at, &mounts[..made])) {
            return Err(refuse(&mount.source, &mount.at, &why));
        }
        if let Some(store) = stores.iter().find(|store| Path::new(&mount.at).starts_with(store.at())) {
            return Err(refuse(&mount.source, &mount.at, &format!("the store is at {}", store.at())));
        }
        mounts.push(Mount::given(&mount.source, &mount.at, mount.access));
        mounts.extend(masks(mount, request)?);
    }
    for store in &stores {
        if let (Mount::Store { source, at, .. }, Some(why)) =
            (store, link_above(Path::new(store.at()), &mounts))
        {
            return Err(refuse(source, at, &why));
        }
        if !lies_in_mount(store.at(), &mounts) {
            mounts.push(dir(store.at(), 0o755));
        }
    }
    mounts.push(Mount::Seal { at: at("/") });
    mounts.extend(stores);
    Ok(with_parents(mounts))
}

/// Objects that the workspace's repository reads and nobody inside can write. That some of them lie elsewhere on the host is
/// told inside by the repository itself: what the folder says about it would lead nowhere.
fn objects(request: &Request) -> Result<Vec<Mount>, IsolationError> {
    let mut mounts = Vec::new();
    for (number, source) in request.objects.iter().enumerate() {
        let at = format!("{OBJECTS}/{number}");
        mounts.push(Mount::given(source, at.clone(), Access::ReadOnly));
        mounts.extend(masks(
            &UserMount { source: source.clone(), at: at.clone(), access: Access::ReadOnly },
            request,
        )?);
        if fs::symlink_metadata(source.join("info/alternates")).is_ok() {
            let at = format!("{at}/info");
            mounts.push(Mount::Tmpfs { at: at.clone(), size_bytes: 4096, mode: 0o555 });
            mounts.push(Mount::Seal { at });
        }
    }
    Ok(mounts)
}

/// Adds the folders that mounts lie in. bwrap would make them by itself, but 0.8 lets nobody else look into them.
fn with_parents(mounts: Vec<Mount>) -> Vec<Mount> {
    let mut complete: Vec<Mount> = Vec::with_capacity(mounts.len() + 16);
    for mount in mounts {
        let parents: Vec<&Path> = Path::new(mount.at()).ancestors().skip(1).collect();
        for parent in parents.iter().rev().filter(|parent| parent.parent().is_some()) {
            let made = complete.iter().any(|earlier| match earlier {
                Mount::Dir { at, .. } | Mount::Symlink { at, .. } => Path::new(at) == *parent,
                _ => false,
            });
            if !made && !lies_in_mount(parent, &complete) {
                complete.push(Mount::Dir { at: parent.to_string_lossy().into_owned(), mode: 0o755 });
            }
        }
        complete.push(mount);
    }
    complete
}

/// Whether what is at a path comes from elsewhere.
fn lies_in_mount(path: impl AsRef<Path>, mounts: &[Mount]) -> bool {
    mounts.iter().any(|mount| match mount {
        Mount::Bind { at, .. }
        | Mount::Store { at, .. }
        | Mount::Tmpfs { at, .. }
        | Mount::Proc { at }
        | Mount::Dev { at } => path.as_ref().starts_with(at),
        Mount::Dir { .. } | Mount::Symlink { .. } | Mount::File { .. } | Mount::Seal { .. } => false,
    })
}

/// Looks at what the caller gave: sources that are missing, and ways into the host that an agent has planted.
pub fn check_sources(request: &Request) -> Result<(), IsolationError> {
    let given = [
        (&request.workspace, WORKSPACE),
        (&request.folder.join("home"), HOME),
        (&request.folder.join("tmp"), "/tmp"),
    ];
    for (source, at) in given {
        let missing = |why: &str| refuse(source, at, why);
        match fs::symlink_metadata(source) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(missing("it is not a folder")),
            Err(error) => return Err(missing(&error.to_string())),
        }
    }
    check_unmoved(&request.workspace, WORKSPACE)?;
    for (number, source) in request.objects.iter().enumerate() {
        check_unmoved(source, &format!("{OBJECTS}/{number}"))?;
    }
    for (index, mount) in request.mounts.iter().enumerate() {
        check_unmoved(&mount.source, &mount.at)?;
        let earlier = request.mounts[..index].iter().map(|earlier| (&earlier.source, earlier.at.as_str()));
        // An earlier session can have put a link where the mount point is to be made, and making it would follow.
        for (folder, base) in given.iter().map(|(folder, base)| (*folder, *base)).chain(earlier) {
            if let Ok(below) = Path::new(&mount.at).strip_prefix(base)
                && let Some(link) = symlink_on_the_way(folder, below)
            {
                let why = format!("{} is a symbolic link", link.display());
                return Err(refuse(&mount.source, &mount.at, &why));
            }
        }
    }
    for mount in &request.environment.mounts {
        let Mount::Store { source, at, view } = mount else { continue };
        // A plan can be shown before the first environment is built, and with it the store.
        if fs::symlink_metadata(source).is_ok() {
            check_unmoved(source, at)?;
        }
        let mounted = request.mounts.iter().map(|mount| (&mount.source, mount.at.as_str()));
        for (folder, base) in given.iter().map(|(folder, base)| (*folder, *base)).chain(mounted) {
            if let Ok(below) = Path::new(at).strip_prefix(base)
                && let Some(link) = symlink_on_the_way(folder, below)
            {
                return Err(refuse(source, at, &format!("{} is a symbolic link", link.display())));
            }
        }
        if let StoreView::Closure(closure) = view {
            for name in closure.names() {
                let path = source.join(name);
                fs::symlink_metadata(&path)
                    .map_err(|source| IsolationError::StorePathGone { path, source })?;
            }
        }
    }
    for secret in &request.secrets {
        let refuse = |why: String| IsolationError::Secret { name: secret.name.clone(), why };
        let file = || format!("{}: ", secret.source.display());
        // The agent may have put a link there since, to a file that the person never meant.
        if let Err(error) = check_unmoved(&secret.source, SECRETS) {
            return Err(refuse(error.to_string()));
        }
        match fs::metadata(&secret.source) {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Err(refuse(file() + "not a file")),
            Err(error) => return Err(refuse(file() + &error.to_string())),
        }
    }
    Ok(())
}

/// A path was resolved when it was given. One that leads elsewhere now may have been moved by an agent that can
/// write to a folder above it, and would hand the next sandbox whatever its new link points to.
fn check_unmoved(source: &Path, at: &str) -> Result<(), IsolationError> {
    match source.canonicalize() {
        Ok(real) if real == source => Ok(()),
        Ok(real) => Err(refuse(source, at, &format!("a symbolic link in it leads to {}", real.display()))),
        Err(error) => Err(refuse(source, at, &error.to_string())),
    }
}

/// Covers what must stay hidden where `mount` would show it, and refuses a mount that is nothing but that.
fn masks(mount: &UserMount, request: &Request) -> Result<Vec<Mount>, IsolationError> {
    let mut masks = Vec::new();
    // Sources have no links in their paths, and the data folder can have: a home is often reached through one.
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let work = real(&request.folder.join("work"));
    for hidden in request.hidden.iter().map(|hidden| real(hidden)) {
        if mount.source.starts_with(&hidden) && !mount.source.starts_with(&work) {
            return Err(refuse(&mount.source, &mount.at, "it is part of the state of agent-shim"));
        }
        if let Ok(below) = hidden.strip_prefix(&mount.source)
            && !below.as_os_str().is_empty()
            && hidden.is_dir()
        {
            if mount.access == Access::ReadWrite {
                masks.extend(held_in_place(mount, below, request)?);
            }
            let at = Path::new(&mount.at).join(below).to_string_lossy().into_owned();
            masks.push(Mount::Tmpfs { at: at.clone(), size_bytes: 4096, mode: 0o555 });
            masks.push(Mount::Seal { at });
        }
    }
    Ok(masks)
}

/// The folders on the way to what is hidden, each mounted over itself: what is no mount could be moved away, cover and
/// all, and another state be put in its place on the host.
fn held_in_place(mount: &UserMount, below: &Path, request: &Request) -> Result<Vec<Mount>, IsolationError> {
    let mut held = Vec::new();
    let ways: Vec<&Path> = below.ancestors().skip(1).filter(|way| *way != Path::new("")).collect();
    for way in ways.into_iter().rev() {
        let (source, at) = (mount.source.join(way), Path::new(&mount.at).join(way));
        // Each mount shows its owner as the sandbox's own user, who would get at more here than through the mount above.
        if let Caller::Root { .. } = request.caller
            && owner(&source) != owner(&mount.source)
        {
            let why = format!(
                "the state of agent-shim is below it, in {}, a folder of another user",
                source.display()
            );
            return Err(refuse(&mount.source, &mount.at, &why));
        }
        held.push(Mount::given(source, at.to_string_lossy().into_owned(), mount.access));
    }
    Ok(held)
}

fn owner(path: &Path) -> Option<(u32, u32)> {
    fs::symlink_metadata(path).ok().map(|found| (found.uid(), found.gid()))
}

fn check_place(mount: &UserMount) -> Result<(), IsolationError> {
    let at = Path::new(&mount.at);
    let normal = at.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let why = if !at.is_absolute() || !normal || mount.at.contains('\0') {
        "the path inside must be absolute, without `..`".to_owned()
    } else if RESERVED.iter().any(|reserved| at.starts_with(reserved)) {
        "that path belongs to the sandbox".to_owned()
    } else if OCCUPIED.iter().any(|occupied| at == Path::new(occupied)) {
        "something else is there; choose a path below it or beside it".to_owned()
    } else {
        return Ok(());
    };
    Err(refuse(&mount.source, &mount.at, &why))
}

/// A link of ours on the way to a path. What makes the mount point would follow it, and not inside.
fn link_above(at: &Path, mounts: &[Mount]) -> Option<String> {
    mounts.iter().find_map(|mount| match mount {
        Mount::Symlink { at: link, target, .. } if at.starts_with(link) && target.starts_with('/') => {
            Some(format!("{link} is a link there, to {target}"))
        }
        _ => None,
    })
}

/// What a mount at this path would replace.
fn hides(at: &Path, mounts: &[Mount]) -> Option<String> {
    let hidden = mounts.iter().find(|mount| Path::new(mount.at()).starts_with(at))?;
    Some(format!("it would hide {}; choose a path below it or beside it", hidden.at()))
}

fn check_secret_name(name: &str) -> Result<(), IsolationError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !name.is_empty() && name.len() <= 128 && name.chars().all(fits) && !name.starts_with('.') {
        return Ok(());
    }
    let why = "a name has 1 to 128 letters, digits, `_`, `-` or `.`, and begins with no `.`".to_owned();
    Err(IsolationError::Secret { name: name.to_owned(), why })
}

fn symlink_on_the_way(folder: &Path, below: &Path) -> Option<PathBuf> {
    let mut path = folder.to_owned();
    below.components().find_map(|part| {
        path.push(part);
        fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()).then(|| path.clone())
    })
}

fn refuse(source: &Path, at: &str, why: &str) -> IsolationError {
    IsolationError::Mount { source_path: source.to_owned(), at: at.to_owned(), why: why.to_owned() }
}

/// The host's own table can name machines of an organisation, so it is not copied.
fn hosts(name: &str) -> String {
    format!("127.0.0.1 localhost {name}\n::1 localhost {name}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_made_once_and_not_inside_a_mount() {
        let mounts = vec![
            Mount::system("/usr"),
            Mount::text("/etc/ssl/openssl.cnf", ""),
            Mount::system("/etc/ssl/certs"),
            Mount::system("/usr/share/x"),
            Mount::Seal { at: "/".to_owned() },
        ];
        let places: Vec<String> = with_parents(mounts).iter().map(|mount| mount.at().to_owned()).collect();
        let expected =
            ["/usr", "/etc", "/etc/ssl", "/etc/ssl/openssl.cnf", "/etc/ssl/certs", "/usr/share/x", "/"];
        assert_eq!(places, expected);
    }

    #[test]
    fn a_secrets_name_is_one_plain_file_name() {
        for name in ["", "..", ".hidden", "a/b", "a b", "a\nb", "\u{e4}", &"x".repeat(129)] {
            assert!(check_secret_name(name).is_err(), "{name:?}");
        }
        for name in ["KEY", "api-key.txt", "a_b"] {
            assert!(check_secret_name(name).is_ok(), "{name:?}");
        }
    }
}
