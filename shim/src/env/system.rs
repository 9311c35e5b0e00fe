//! Parts of /etc that are the same whatever the tools are.

use std::path::Path;

use crate::isolation::plan::{HOME, Mount, Network, USER, USER_ID};

/// Small files of the host that are of use with a network only.
const WITH_NETWORK: [&str; 3] = ["etc/resolv.conf", "etc/services", "etc/protocols"];

/// Those that this host has.
pub(super) fn network_files(root: &Path, network: &Network) -> impl Iterator<Item = &'static str> {
    // `is_file` follows links, such as resolv.conf's to the stub of systemd-resolved.
    let there: Vec<&str> = match network {
        Network::None => Vec::new(),
        Network::Host | Network::Nat | Network::Bridge(_) => {
            WITH_NETWORK.iter().copied().filter(|path| root.join(path).is_file()).collect()
        }
    };
    there.into_iter()
}

/// Who is who inside, and where names are looked up.
pub(super) fn identity(network: &Network) -> [Mount; 4] {
    [
        Mount::text("/etc/passwd", passwd()),
        Mount::text("/etc/group", group()),
        Mount::text("/etc/nsswitch.conf", nsswitch(network)),
        Mount::symlink("/proc/self/mounts", "/etc/mtab"),
    ]
}

/// nobody owns what belongs to no id inside, such as /usr.
fn passwd() -> String {
    format!(
        "root:x:0:0:root:/nonexistent:/usr/sbin/nologin\n\
         {USER}:x:{USER_ID}:{USER_ID}:sandbox user:{HOME}:/bin/sh\n\
         nobody:x:65534:65534:outside the sandbox:/nonexistent:/usr/sbin/nologin\n"
    )
}

fn group() -> String {
    format!("root:x:0:\n{USER}:x:{USER_ID}:\nnogroup:x:65534:\n")
}

fn nsswitch(network: &Network) -> String {
    let hosts = if *network == Network::None { "files" } else { "files dns" };
    format!("passwd: files\ngroup: files\nshadow: files\nhosts: {hosts}\nservices: files\nprotocols: files\n")
}

/// The host's time zone by name, from where /etc/localtime points to; UTC where it says nothing.
pub(super) fn zone(root: &Path) -> Option<String> {
    let target = std::fs::read_link(root.join("etc/localtime")).ok()?;
    let (_, zone) = target.to_str()?.rsplit_once("zoneinfo/")?;
    let is_part = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+'))
    };
    zone.split('/').all(is_part).then(|| zone.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_zone_is_a_name_or_nothing() {
        for (target, expected) in [
            ("/usr/share/zoneinfo/Europe/Berlin", Some("Europe/Berlin")),
            ("../usr/share/zoneinfo/Etc/GMT+5", Some("Etc/GMT+5")),
            ("/etc/zoneinfo/America/Port-au-Prince", Some("America/Port-au-Prince")),
            ("/usr/share/zoneinfo/../../etc/shadow", None),
            ("/usr/share/zoneinfo/", None),
            ("/somewhere/else", None),
        ] {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir(root.path().join("etc")).unwrap();
            symlink(target, root.path().join("etc/localtime")).unwrap();
            assert_eq!(zone(root.path()).as_deref(), expected, "{target}");
        }
        assert_eq!(zone(tempfile::tempdir().unwrap().path()), None);
    }
}
