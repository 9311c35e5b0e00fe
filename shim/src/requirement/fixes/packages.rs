//! Programs by the name of their package, and how packages are had.

use super::{NIXOS, REBUILD};
use crate::requirement::{Distribution, Family, Fix};

/// A program by the name of its package.
pub(super) struct Package {
    /// What people call it.
    name: &'static str,
    /// The program that is looked for.
    program: &'static str,
    debian: &'static str,
    fedora: &'static str,
    arch: &'static str,
    gentoo: &'static str,
    nixos: &'static str,
    /// Where it comes from, for everybody else.
    home: &'static str,
}

pub(super) const BUBBLEWRAP: Package = Package {
    name: "bubblewrap",
    program: "bwrap",
    debian: "bubblewrap",
    fedora: "bubblewrap",
    arch: "bubblewrap",
    gentoo: "sys-apps/bubblewrap",
    nixos: "bubblewrap",
    home: "https://github.com/containers/bubblewrap",
};

pub(super) const GIT: Package = Package {
    name: "git",
    program: "git",
    debian: "git",
    fedora: "git",
    arch: "git",
    gentoo: "dev-vcs/git",
    nixos: "git",
    home: "https://git-scm.com",
};

pub(super) const PASTA: Package = Package {
    name: "pasta",
    program: "pasta",
    debian: "passt",
    fedora: "passt",
    arch: "passt",
    gentoo: "net-misc/passt",
    nixos: "passt",
    home: "https://passt.top",
};

/// In the same package as pasta.
pub(super) const PASST: Package = Package { name: "passt", program: "passt", ..PASTA };

pub(super) const PODMAN: Package = Package {
    name: "podman",
    program: "podman",
    debian: "podman",
    fedora: "podman",
    arch: "podman",
    gentoo: "app-containers/podman",
    nixos: "podman",
    home: "https://podman.io",
};

pub(super) const CRUN: Package = Package {
    name: "crun",
    program: "crun",
    debian: "crun",
    fedora: "crun",
    arch: "crun",
    gentoo: "app-containers/crun",
    nixos: "crun",
    home: "https://github.com/containers/crun",
};

pub(super) const VIRTIOFSD: Package = Package {
    name: "virtiofsd",
    program: "virtiofsd",
    debian: "virtiofsd",
    fedora: "virtiofsd",
    arch: "virtiofsd",
    gentoo: "app-emulation/virtiofsd",
    nixos: "virtiofsd",
    home: "https://gitlab.com/virtio-fs/virtiofsd",
};

pub(super) const QEMU: Package = if cfg!(target_arch = "aarch64") {
    Package {
        name: "qemu",
        program: "qemu-system-aarch64",
        debian: "qemu-system-arm",
        fedora: "qemu-system-aarch64",
        arch: "qemu-system-aarch64",
        gentoo: "app-emulation/qemu",
        nixos: "qemu",
        home: "https://www.qemu.org",
    }
} else {
    Package {
        name: "qemu",
        program: "qemu-system-x86_64",
        debian: "qemu-system-x86",
        fedora: "qemu-system-x86",
        arch: "qemu-system-x86",
        gentoo: "app-emulation/qemu",
        nixos: "qemu",
        home: "https://www.qemu.org",
    }
};

impl Distribution {
    pub(super) fn install(&self, package: &Package) -> Fix {
        let Package { name, program, debian, fedora, arch, gentoo, nixos, home } = package;
        let fix = Fix::said(format!("install {name}"));
        match self.family {
            Family::Debian | Family::Ubuntu => {
                fix.run(self.sudo, &format!("{{sudo}}apt-get update && {{sudo}}apt-get install {debian}"))
            }
            Family::Fedora => fix.run(self.sudo, &format!("{{sudo}}dnf install {fedora}")),
            Family::Arch => fix.run(self.sudo, &format!("{{sudo}}pacman -S {arch}")),
            Family::Gentoo => fix.run(self.sudo, &format!("{{sudo}}emerge --ask {gentoo}")),
            Family::Nixos => fix
                .write(&format!("environment.systemPackages = [ pkgs.{nixos} ];"), NIXOS)
                .run(self.sudo, REBUILD),
            Family::Other => {
                Fix::said(format!("install {name}: the package that has `{program}` in it, or {home}"))
            }
        }
    }

    pub(super) fn upgrade(&self, package: &Package) -> Fix {
        let Package { name, debian, fedora, arch, gentoo, home, .. } = package;
        let fix = Fix::said(format!("upgrade {name}"));
        match self.family {
            Family::Debian | Family::Ubuntu => {
                fix.run(self.sudo, &format!("{{sudo}}apt-get update && {{sudo}}apt-get install {debian}"))
            }
            Family::Fedora => fix.run(self.sudo, &format!("{{sudo}}dnf upgrade {fedora}")),
            // A package by itself may not fit to older libraries.
            Family::Arch => fix.run(self.sudo, &format!("{{sudo}}pacman -Syu {arch}")),
            Family::Gentoo => fix.run(self.sudo, &format!("{{sudo}}emerge --ask --update {gentoo}")),
            Family::Nixos => fix.run(self.sudo, "{sudo}nixos-rebuild switch --upgrade"),
            Family::Other => Fix::said(format!("upgrade {name}: by the system's packages, or from {home}")),
        }
    }

    pub(super) fn reinstall(&self, package: &Package) -> Fix {
        let Package { name, debian, fedora, arch, gentoo, .. } = package;
        let fix = Fix::said(format!("install {name} again"));
        match self.family {
            Family::Debian | Family::Ubuntu => {
                fix.run(self.sudo, &format!("{{sudo}}apt-get install --reinstall {debian}"))
            }
            Family::Fedora => fix.run(self.sudo, &format!("{{sudo}}dnf reinstall {fedora}")),
            Family::Arch => fix.run(self.sudo, &format!("{{sudo}}pacman -S {arch}")),
            Family::Gentoo => fix.run(self.sudo, &format!("{{sudo}}emerge --ask --oneshot {gentoo}")),
            Family::Nixos => fix.run(self.sudo, "{sudo}nix-store --verify --check-contents --repair"),
            Family::Other => fix,
        }
    }
}
