//! Nix: the programs, the store, the daemon and the settings.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::programs::{ask, ask_version, trial};
use crate::env::nix_command::usual_places;
use crate::programs::is_program;
use crate::requirement::facts::{Daemon, Nix};
use crate::requirement::machine::Machine;
use crate::requirement::version::Version;

/// Files that include each other are read so deep.
const MAX_INCLUDES: usize = 8;

pub(super) fn nix(machine: &Machine) -> Nix {
    let folder = |variable: &str, usual: &str| {
        machine.file(machine.variable(variable).map_or(Path::new(usual), Path::new))
    };
    let store = folder("NIX_STORE_DIR", "/nix/store");
    let state = folder("NIX_STATE_DIR", "/nix/var/nix");
    let store_exists = store.is_dir();
    Nix {
        build: ask_version(machine, program(machine, "nix-build"), Version::of_nix),
        store_exists,
        store_writable: store_exists && access(&store, Access::WRITE_OK).is_ok(),
        daemon: daemon(machine, &state),
        opened: program(machine, "nix-store").filter(|_| store_exists).map(|program| {
            // Opens the store, writes nothing, and a path that is not there is no failure.
            let path = format!("{}/00000000000000000000000000000000-agent-shim", store.display());
            trial(&ask(machine, &program, ["--check-validity", "--print-invalid", &path], None))
        }),
        flakes: has_flakes(machine),
        unfree: machine.unfree,
        store,
    }
}

/// In PATH, or where it is found without it when an environment is built.
fn program(machine: &Machine, name: &str) -> Option<PathBuf> {
    let home = machine.variable("HOME").map(Path::new);
    let usual =
        || usual_places(home).map(|folder| machine.file(folder).join(name)).find(|path| is_program(path));
    machine.program(name).or_else(usual)
}

fn daemon(machine: &Machine, state: &Path) -> Daemon {
    let socket = machine
        .variable("NIX_DAEMON_SOCKET_PATH")
        .map_or_else(|| state.join("daemon-socket/socket"), |path| machine.file(Path::new(path)));
    match listens(&socket) {
        Ok(()) => Daemon::Listens,
        // Debian and Arch leave it to a group.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Daemon::Forbidden(format!("{}: {error}", socket.display()))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Daemon::Down(format!("{}: {error}", socket.display()))
        }
        // Set up for a daemon, and none was ever started.
        Err(_) if is_set_up(machine) => Daemon::Down(format!("{} is not there", socket.display())),
        Err(_) => Daemon::None,
    }
}

/// Whether somebody accepts connections there. Nothing is said to it.
fn listens(socket: &Path) -> io::Result<()> {
    let address = SocketAddrUnix::new(socket)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&fd, &address) {
        // Its queue is full, so it is there.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_set_up(machine: &Machine) -> bool {
    let by_variable = machine.variable("NIX_REMOTE").is_some_and(|remote| remote == "daemon");
    let unit = ["etc", "usr/lib", "lib", "run/current-system/sw/lib"].iter().any(|folder| {
        machine.file(folder).join("systemd/system/nix-daemon.socket").symlink_metadata().is_ok()
    });
    by_variable || unit
}

/// Whether Nix's settings switch flakes on. Asking Nix would take a command that is itself behind such a switch.
fn has_flakes(machine: &Machine) -> bool {
    let system = machine.variable("NIX_CONF_DIR").map_or(Path::new("/etc/nix"), Path::new);
    let mut text = read(&machine.file(system).join("nix.conf"), 0);
    let home = machine.variable("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(machine.variable("HOME")?).join(".config")));
    if let Some(home) = home {
        text.push_str(&read(&machine.file(home).join("nix/nix.conf"), 0));
    }
    if let Some(given) = machine.variable("NIX_CONFIG") {
        text.push('\n');
        text.push_str(&given.to_string_lossy());
    }
    flakes_in(&text)
}

/// What is set later counts; `extra-` adds to it.
fn flakes_in(settings: &str) -> bool {
    let mut on = false;
    for line in settings.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let Some((name, value)) = line.split_once('=') else { continue };
        let has = value.split_whitespace().any(|feature| feature == "flakes");
        match name.trim() {
            "experimental-features" => on = has,
            "extra-experimental-features" => on |= has,
            _ => {}
        }
    }
    on
}

/// A settings file with those that it includes.
fn read(path: &Path, depth: usize) -> String {
    let Ok(text) = fs::read_to_string(path) else { return String::new() };
    let mut whole = String::new();
    for line in text.lines() {
        let included = line.trim().strip_prefix("include ").or_else(|| line.trim().strip_prefix("!include "));
        match included {
            Some(file) if depth < MAX_INCLUDES => {
                let folder = path.parent().unwrap_or(Path::new("/"));
                whole.push_str(&read(&folder.join(file.trim()), depth + 1));
            }
            _ => whole.push_str(line),
        }
        whole.push('\n');
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_nix() {
        assert!(!flakes_in(""));
        assert!(!flakes_in("# experimental-features = flakes\nexperimental-features = nix-command"));
        assert!(flakes_in("experimental-features = nix-command flakes # both"));
        assert!(flakes_in("extra-experimental-features=flakes\nextra-experimental-features = nix-command"));
        assert!(!flakes_in("extra-experimental-features = flakes\nexperimental-features = nix-command"));
    }

    #[test]
    fn settings_that_are_included_count_and_a_circle_ends() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("nix.conf", "include more.conf\n!include not-there.conf\n");
        write("more.conf", "include nix.conf\nexperimental-features = flakes\n");
        assert!(flakes_in(&read(&folder.path().join("nix.conf"), 0)));
    }

    #[test]
    fn a_socket_that_nobody_listens_on_is_not_one_that_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert_eq!(listens(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        listens(&path).unwrap();
        drop(listener);
        assert_eq!(listens(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
