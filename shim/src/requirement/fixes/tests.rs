//! Fixes are read by people and pasted into shells.

use super::*;
use crate::requirement::Step;

const RELEASES: [(&str, Family); 8] = [
    ("ID=debian\nVERSION_ID=12\nVERSION_CODENAME=bookworm", Family::Debian),
    ("ID=debian", Family::Debian),
    ("ID=ubuntu\nVERSION_ID=\"24.04\"", Family::Ubuntu),
    ("ID=fedora\nVERSION_ID=44", Family::Fedora),
    ("ID=arch", Family::Arch),
    ("ID=gentoo\nVERSION_ID=2.17", Family::Gentoo),
    ("ID=nixos\nVERSION_ID=25.05", Family::Nixos),
    ("ID=alpine\nVERSION_ID=3.20", Family::Other),
];

fn on(text: &str) -> Distribution {
    Distribution::from_os_release(text, true)
}

fn all() -> impl Iterator<Item = (Requirement, Family, Fix)> {
    RELEASES.into_iter().flat_map(|(text, family)| {
        let distribution = on(text);
        assert_eq!(distribution.family, family);
        Requirement::ALL.iter().map(move |requirement| (*requirement, family, requirement.fix(&distribution)))
    })
}

fn commands(fix: &Fix) -> Vec<&str> {
    fix.steps
        .iter()
        .filter_map(|step| match step {
            Step::Run { command } => Some(command.as_str()),
            Step::Write { .. } => None,
        })
        .collect()
}

#[test]
fn every_fix_is_one_line_of_whole_commands() {
    for (requirement, family, fix) in all() {
        let line = fix.to_string();
        assert!(
            !line.contains(['\n', '\t', '{']) || line.contains("flags=(unconfined)"),
            "{family:?}: {line}"
        );
        assert!(!line.contains("  ") || line.contains("userns"), "{requirement} on {family:?}: {line}");
        assert!(!line.ends_with(['.', ' ']) || line.ends_with(".."), "{requirement} on {family:?}: {line}");
        assert!(fix.steps.is_empty() || !fix.summary.contains(": "), "{requirement}: {line}");
    }
}

/// A shell would take each, and nothing of a template is left.
#[test]
fn every_command_can_be_parsed() {
    for (requirement, family, fix) in all() {
        for command in commands(&fix) {
            assert!(!command.contains("{sudo}"), "{requirement} on {family:?}: {command}");
            let status =
                std::process::Command::new("bash").args(["-n", "-c", command]).status().expect("bash");
            assert!(status.success(), "{requirement} on {family:?}: {command}");
        }
    }
}

#[test]
fn each_distribution_has_its_own_commands_and_root_needs_no_sudo() {
    let of = |text: &str, requirement: Requirement| requirement.fix(&on(text)).to_string();
    let bwrap = |text: &str| of(text, Requirement::BwrapMissing);
    assert_eq!(
        bwrap("ID=debian"),
        "install bubblewrap: `sudo apt-get update && sudo apt-get install bubblewrap`"
    );
    assert_eq!(bwrap("ID=fedora"), "install bubblewrap: `sudo dnf install bubblewrap`");
    assert_eq!(bwrap("ID=arch"), "install bubblewrap: `sudo pacman -S bubblewrap`");
    assert_eq!(bwrap("ID=gentoo"), "install bubblewrap: `sudo emerge --ask sys-apps/bubblewrap`");
    assert_eq!(
        bwrap("ID=nixos"),
        "install bubblewrap: put `environment.systemPackages = [ pkgs.bubblewrap ];` into \
         /etc/nixos/configuration.nix, then `sudo nixos-rebuild switch`"
    );
    assert!(bwrap("ID=void").contains("the package that has `bwrap` in it"));
    let root = Distribution::from_os_release("ID=debian", false);
    assert_eq!(
        Requirement::BwrapMissing.fix(&root).to_string(),
        "install bubblewrap: `apt-get update && apt-get install bubblewrap`"
    );
    for (requirement, _, _) in all() {
        for (text, _) in RELEASES {
            let fix = requirement.fix(&Distribution::from_os_release(text, false));
            assert!(!commands(&fix).iter().any(|command| command.contains("sudo")), "{fix}");
        }
    }
}

#[test]
fn releases_that_lack_a_package_say_so() {
    let virtiofsd = |text: &str| Requirement::VirtiofsdMissing.fix(&on(text)).to_string();
    assert!(virtiofsd("ID=debian\nVERSION_ID=12").contains("cargo install virtiofsd"));
    assert!(virtiofsd("ID=debian\nVERSION_ID=13").contains("apt-get install virtiofsd"));
    assert!(virtiofsd("ID=ubuntu\nVERSION_ID=22.04").contains("cargo install virtiofsd"));
    assert!(virtiofsd("ID=ubuntu\nVERSION_ID=24.04").contains("apt-get install virtiofsd"));
    let nix = |text: &str| Requirement::NixBuildMissing.fix(&on(text)).to_string();
    assert!(nix("ID=fedora\nVERSION_ID=44").contains("dnf install nix"));
    assert!(nix("ID=fedora\nVERSION_ID=42").contains("https://nixos.org/nix/install"));
    assert!(nix("ID=rocky\nID_LIKE=\"rhel fedora\"\nVERSION_ID=9").contains("https://nixos.org/nix/install"));
    let kernel = |text: &str| Requirement::KernelTooOld.fix(&on(text)).to_string();
    assert!(
        kernel("ID=debian\nVERSION_ID=11\nVERSION_CODENAME=bullseye")
            .contains("-t bullseye-backports linux-image-")
    );
    assert!(kernel("ID=ubuntu\nVERSION_ID=20.04").contains("linux-generic-hwe-20.04"));
}

#[test]
fn settings_are_made_to_last() {
    let of = |text: &str| Requirement::UserNamespacesSysctl.fix(&on(text)).to_string();
    for text in ["ID=debian", "ID=arch", "ID=alpine"] {
        assert!(of(text).contains("sysctl -w kernel.unprivileged_userns_clone=1"), "{}", of(text));
        assert!(of(text).contains("/etc/sysctl.d/"), "{}", of(text));
    }
    assert!(of("ID=nixos").contains("security.unprivilegedUsernsClone = true;"));
}
