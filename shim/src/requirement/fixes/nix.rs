//! Nix, its store and its daemon.

use super::{NIXOS, REBUILD};
use crate::requirement::{Distribution, Family, Fix};

/// Nix's own installer, for one user: it needs neither systemd nor a policy for SELinux.
const NIX_INSTALLER: &str =
    "sh <(curl --proto '=https' --tlsv1.2 -L https://nixos.org/nix/install) --no-daemon";

pub(super) fn install_nix(on: &Distribution) -> Fix {
    let fix = Fix::said("install Nix");
    let log_in = "you may have to log in again before the group counts; `--env host` needs no Nix";
    match on.family {
        Family::Debian | Family::Ubuntu => fix
            .run(on.sudo, "{sudo}apt-get update && {sudo}apt-get install nix-bin nix-setup-systemd")
            .run(on.sudo, "{sudo}usermod -aG nix-users \"$USER\"")
            .note(log_in),
        Family::Arch => fix
            .run(on.sudo, "{sudo}pacman -S nix")
            .run(on.sudo, "{sudo}systemctl enable --now nix-daemon.socket")
            .run(on.sudo, "{sudo}usermod -aG nix-users \"$USER\"")
            .note(log_in),
        // Its relatives have no package.
        Family::Fedora if on.version.is_some() && !on.is_before(44, 0) => fix
            .run(on.sudo, "{sudo}dnf install nix nix-daemon")
            .run(on.sudo, "{sudo}systemctl enable --now nix-daemon.socket")
            .note("`--env host` needs no Nix"),
        Family::Nixos => fix.write("nix.enable = true;", NIXOS).run(on.sudo, REBUILD),
        Family::Fedora | Family::Gentoo | Family::Other => {
            fix.run(on.sudo, NIX_INSTALLER).note("for bash; `--env host` needs no Nix")
        }
    }
}

pub(super) fn upgrade_nix(on: &Distribution) -> Fix {
    let fix = Fix::said("upgrade Nix");
    match on.family {
        Family::Nixos => fix.run(on.sudo, "{sudo}nixos-rebuild switch --upgrade"),
        Family::Arch => fix.run(on.sudo, "{sudo}pacman -Syu nix"),
        Family::Debian if on.is_before(12, 0) => {
            fix.run(on.sudo, "{sudo}apt-get remove nix-bin").run(on.sudo, NIX_INSTALLER)
        }
        Family::Debian | Family::Ubuntu => {
            fix.run(on.sudo, "{sudo}apt-get update && {sudo}apt-get install nix-bin")
        }
        Family::Fedora if on.version.is_some() && !on.is_before(44, 0) => {
            fix.run(on.sudo, "{sudo}dnf upgrade nix")
        }
        Family::Fedora | Family::Gentoo | Family::Other => {
            fix.run(on.sudo, "nix-channel --update && nix-env --install --attr nixpkgs.nix")
        }
    }
}

pub(super) fn nix_store(on: &Distribution) -> Fix {
    let fix = Fix::said("make the Nix store");
    match on.family {
        Family::Debian | Family::Ubuntu => fix
            .run(on.sudo, "{sudo}apt-get install nix-setup-systemd")
            .run(on.sudo, "{sudo}systemd-tmpfiles --create"),
        Family::Fedora | Family::Arch | Family::Nixos => fix.run(on.sudo, "{sudo}systemd-tmpfiles --create"),
        Family::Gentoo | Family::Other => {
            fix.run(on.sudo, "{sudo}mkdir -p /nix/store /nix/var/nix && {sudo}chown -R \"$(id -un)\" /nix")
        }
    }
    .note("a store elsewhere is named by NIX_STORE_DIR and NIX_STATE_DIR")
}

pub(super) fn nix_access(on: &Distribution) -> Fix {
    let fix = Fix::said("have the Nix daemon write to it");
    match on.family {
        Family::Debian | Family::Ubuntu => fix
            .run(on.sudo, "{sudo}apt-get install nix-setup-systemd")
            .run(on.sudo, "{sudo}systemctl enable --now nix-daemon.socket")
            .run(on.sudo, "{sudo}usermod -aG nix-users \"$USER\"")
            .note("you may have to log in again before the group counts"),
        Family::Arch => fix
            .run(on.sudo, "{sudo}systemctl enable --now nix-daemon.socket")
            .run(on.sudo, "{sudo}usermod -aG nix-users \"$USER\"")
            .note("you may have to log in again before the group counts"),
        Family::Fedora => fix
            .run(on.sudo, "{sudo}dnf install nix-daemon")
            .run(on.sudo, "{sudo}systemctl enable --now nix-daemon.socket"),
        Family::Nixos => fix.run(on.sudo, "{sudo}systemctl restart nix-daemon.socket"),
        Family::Gentoo | Family::Other => Fix::said("make the store your own, for you are its only user")
            .run(on.sudo, "{sudo}chown -R \"$(id -un)\" /nix"),
    }
}

pub(super) fn nix_daemon(on: &Distribution) -> Fix {
    let fix = Fix::said("start the Nix daemon");
    match on.family {
        Family::Nixos => fix.run(on.sudo, "{sudo}systemctl restart nix-daemon.socket"),
        _ => fix.run(on.sudo, "{sudo}systemctl enable --now nix-daemon.socket"),
    }
    .note(
        "without systemd, run `nix-daemon` as root in the background; what the daemon says is in `journalctl -u nix-daemon`",
    )
}

pub(super) fn nix_flakes(on: &Distribution) -> Fix {
    let fix = Fix::said("switch flakes on");
    match on.family {
        Family::Nixos => fix
            .write("nix.settings.experimental-features = [ \"nix-command\" \"flakes\" ];", NIXOS)
            .run(on.sudo, REBUILD),
        _ => fix.run(
            on.sudo,
            "mkdir -p ~/.config/nix && echo 'extra-experimental-features = nix-command flakes' >> \
             ~/.config/nix/nix.conf",
        ),
    }
}
