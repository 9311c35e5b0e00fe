//! `--env nix`: an environment that was built, as a sandbox sees it. There is no /usr of the host.

use std::path::Path;

use super::{Built, Environment, expression::BASE, system};
use crate::{
    isolation::{
        Closure, IsolationError,
        plan::{HOME, Mount, Network, StoreView, USER},
    },
    sandbox::record::Store,
};

/// Where the environment is inside.
pub const ENV: &str = "/env";

/// Names that programs look for, wherever they come from, and what stands behind them in the environment's base.
const LINKS: [(&str, &str); 6] = [
    ("/bin/sh", "sh"),
    // Agents run it by this name.
    ("/bin/bash", "bash"),
    ("/usr/bin/env", "env"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-bundle.crt"),
    ("/etc/ssl/certs/ca-bundle.crt", "ca-bundle.crt"),
    // Programs that bring their own C library look here.
    ("/usr/share/zoneinfo", "zoneinfo"),
];

/// Where the C library looks for the locales of packages that bring some.
const ARCHIVE: &str = "lib/locale/locale-archive";

/// Describes the tools of a built environment. `root` is the host's `/` outside of tests.
pub fn environment(
    built: &Built,
    root: &Path,
    network: &Network,
    store: Store,
) -> Result<Environment, IsolationError> {
    let base = |name: &str| format!("{ENV}/{BASE}/{name}");
    let zone = system::zone(root);
    let mut mounts = vec![store_mount(built, store)?];
    mounts.push(Mount::symlink(built.store_path.to_string_lossy(), ENV));
    mounts.extend(LINKS.iter().map(|(at, name)| Mount::symlink(base(name), *at)));
    if let Some(zone) = &zone {
        mounts.push(Mount::symlink(base(&format!("zoneinfo/{zone}")), "/etc/localtime"));
    }
    mounts.extend(
        system::network_files(root, network).map(|path| Mount::copy(root.join(path), format!("/{path}"))),
    );
    mounts.extend(system::identity(network));

    let mut variables: Vec<(String, String)> = [
        ("PATH", "/env/bin:/usr/bin:/bin"),
        ("HOME", HOME),
        ("USER", USER),
        ("LOGNAME", USER),
        ("SHELL", "/bin/bash"),
        ("LANG", "C.UTF-8"),
        ("TMPDIR", "/tmp"),
        ("SSL_CERT_FILE", &base("ca-bundle.crt")),
        ("NIX_SSL_CERT_FILE", &base("ca-bundle.crt")),
        ("TZDIR", &base("zoneinfo")),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    // The C library of nixpkgs knows C.UTF-8 by itself; whoever wants more locales adds `glibcLocales`.
    if built.store_path.join(ARCHIVE).exists() {
        variables.push(("LOCALE_ARCHIVE".to_owned(), format!("{ENV}/{ARCHIVE}")));
    }
    if let Some(zone) = zone {
        variables.push(("TZ".to_owned(), zone));
    }
    Ok(Environment { mounts, variables })
}

/// The store at its own path, where everything in it expects it.
fn store_mount(built: &Built, store: Store) -> Result<Mount, IsolationError> {
    let view = match store {
        Store::Whole => StoreView::Whole,
        Store::Closure => StoreView::Closure(Closure::new(&built.store_dir, built.closure.iter().cloned())?),
    };
    let at = built.store_dir.to_string_lossy().into_owned();
    Ok(Mount::Store { source: built.store_dir.clone(), at, view })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::spec::EnvSpec;
    use std::{fs, os::unix::fs::symlink};

    fn built(store: &Path) -> Built {
        let id = EnvSpec { packages: vec!["jq".to_owned()], ..EnvSpec::default() }.id().unwrap();
        let path = store.join("abc-environment");
        Built::at(id, path.clone(), vec![path, store.join("def-jq")])
    }

    fn host() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/resolv.conf"), "nameserver ::1").unwrap();
        symlink("/usr/share/zoneinfo/Europe/Berlin", root.path().join("etc/localtime")).unwrap();
        root
    }

    fn places(environment: &Environment) -> Vec<&str> {
        environment.mounts.iter().map(Mount::at).collect()
    }

    #[test]
    fn a_sandbox_sees_the_store_and_names_into_it() {
        let host = host();
        let environment =
            environment(&built(Path::new("/nix/store")), host.path(), &Network::None, Store::Whole).unwrap();
        let expected = [
            "/nix/store",
            "/env",
            "/bin/sh",
            "/bin/bash",
            "/usr/bin/env",
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/ssl/certs/ca-bundle.crt",
            "/usr/share/zoneinfo",
            "/etc/localtime",
            "/etc/passwd",
            "/etc/group",
            "/etc/nsswitch.conf",
            "/etc/mtab",
        ];
        assert_eq!(places(&environment), expected);
        assert_eq!(environment.mounts[1], Mount::symlink("/nix/store/abc-environment", "/env"));
        assert_eq!(environment.mounts[2], Mount::symlink("/env/.agent-shim/sh", "/bin/sh"));
        let value =
            |name: &str| environment.variables.iter().find(|(key, _)| key == name).unwrap().1.as_str();
        assert_eq!(value("PATH"), "/env/bin:/usr/bin:/bin");
        assert_eq!(value("SSL_CERT_FILE"), "/env/.agent-shim/ca-bundle.crt");
        assert_eq!(value("TZ"), "Europe/Berlin");
        assert!(!environment.variables.iter().any(|(key, _)| key == "LOCALE_ARCHIVE"));
    }

    #[test]
    fn names_are_resolved_only_where_there_is_a_network() {
        let host = host();
        let built = built(Path::new("/nix/store"));
        let with = environment(&built, host.path(), &Network::Host, Store::Whole).unwrap();
        assert!(places(&with).contains(&"/etc/resolv.conf"));
    }

    #[test]
    fn only_the_closure_on_demand_and_locales_where_there_are_some() {
        let (host, store) = (host(), tempfile::tempdir().unwrap());
        let built = built(store.path());
        fs::create_dir_all(built.store_path.join("lib/locale")).unwrap();
        fs::write(built.store_path.join("lib/locale/locale-archive"), "").unwrap();
        let environment = environment(&built, host.path(), &Network::None, Store::Closure).unwrap();
        let view = StoreView::Closure(Closure::new(store.path(), built.closure.clone()).unwrap());
        let at = store.path().to_string_lossy().into_owned();
        assert_eq!(environment.mounts[0], Mount::Store { source: store.path().to_owned(), at, view });
        assert!(
            environment
                .variables
                .contains(&("LOCALE_ARCHIVE".to_owned(), "/env/lib/locale/locale-archive".to_owned()))
        );
    }
}
