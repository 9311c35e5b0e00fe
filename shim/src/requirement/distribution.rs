//! Which distribution this is, as far as its fixes differ.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// Distributions that are set up in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Debian, and what is made from it.
    Debian,
    /// Ubuntu, and what is made from it.
    Ubuntu,
    /// Fedora, Red Hat Enterprise Linux, and what is made from them.
    Fedora,
    /// Arch, and what is made from it.
    Arch,
    /// Gentoo, and what is made from it.
    Gentoo,
    /// NixOS.
    Nixos,
    /// Any other.
    Other,
}

/// A distribution, and who is to follow its fixes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Distribution {
    /// How it is set up.
    pub family: Family,
    /// Its own id, such as `linuxmint`.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// Its version, where it is the family's own: what is made from Ubuntu counts differently.
    pub version: Option<(u32, u32)>,
    /// Its version's name, such as `bookworm`.
    pub codename: Option<String>,
    /// Whether commands for root need `sudo`.
    pub sudo: bool,
}

impl Distribution {
    /// That of this machine, for whoever runs us.
    pub fn here() -> Distribution {
        Distribution::below(Path::new("/"))
    }

    /// That of the machine whose files are below `root`.
    pub fn below(root: &Path) -> Distribution {
        // The first is missing or a broken link in some containers; the second is where it comes from.
        let text = ["etc/os-release", "usr/lib/os-release"]
            .iter()
            .find_map(|path| fs::read_to_string(root.join(path)).ok())
            .unwrap_or_default();
        Distribution::from_os_release(&text, !rustix::process::geteuid().is_root())
    }

    /// From the text of os-release(5).
    pub fn from_os_release(text: &str, sudo: bool) -> Distribution {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
            let plain = line.trim_matches(['"', '\'']).trim();
            (!plain.is_empty()).then(|| plain.to_owned())
        };
        let id = value("ID").unwrap_or_else(|| "linux".to_owned());
        let like = value("ID_LIKE").unwrap_or_default();
        let own = family(&id);
        let family = own.or_else(|| like.split_whitespace().find_map(family)).unwrap_or(Family::Other);
        // RHEL counts on its own, although it is set up like Fedora.
        let counts_alike = own.is_some() && !matches!(id.as_str(), "rhel" | "centos");
        let version = value("VERSION_ID").filter(|_| counts_alike).and_then(|version| {
            let (major, minor) = version.split_once('.').unwrap_or((&version, "0"));
            Some((major.parse().ok()?, minor.parse().unwrap_or(0)))
        });
        Distribution {
            family,
            name: value("PRETTY_NAME").unwrap_or_else(|| id.clone()),
            id,
            version,
            codename: value("VERSION_CODENAME"),
            sudo,
        }
    }

    /// Whether it is older than this version. One that does not say is taken for the newest.
    pub(super) fn is_before(&self, major: u32, minor: u32) -> bool {
        self.version.is_some_and(|version| version < (major, minor))
    }
}

fn family(id: &str) -> Option<Family> {
    Some(match id {
        "debian" => Family::Debian,
        "ubuntu" => Family::Ubuntu,
        "fedora" | "rhel" | "centos" => Family::Fedora,
        "arch" => Family::Arch,
        "gentoo" => Family::Gentoo,
        "nixos" => Family::Nixos,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (Family, Option<(u32, u32)>) {
        let found = Distribution::from_os_release(text, true);
        (found.family, found.version)
    }

    #[test]
    fn the_files_of_several_distributions() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        assert_eq!(of(debian), (Family::Debian, Some((12, 0))));
        let found = Distribution::from_os_release(debian, true);
        assert_eq!(
            (found.name.as_str(), found.codename.as_deref()),
            ("Debian GNU/Linux 12 (bookworm)", Some("bookworm"))
        );
        // Testing and unstable have no number.
        assert_eq!(of("PRETTY_NAME=\"Debian GNU/Linux forky/sid\"\nID=debian\n"), (Family::Debian, None));
        assert_eq!(of("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\n"), (Family::Ubuntu, Some((24, 4))));
        assert_eq!(of("NAME=\"Fedora Linux\"\nID=fedora\nVERSION_ID=43\n"), (Family::Fedora, Some((43, 0))));
        assert_eq!(of("NAME=\"Arch Linux\"\nID=arch\nBUILD_ID=rolling\n"), (Family::Arch, None));
        assert_eq!(of("NAME=Gentoo\nID='gentoo'\nVERSION_ID=\"2.17\"\n"), (Family::Gentoo, Some((2, 17))));
        assert_eq!(of("ID=nixos\nVERSION_ID=\"25.05\"\n"), (Family::Nixos, Some((25, 5))));
    }

    #[test]
    fn what_is_made_from_another_is_set_up_like_it_and_counts_differently() {
        assert_eq!(
            of("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\nVERSION_ID=\"22\"\n"),
            (Family::Ubuntu, None)
        );
        assert_eq!(
            of("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.4\"\n"),
            (Family::Fedora, None)
        );
        assert_eq!(of("ID=\"rhel\"\nID_LIKE=\"fedora\"\nVERSION_ID=\"9.4\"\n"), (Family::Fedora, None));
        assert_eq!(of("ID=manjaro\nID_LIKE=arch\n"), (Family::Arch, None));
        assert_eq!(of("ID=raspbian\nID_LIKE=debian\nVERSION_ID=\"11\"\n"), (Family::Debian, None));
        assert_eq!(of("ID=alpine\nVERSION_ID=3.20.1\n"), (Family::Other, None));
        assert_eq!(of(""), (Family::Other, None));
    }
}
