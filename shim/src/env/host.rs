//! `--env host`: the host's own /usr, read-only, with an /etc made for the sandbox.
//!
//! What of /etc comes from the host is on a list, because most of it is not anybody's business inside:
//! certificates, what the dynamic linker and Debian's alternatives need, the time zone, and configuration
//! that programs under /usr do not start without. Left out on purpose: profile and bash.bashrc, which
//! may hold a site's proxies and their passwords; machine-id, which identifies the host; mime.types,
//! fonts and the like, which programs do without. /opt, /srv, /var, /run and /home are not there at all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Environment, system};
use crate::isolation::plan::{Access, HOME, Mount, Network, Origin, USER};

/// Folders that are links into /usr on a merged host, and folders of their own on others.
const BESIDE_USR: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Bound from the host where they exist.
const BOUND: [&str; 8] = [
    "etc/alternatives",
    "etc/ld.so.cache",
    "etc/ssl/certs",
    // Fedora and its relatives: where /etc/ssl/certs points to, and what OpenSSL there includes.
    "etc/pki/tls/certs",
    "etc/pki/ca-trust/extracted",
    "etc/crypto-policies",
    // Arch, then openSUSE.
    "etc/ca-certificates/extracted",
    "var/lib/ca-certificates",
];
/// Small files, copied because a copy costs less than a mount.
const COPIED: [&str; 2] = ["etc/ssl/openssl.cnf", "etc/pki/tls/openssl.cnf"];
/// Links that are made again as they are; `etc/static` and `current-system` lead into a Nix store.
const LINKS: [&str; 5] =
    ["etc/localtime", "etc/os-release", "etc/ssl/certs", "etc/static", "run/current-system"];

/// What was found on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct HostFacts {
    /// Where the host's root is; another folder in tests.
    root: PathBuf,
    links: Vec<(String, String)>,
    folders: Vec<String>,
    bound: Vec<String>,
    copied: Vec<String>,
    /// The tools are in /nix/store, and /usr has next to nothing in it.
    nix: bool,
    bash: bool,
}

/// Describes the tools of the host below `root`, which is `/` outside of tests.
pub fn environment(root: &Path, network: &Network) -> io::Result<Environment> {
    HostFacts::read(root, network).map(|facts| facts.environment(network))
}

impl HostFacts {
    fn read(root: &Path, network: &Network) -> io::Result<HostFacts> {
        let mut facts = HostFacts { root: root.to_owned(), ..HostFacts::default() };
        let usr = root.join("usr");
        fs::metadata(&usr)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", usr.display())))?;
        // Listing a full /usr/bin to see that it is not NixOS's empty one would cost more than the rest of this.
        facts.nix = root.join("nix/store").is_dir() && root.join("run/current-system").is_symlink();
        facts.bash = root.join("bin/bash").exists();
        let links =
            LINKS.iter().filter(|link| facts.nix || !["etc/static", "run/current-system"].contains(link));
        for path in BESIDE_USR.iter().chain(links) {
            if let Ok(target) = fs::read_link(root.join(path)) {
                facts.links.push(((*path).to_owned(), target.to_string_lossy().into_owned()));
            } else if BESIDE_USR.contains(path) && root.join(path).is_dir() {
                facts.folders.push((*path).to_owned());
            }
        }
        let is_link = |path: &str| facts.links.iter().any(|(link, _)| link == path);
        let bound = BOUND.iter().map(|path| (*path).to_owned()).chain(java(root)?);
        facts.bound = bound.filter(|path| !is_link(path) && root.join(path).exists()).collect();
        // A time zone that is a file, or terminal types the administrator added.
        if !is_link("etc/localtime") && root.join("etc/localtime").is_file() {
            facts.bound.push("etc/localtime".to_owned());
        }
        if has_folders(&root.join("etc/terminfo")) {
            facts.bound.push("etc/terminfo".to_owned());
        }
        let copied = COPIED.iter().copied().filter(|path| root.join(path).is_file());
        facts.copied = copied.chain(system::network_files(root, network)).map(str::to_owned).collect();
        Ok(facts)
    }

    fn environment(&self, network: &Network) -> Environment {
        let from_host = |path: &str| Mount::Bind {
            source: self.root.join(path),
            at: format!("/{path}"),
            access: Access::ReadOnly,
            origin: Origin::System,
        };
        let mut mounts = vec![from_host("usr")];
        if self.nix {
            mounts.push(from_host("nix/store"));
        }
        mounts.extend(self.folders.iter().map(|path| from_host(path)));
        mounts.extend(self.links.iter().map(|(path, target)| Mount::symlink(target, format!("/{path}"))));
        mounts.extend(self.bound.iter().map(|path| from_host(path)));
        mounts.extend(self.copied.iter().map(|path| Mount::copy(self.root.join(path), format!("/{path}"))));
        mounts.extend(system::identity(network));

        let mut path = "/usr/local/bin:/usr/bin:/bin".to_owned();
        if self.nix {
            path.insert_str(0, "/run/current-system/sw/bin:");
        }
        let variables = [
            ("PATH", path.as_str()),
            ("HOME", HOME),
            ("USER", USER),
            ("LOGNAME", USER),
            ("SHELL", if self.bash { "/bin/bash" } else { "/bin/sh" }),
            ("LANG", "C.UTF-8"),
            ("TMPDIR", "/tmp"),
        ];
        Environment { mounts, variables: variables.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec() }
    }
}

/// Debian keeps a Java runtime's own configuration in /etc, and no runtime starts without it:
/// that of /usr/lib/jvm/java-17-openjdk-amd64 is in /etc/java-17-openjdk.
fn java(root: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let Ok(runtimes) = fs::read_dir(root.join("usr/lib/jvm")) else { return Ok(found) };
    for runtime in runtimes {
        let name = runtime?.file_name().to_string_lossy().into_owned();
        if let Some((version, _)) = name.strip_prefix("java-").and_then(|rest| rest.split_once("-openjdk")) {
            found.push(format!("etc/java-{version}-openjdk"));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn has_folders(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(|entry| entry.path().is_dir()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::isolation::plan::Content;

    /// Makes a host: names that end in `/` are folders, `a -> b` is a link, the rest are files.
    fn host(entries: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for entry in entries {
            let (path, target) =
                entry.split_once(" -> ").map_or((*entry, None), |(path, to)| (path, Some(to)));
            let full = root.path().join(path);
            fs::create_dir_all(full.parent().unwrap()).unwrap();
            match target {
                Some(target) => symlink(target, full).unwrap(),
                None if path.ends_with('/') => fs::create_dir_all(full).unwrap(),
                None => fs::write(full, "content").unwrap(),
            }
        }
        root
    }

    /// One short line for each mount.
    fn shown(root: &Path, network: &Network) -> Vec<String> {
        let environment = environment(root, network).unwrap();
        let line = |mount: &Mount| match mount {
            Mount::Bind { at, access: Access::ReadOnly, origin: Origin::System, .. } => format!("bind {at}"),
            Mount::Symlink { target, at } => format!("link {at} {target}"),
            Mount::File { at, content: Content::Of(_), .. } => format!("copy {at}"),
            Mount::File { at, .. } => format!("file {at}"),
            other => panic!("unexpected {other:?}"),
        };
        environment.mounts.iter().map(line).collect()
    }

    const GENERATED: [&str; 4] = [
        "file /etc/passwd",
        "file /etc/group",
        "file /etc/nsswitch.conf",
        "link /etc/mtab /proc/self/mounts",
    ];

    #[test]
    fn a_merged_debian_shows_no_more_of_etc_than_the_list() {
        let root = host(&[
            "bin -> usr/bin",
            "lib -> usr/lib",
            "usr/bin/sh",
            "usr/lib/jvm/java-17-openjdk-amd64/",
            "usr/lib/jvm/java-1.17.0-openjdk-amd64/",
            "etc/java-17-openjdk/",
            "etc/alternatives/",
            "etc/ld.so.cache",
            "etc/ssl/certs/",
            "etc/ssl/private/",
            "etc/localtime -> /usr/share/zoneinfo/Etc/UTC",
            "etc/terminfo/README",
            "etc/shadow",
            "etc/passwd",
            "etc/profile",
            "etc/machine-id",
            "etc/resolv.conf",
            "etc/services",
            "home/someone/",
            "opt/tool/",
            "nix/store/",
        ]);
        let mut expected = vec![
            "bind /usr",
            "link /bin usr/bin",
            "link /lib usr/lib",
            "link /etc/localtime /usr/share/zoneinfo/Etc/UTC",
            "bind /etc/alternatives",
            "bind /etc/ld.so.cache",
            "bind /etc/ssl/certs",
            "bind /etc/java-17-openjdk",
        ];
        let without_network = [expected.clone(), GENERATED.to_vec()].concat();
        assert_eq!(shown(root.path(), &Network::None), without_network);
        expected.extend(["copy /etc/resolv.conf", "copy /etc/services"]);
        expected.extend(GENERATED);
        assert_eq!(shown(root.path(), &Network::Host), expected);
    }

    #[test]
    fn folders_beside_an_unmerged_usr_are_bound() {
        let root = host(&["bin/sh", "lib/x", "usr/bin/env", "etc/localtime", "etc/terminfo/x/xterm"]);
        let mut expected =
            vec!["bind /usr", "bind /bin", "bind /lib", "bind /etc/localtime", "bind /etc/terminfo"];
        expected.extend(GENERATED);
        assert_eq!(shown(root.path(), &Network::None), expected);
    }

    #[test]
    fn certificates_behind_a_link_come_with_their_target() {
        let root = host(&["usr/bin/sh", "etc/ssl/certs -> ../pki/tls/certs", "etc/pki/tls/certs/"]);
        let mut expected =
            vec!["bind /usr", "link /etc/ssl/certs ../pki/tls/certs", "bind /etc/pki/tls/certs"];
        expected.extend(GENERATED);
        assert_eq!(shown(root.path(), &Network::None), expected);
    }

    #[test]
    fn a_nixos_host_brings_its_store() {
        let root = host(&[
            "usr/bin/env",
            "bin/sh",
            "nix/store/",
            "run/current-system -> /nix/store/abc-system",
            "etc/static -> /nix/store/def-etc",
        ]);
        let mut expected = vec![
            "bind /usr",
            "bind /nix/store",
            "bind /bin",
            "link /etc/static /nix/store/def-etc",
            "link /run/current-system /nix/store/abc-system",
        ];
        expected.extend(GENERATED);
        assert_eq!(shown(root.path(), &Network::None), expected);
        let variables = environment(root.path(), &Network::None).unwrap().variables;
        assert!(variables[0].1.starts_with("/run/current-system/sw/bin:"), "{variables:?}");
    }

    #[test]
    fn a_host_without_usr_is_an_error_that_names_it() {
        let root = host(&["etc/"]);
        let error = environment(root.path(), &Network::None).unwrap_err().to_string();
        assert!(error.contains("/usr: No such file"), "{error}");
    }
}
