//! Attempts on sockets: the control socket, agents of the person, services of the host.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixStream};
use std::time::Duration;

use nix::libc;

use crate::outcome::{Outcome, any, closed, open, print};

/// Connects to every name that /proc/net/unix shows, which with the host's network are all of the host's.
pub(crate) fn all_unix_names() {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let mut names: Vec<&str> =
        table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(7)).collect();
    names.sort_unstable();
    names.dedup();
    print(
        "unix-names",
        &any(names.into_iter().map(|name| {
            let address = match name.strip_prefix('@') {
                Some(name) => UnixAddr::from_abstract_name(name),
                None => UnixAddr::from_pathname(name),
            };
            let outcome = address.map_or_else(|error| closed(error.to_string()), |address| connect(&address));
            // Its own notification socket is for it.
            (name.to_owned(), if name.ends_with("/.agent-notify") { closed("its own") } else { outcome })
        })),
    );
}

pub(crate) fn connect_paths(paths: &[&str]) {
    let detours = ["", "/proc/1/root", "/proc/1/cwd", "/proc/self/root"];
    let ways = paths.iter().flat_map(|path| detours.map(|detour| format!("{detour}{path}")));
    print(
        "connect",
        &any(ways.map(|path| {
            let outcome = UnixAddr::from_pathname(&path)
                .map_or_else(|error| closed(error.to_string()), |at| connect(&at));
            (path, outcome)
        })),
    );
}

/// Streams and datagrams; a datagram names its target again with every message.
pub(crate) fn connect_abstract(name: &str) {
    let address = UnixAddr::from_abstract_name(name).expect("a name");
    let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to_addr(b"from inside", &address));
    let sent = sent.map_or_else(|error| closed(error.to_string()), |_| open("a datagram was sent"));
    print("abstract", &any([("connect".to_owned(), connect(&address)), ("send".to_owned(), sent)]));
}

fn connect(address: &UnixAddr) -> Outcome {
    let stream = UnixStream::connect_addr(address).map(drop);
    let datagram = || UnixDatagram::unbound().and_then(|socket| socket.connect_addr(address));
    match stream.or_else(|_| datagram()) {
        Ok(()) => open("connected"),
        Err(error) => closed(error.to_string()),
    }
}

/// A service on the loopback device, by both protocols and all its names.
pub(crate) fn connect_loopback(port: &str) {
    const PATIENCE: Duration = Duration::from_secs(2);
    let port: u16 = port.parse().expect("a port");
    let hosts = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::ffff:127.0.0.1"];
    let hosts = hosts.iter().map(|host| host.parse().expect("an address"));
    let mut ways: Vec<(String, Outcome)> = hosts
        // A network behind a translator may have the host where its way out is.
        .chain(gateways().into_iter().map(IpAddr::V4))
        .map(|host: IpAddr| {
            let address = SocketAddr::new(host, port);
            (format!("tcp {host}"), judge(TcpStream::connect_timeout(&address, PATIENCE).map(drop)))
        })
        .collect();
    // Nobody answers where nobody listens: an error on the second one tells.
    let datagrams = UdpSocket::bind("127.0.0.1:0").and_then(|socket| {
        socket.connect(("127.0.0.1", port))?;
        socket.send(b"from inside")?;
        socket.send(b"from inside").map(drop)
    });
    ways.push(("udp".to_owned(), judge(datagrams)));
    print("loopback", &any(ways));
}

/// Where packets go that are for nobody near.
fn gateways() -> Vec<Ipv4Addr> {
    let table = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let ways = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (destination, gateway) = (words.next()?, words.next()?);
        let gateway = u32::from_str_radix(gateway, 16).ok().filter(|gateway| *gateway != 0)?;
        // As it lies in memory.
        (destination == "00000000").then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
    });
    ways.collect()
}

fn judge(result: io::Result<()>) -> Outcome {
    result.map_or_else(|error| closed(error.to_string()), |()| open("connected"))
}

/// The newest Landlock interface of this kernel, which decides what can be promised about abstract sockets.
pub(crate) fn print_landlock() {
    let none = std::ptr::null::<u8>();
    println!("{}", unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, 1) });
}
