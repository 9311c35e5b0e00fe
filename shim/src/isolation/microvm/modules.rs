//! The modules of one kernel: which there are, which are part of the kernel itself, and which have to be there first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use object::{Object, ObjectSection};

use super::decompress;

/// Largest list of a kernel's that is read. A distribution's `modules.dep` has less than one of these.
const MAX_LIST_BYTES: u64 = 16 * 1024 * 1024;

/// Most files that are looked at where there is no list, and how deep they can lie. Distributions have some 6,000.
const MAX_FILES: usize = 50_000;
const MAX_DEPTH: usize = 12;

/// A module that goes into the initial file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleFile {
    /// Its name, as the kernel has it: with `_`, never with `-`.
    pub name: String,
    /// The file on the host, packed or not.
    pub file: PathBuf,
}

impl ModuleFile {
    /// Where it is in the initial file system, unpacked. What init is told to load.
    pub fn path_inside(&self) -> String {
        format!("/modules/{}.ko", self.name)
    }
}

/// What a folder such as `/lib/modules/6.1.0-28-amd64` holds. A value: it does not look at the folder again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Catalog {
    modules: BTreeMap<String, Entry>,
    built_in: BTreeSet<String>,
}

/// One module.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// The file, below the folder.
    path: PathBuf,
    /// What it uses. Unknown where `depmod` has not been run: the file itself says it then.
    uses: Option<Vec<String>>,
}

impl Catalog {
    /// Reads the lists in a folder. A package that was unpacked and not installed has none of modules: `depmod`, which
    /// makes it, is run by the installation. There the files themselves are looked for.
    pub(super) fn read(folder: &Path) -> io::Result<Catalog> {
        let mut catalog = match read_list(&folder.join("modules.dep"))? {
            Some(list) if !list.trim().is_empty() => Catalog::of_dependencies(&list),
            _ => Catalog::of_files(find_modules(folder)?),
        };
        if let Some(list) = read_list(&folder.join("modules.builtin"))? {
            catalog.add_built_in(&list);
        }
        if let Some(list) = read_list(&folder.join("modules.builtin.modinfo"))? {
            catalog.add_built_in_information(&list);
        }
        Ok(catalog)
    }

    /// From the text of `modules.dep`: `path: path path ...`.
    fn of_dependencies(list: &str) -> Catalog {
        let entry = |line: &str| {
            let (path, uses) = line.split_once(':')?;
            let uses = uses.split_whitespace().filter_map(name_of).collect();
            Some((name_of(path)?, Entry { path: PathBuf::from(path), uses: Some(uses) }))
        };
        Catalog { modules: list.lines().filter_map(entry).collect(), built_in: BTreeSet::new() }
    }

    fn of_files(files: Vec<PathBuf>) -> Catalog {
        let entry = |path: PathBuf| Some((name_of(path.to_str()?)?, Entry { path, uses: None }));
        Catalog { modules: files.into_iter().filter_map(entry).collect(), built_in: BTreeSet::new() }
    }

    /// From the text of `modules.builtin`: the paths they would have as files.
    fn add_built_in(&mut self, list: &str) {
        self.built_in.extend(list.lines().filter_map(name_of));
    }

    /// From `modules.builtin.modinfo`: `name.field=value`, each with a zero byte after it. It also has what can only be
    /// built in.
    fn add_built_in_information(&mut self, list: &str) {
        let name = |entry: &str| Some(normalised(entry.split_once('=')?.0.split_once('.')?.0));
        self.built_in.extend(list.split('\0').filter_map(name));
    }

    /// Whether the kernel itself has it.
    pub(super) fn is_built_in(&self, name: &str) -> bool {
        self.built_in.contains(name)
    }

    /// Whether there is a file of it.
    pub(super) fn has_file(&self, name: &str) -> bool {
        self.modules.contains_key(name)
    }

    /// The wanted ones and all they use, each after what it uses. What is built in is left out.
    ///
    /// `uses` reads what a file says of itself.
    pub(super) fn in_order<E>(
        &self,
        wanted: &[&str],
        uses: &mut impl FnMut(&Path) -> Result<Vec<String>, E>,
    ) -> Result<Vec<(String, PathBuf)>, Broken<E>> {
        let mut order = Order { catalog: self, seen: BTreeSet::new(), done: Vec::new() };
        for name in wanted {
            order.add(name, name, uses)?;
        }
        Ok(order.done)
    }
}

/// Why there is no order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Broken<E> {
    /// A module uses another that is not there.
    Missing {
        /// The one that is not there.
        name: String,
        /// The one that was wanted.
        wanted: String,
    },
    /// A file cannot be read.
    File(PathBuf, E),
}

struct Order<'a> {
    catalog: &'a Catalog,
    seen: BTreeSet<String>,
    done: Vec<(String, PathBuf)>,
}

impl Order<'_> {
    fn add<E>(
        &mut self,
        name: &str,
        wanted: &str,
        uses: &mut impl FnMut(&Path) -> Result<Vec<String>, E>,
    ) -> Result<(), Broken<E>> {
        // Seen before what it uses is done: lists that were made to go round in a circle end here as well.
        if !self.seen.insert(name.to_owned()) || self.catalog.is_built_in(name) {
            return Ok(());
        }
        let missing = || Broken::Missing { name: name.to_owned(), wanted: wanted.to_owned() };
        let entry = self.catalog.modules.get(name).ok_or_else(missing)?;
        let first = match &entry.uses {
            Some(known) => known.clone(),
            None => uses(&entry.path).map_err(|error| Broken::File(entry.path.clone(), error))?,
        };
        for used in first {
            self.add(&used, wanted, uses)?;
        }
        self.done.push((name.to_owned(), entry.path.clone()));
        Ok(())
    }
}

/// What a module's file says that it uses.
pub(super) fn uses_of_file(path: &Path) -> io::Result<Vec<String>> {
    uses_of(&decompress::read(path)?).ok_or_else(|| io::Error::other("it is not a kernel module"))
}

fn uses_of(module: &[u8]) -> Option<Vec<String>> {
    let file = object::File::parse(module).ok()?;
    let information = file.section_by_name(".modinfo")?.data().ok()?;
    let mut fields = information.split(|&byte| byte == 0).filter_map(|field| str::from_utf8(field).ok());
    let names = fields.find_map(|field| field.strip_prefix("depends=")).unwrap_or_default();
    Some(names.split(',').filter(|name| !name.is_empty()).map(normalised).collect())
}

/// The module's name of a path, or nothing where it is none.
fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?.trim_end();
    decompress::split(file).map(|(name, _)| normalised(name))
}

/// The kernel takes `-` for `_` in names; files have either.
fn normalised(name: &str) -> String {
    name.replace('-', "_")
}

/// A list's text, or nothing where there is none. What is not text in it can name no module of ours.
pub(super) fn read_list(path: &Path) -> io::Result<Option<String>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_LIST_BYTES).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Paths of the modules below a folder, relative to it. Links are not followed: `build` and `source` lead to headers.
fn find_modules(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut looked) = (Vec::new(), 0);
    let mut folders = vec![(PathBuf::new(), 0)];
    while let Some((below, depth)) = folders.pop() {
        for entry in fs::read_dir(folder.join(&below))? {
            let entry = entry?;
            looked += 1;
            if looked > MAX_FILES {
                return Err(io::Error::other(format!("it has more than {MAX_FILES} files")));
            }
            let path = below.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() && depth < MAX_DEPTH {
                folders.push((path, depth + 1));
            } else if kind.is_file() && path.to_str().is_some_and(|path| name_of(path).is_some()) {
                found.push(path);
            }
        }
    }
    // Two files of one name: the same one is taken each time.
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "\
kernel/virtio/virtio.ko.xz:
kernel/virtio/virtio_ring.ko.xz: kernel/virtio/virtio.ko.xz
kernel/char/virtio-rng.ko.xz: kernel/virtio/virtio_ring.ko.xz kernel/virtio/virtio.ko.xz
kernel/fs/fuse.ko.xz:
kernel/fs/virtiofs.ko.xz: kernel/fs/fuse.ko.xz kernel/virtio/virtio_ring.ko.xz kernel/virtio/virtio.ko.xz
kernel/net/hole.ko: kernel/net/gone.ko
kernel/net/a.ko: kernel/net/b.ko
kernel/net/b.ko: kernel/net/a.ko
";

    fn order(catalog: &Catalog, wanted: &[&str]) -> Result<Vec<String>, Broken<()>> {
        let order = catalog.in_order(wanted, &mut |_| Err(()))?;
        Ok(order.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn what_is_used_comes_first_and_once() {
        let catalog = Catalog::of_dependencies(DEPENDENCIES);
        assert_eq!(
            order(&catalog, &["virtio_rng", "virtiofs", "virtio"]).unwrap(),
            ["virtio", "virtio_ring", "virtio_rng", "fuse", "virtiofs"]
        );
    }

    #[test]
    fn what_is_built_in_is_left_out() {
        let mut catalog = Catalog::of_dependencies(DEPENDENCIES);
        catalog.add_built_in("kernel/drivers/virtio/virtio.ko\n");
        catalog.add_built_in_information("virtio_ring.license=GPL\0fuse.file=fs/fuse/fuse\0");
        assert_eq!(order(&catalog, &["virtiofs"]).unwrap(), ["virtiofs"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let catalog = Catalog::of_dependencies(DEPENDENCIES);
        let missing = |name: &str, wanted: &str| {
            Err(Broken::Missing { name: name.to_owned(), wanted: wanted.to_owned() })
        };
        assert_eq!(order(&catalog, &["vsock"]), missing("vsock", "vsock"));
        assert_eq!(order(&catalog, &["hole"]), missing("gone", "hole"));
    }

    #[test]
    fn a_circle_ends() {
        let catalog = Catalog::of_dependencies(DEPENDENCIES);
        assert_eq!(order(&catalog, &["a"]).unwrap(), ["b", "a"]);
    }

    #[test]
    fn without_a_list_the_files_say_what_they_use() {
        let files = ["kernel/x/virtio_net.ko", "kernel/y/net-failover.ko.zst"];
        let catalog = Catalog::of_files(files.iter().map(PathBuf::from).collect());
        let mut says = |path: &Path| match path.to_str() {
            Some("kernel/x/virtio_net.ko") => Ok(vec!["net_failover".to_owned()]),
            Some(_) => Ok(vec![]),
            None => Err(()),
        };
        let order = catalog.in_order(&["virtio_net"], &mut says).unwrap();
        let paths = order.iter().map(|(_, path)| path.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(paths, ["kernel/y/net-failover.ko.zst", "kernel/x/virtio_net.ko"]);
    }

    #[test]
    fn what_is_no_module_uses_nothing_and_is_refused() {
        for other in [&b""[..], b"\x7fELF", &[0; 100]] {
            assert_eq!(uses_of(other), None);
        }
    }
}
