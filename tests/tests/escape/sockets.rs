//! Attempts on sockets: the shim's own, the person's agents, services of the host.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use agent_protocol::address::Address;
use agent_tests::{Output, finish, layer};
use anyhow::{Context, ensure};

use crate::board::each_person;
use crate::world::World;

/// What the person's environment holds and no sandbox may see; the value is the path of an agent's socket.
const PERSONAL: [&str; 8] = [
    "SSH_AUTH_SOCK",
    "DBUS_SESSION_BUS_ADDRESS",
    "GPG_AGENT_INFO",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "AWS_SECRET_ACCESS_KEY",
    "LD_PRELOAD_OF_THE_PERSON",
];
/// All that the environment inside may hold.
const USUAL: [&str; 14] = [
    "HOME",
    "LANG",
    "LOGNAME",
    "NOTIFY_SOCKET",
    "OLDPWD",
    "PATH",
    "PWD",
    "SHELL",
    "SHLVL",
    "TERM",
    "TMPDIR",
    "USER",
    "_",
    "WATCHDOG_USEC",
];

#[test]
fn sockets_and_networks() {
    each_person("sockets", |board, world| {
        let agent_socket = world.at("run/agent.sock");
        let agent = UnixListener::bind(&agent_socket)?;
        fs::set_permissions(&agent_socket, fs::Permissions::from_mode(0o666))?;
        chown(&agent_socket, Some(world.home.uid()), None)?;
        let project = world.home.project("project-box")?;
        for (name, flags) in [("box", &[][..]), ("cut", &["--no-network"])] {
            let mut start = world.start_command(name, &project, flags, &["cat"]);
            start.envs(PERSONAL.map(|name| (name, &agent_socket)));
            finish(start, b"")?.success()?;
        }

        let environment = |script: &str| {
            let mut command = world.home.shim(["exec", "box", "--", "sh", "-c", script]);
            command.envs(PERSONAL.map(|name| (name, &agent_socket)));
            only_usual(&finish(command, b"")?.success()?)
        };
        board.attempt("the person's environment in a command", environment("env"));
        let pid = world.status("box")?["agent"]["pid"].to_string();
        board.attempt(
            "the person's environment in the agent",
            environment(&format!("tr '\\0' '\\n' < /proc/{pid}/environ")),
        );
        board.control("ssh-agent by its path", world.outside(&["connect", &agent_socket]));
        board.probed("ssh-agent by its path", world.inside("box", &["connect", &agent_socket]));
        let services = [
            "connect",
            "/run/dbus/system_bus_socket",
            "/var/run/docker.sock",
            "/run/systemd/private",
            "/tmp/.X11-unix/X0",
            "/run/user/0/bus",
        ];
        board.probed("D-Bus, X11 and engines by their paths", world.inside("box", &services));

        for (control, _opened) in control_sockets(world, "box")? {
            let name = control.file_name().context("a name")?.to_string_lossy().into_owned();
            let control = control.to_string_lossy();
            board.control("the control socket by its path", world.outside(&["connect", &control]));
            board.probed(
                "the control socket by its path and by detours",
                world.inside("box", &["connect", &control, &format!("/{name}"), &name]),
            );
        }

        let name = world.marker.clone();
        let address = SocketAddr::from_abstract_name(&name)?;
        let listener = UnixListener::bind_addr(&address)?;
        let datagrams_name = format!("{name}-datagrams");
        let datagrams = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&datagrams_name)?)?;
        let scoped = world.outside(&["landlock"])?.text().parse::<i64>().unwrap_or(0) >= 6;
        for name in [name, datagrams_name] {
            let attempt = ["abstract", name.as_str()];
            board.control("an abstract socket of the host", world.outside(&attempt));
            board.probed("an abstract socket of the host without its network", world.inside("cut", &attempt));
            if scoped {
                board.probed("an abstract socket of the host on its network", world.inside("box", &attempt));
            } else {
                board.skip(
                    "an abstract socket of the host on its network",
                    "this kernel's Landlock has no scopes",
                );
            }
        }
        if scoped {
            board.control("every socket that /proc/net/unix names", world.outside(&["unix-names"]));
            board.probed("every socket that /proc/net/unix names", world.inside("box", &["unix-names"]));
        }
        let output = world.inside("cut", &["unix-names"])?.success()?;
        board.attempt("names of the host's sockets without its network", {
            if output.text().contains("control.sock") { Err(anyhow::anyhow!("{output}")) } else { Ok(()) }
        });

        let service = TcpListener::bind("127.0.0.1:0")?;
        let port = service.local_addr()?.port();
        let udp = UdpSocket::bind(("127.0.0.1", port))?;
        let port = port.to_string();
        board.control("a service on the host's loopback", world.outside(&["loopback", &port]));
        if layer().shares_kernel {
            board.control(
                "a service on the host's loopback through its network",
                world.inside("box", &["loopback", &port]),
            );
        } else {
            board.probed(
                "a service on the host's loopback from a network of the machine's own",
                world.inside("box", &["loopback", &port]),
            );
        }
        board.probed(
            "a service on the host's loopback without its network",
            world.inside("cut", &["loopback", &port]),
        );
        let devices = world.sh(
            "cut",
            "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; cat /proc/net/route | tail -n +2",
        )?;
        board.attempt("network devices and routes without the host's network", {
            if devices.text() == "lo" { Ok(()) } else { Err(anyhow::anyhow!("{devices}")) }
        });
        drop((agent, listener, datagrams, udp));
        board.attempt(
            "a socket of the agent's in the place of the control socket",
            planted_sockets(world, &project),
        );
        Ok(())
    });
}

/// The sockets by which the host reaches init. A layer that has none in the sandbox's folder gets one of the test's there.
fn control_sockets(world: &World, name: &str) -> anyhow::Result<Vec<(PathBuf, Option<UnixListener>)>> {
    let folder = PathBuf::from(world.at("data/agent-shim/agents")).join(name);
    let usual = folder.join("control.sock");
    if usual.exists() {
        return Ok(vec![(usual, None)]);
    }
    let opened = UnixListener::bind(&usual)?;
    chown(&usual, Some(world.home.uid()), None)?;
    let mut all = vec![(usual, Some(opened))];
    let address = fs::read_to_string(folder.join("address"))?;
    if let Address::Hybrid { path, .. } = address.trim().parse()? {
        all.push((folder.join(path), None));
    }
    Ok(all)
}

fn only_usual(output: &Output) -> anyhow::Result<()> {
    let text = output.text();
    ensure!(!text.is_empty(), "no environment in {output}");
    for line in text.lines() {
        let (name, _) = line.split_once('=').with_context(|| format!("{output}"))?;
        ensure!(USUAL.contains(&name), "{name} is set in {output}");
    }
    Ok(())
}

/// What listens inside the project is never what the shim talks to.
fn planted_sockets(world: &World, project: &Path) -> anyhow::Result<()> {
    let planted = project.join("control.sock");
    let listener = UnixListener::bind(&planted)?;
    listener.set_nonblocking(true)?;
    chown(&planted, Some(world.home.uid()), None)?;
    let mut list = world.home.shim(["status", "--json", "box"]);
    list.current_dir(project);
    finish(list, b"")?.success()?;
    ensure!(listener.accept().is_err(), "the shim connected to it");
    Ok(())
}
