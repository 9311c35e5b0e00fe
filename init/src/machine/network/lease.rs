//! The address that the network gives: asked for before anything runs, and kept for as long as the machine lives.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt::BindToDevice},
};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, sendto, socket_with,
        sockopt,
    },
};
use tokio::io::Interest;

use super::{
    Device,
    client::{Action, Client, Lease},
    message::{CLIENT_PORT, MAX_BYTES, SERVER_PORT},
    names::Names,
    rtnetlink,
};
use crate::{machine::uptime, sys};

/// Servers look whether anybody else has an address before they offer it, which takes some seconds.
const WITHIN: Duration = Duration::from_secs(15);

/// A machine that stood still finds out so late at the latest.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);

/// After the socket has failed.
const PAUSE: Duration = Duration::from_millis(100);

/// The network may be one without DHCP.
const NO_ADDRESS: &str =
    "the network gave no address within 15 s of the start; it is asked for one again and again since then";

/// Keeps an address.
pub(crate) struct Keeper {
    socket: OwnedFd,
    device: Device,
    client: Client,
    names: Names,
    held: Option<Lease>,
    /// All of it was told to the kernel and to programs.
    in_use: bool,
    /// The latest that the clock has been.
    latest: Duration,
}

impl Keeper {
    /// Begins to ask. Needs the privileges that init gives up before anything is started.
    pub(super) fn open(device: Device, name: &str) -> Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None).context("opening a socket")?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT)).context("taking its port")?;
        setsockopt(&socket, BindToDevice, &device.name.clone().into()).context("binding it to the device")?;
        sockopt::set_socket_broadcast(&socket, true).context("asking for broadcasts")?;
        let (hardware, latest) = (hardware(&device.name)?, wall_clock());
        let client = Client::new(hardware, name, Box::new(draw), latest);
        let names = Names::open()?;
        let mut keeper = Self { socket, device, client, names, held: None, in_use: false, latest };
        keeper.tick();
        Ok(keeper)
    }

    /// Waits for the address, and shows whom to ask for names. The result is what a person should know of it: nobody may have given
    /// one, and it is asked for all the same.
    pub(in crate::machine) fn wait(&mut self) -> Vec<String> {
        let end = uptime() + WITHIN;
        while !self.in_use {
            let left = end.saturating_sub(uptime());
            if left.is_zero() {
                break;
            }
            let due = self.client.due().saturating_sub(self.now());
            // None at all would be no bound.
            let pause = due.min(left).max(Duration::from_millis(1));
            let mut bytes = [0; MAX_BYTES];
            let wait = PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX);
            // Whatever came of it, the next look tells.
            let _ = poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], wait);
            match self.receive(&mut bytes) {
                Ok((length, from)) => self.hear(&bytes[..length], from),
                Err(error) if is_nothing_yet(error) => {}
                Err(_) => std::thread::sleep(PAUSE),
            }
            self.tick();
        }
        let mut warnings = Vec::new();
        if !self.in_use {
            warnings.push(NO_ADDRESS.to_owned());
        }
        if let Err(error) = self.names.show() {
            warnings.push(format!("whom the network names for names is not in /etc/resolv.conf: {error}"));
        }
        warnings
    }

    /// Keeps it, for ever. Ends where the socket cannot be used.
    pub(crate) async fn keep(mut self) -> io::Result<()> {
        let readiness = sys::watch(self.socket.try_clone()?, Interest::READABLE)?;
        let mut bytes = [0; MAX_BYTES];
        loop {
            let due = self.client.due().saturating_sub(self.now()).min(LONGEST_SLEEP);
            tokio::select! {
                ready = readiness.readable() => match self.receive(&mut bytes) {
                    Ok((length, from)) => self.hear(&bytes[..length], from),
                    Err(error) if is_nothing_yet(error) => ready?.clear_ready(),
                    Err(_) => tokio::time::sleep(PAUSE).await,
                },
                () = tokio::time::sleep(due) => {}
            }
            self.tick();
        }
    }

    /// By a clock that goes on while the machine stands still, and never back.
    fn now(&mut self) -> Duration {
        self.latest = self.latest.max(wall_clock());
        self.latest
    }

    fn receive(&self, bytes: &mut [u8]) -> Result<(usize, SocketAddrV4), Errno> {
        let (length, _, from) = recvfrom(&self.socket, bytes, RecvFlags::empty())?;
        let from = from.and_then(|from| from.try_into().ok()).ok_or(Errno::AFNOSUPPORT)?;
        Ok((length, from))
    }

    fn hear(&mut self, bytes: &[u8], from: SocketAddrV4) {
        let own = self.held.as_ref().map(|lease| lease.address);
        if !is_from_a_server(from, own) {
            return;
        }
        let now = self.now();
        if let Some(action) = self.client.hear(bytes, now) {
            self.act(action);
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        while let Some(action) = self.client.tick(now) {
            self.act(action);
        }
    }

    /// What fails is told, and tried again with the next answer.
    fn act(&mut self, action: Action) {
        let done = match action {
            Action::Send(to, bytes) => {
                let to = SocketAddrV4::new(to, SERVER_PORT);
                let sent = sendto(&self.socket, &bytes, SendFlags::empty(), &to);
                sent.map(drop).context("asking for an address")
            }
            Action::Use(lease) => self.take(lease),
            Action::GiveUp => self.give_up(),
        };
        if let Err(error) = done {
            tracing::warn!("{error:#}");
        }
    }

    fn take(&mut self, lease: Lease) -> Result<()> {
        if self.in_use && self.held.as_ref() == Some(&lease) {
            return Ok(());
        }
        let is_another = |held: &Lease| {
            (held.address, held.prefix, held.router) != (lease.address, lease.prefix, lease.router)
        };
        if self.held.as_ref().is_some_and(is_another)
            && let Err(error) = self.give_up()
        {
            tracing::warn!("{error:#}");
        }
        self.in_use = false;
        let device = self.device.index;
        let Lease { address, prefix, router, .. } = lease;
        tracing::info!(%address, "the network gave an address");
        let lease = self.held.insert(lease);
        rtnetlink::set_address(device, address, prefix)
            .with_context(|| format!("setting the network address {address}/{prefix}"))?;
        if let Some(router) = router {
            rtnetlink::set_gateway(device, router)
                .with_context(|| format!("setting the gateway {router}"))?;
        }
        self.names.write(&lease.name_servers).context("writing whom to ask for names")?;
        self.in_use = true;
        Ok(())
    }

    /// Routes go with the address.
    fn give_up(&mut self) -> Result<()> {
        self.in_use = false;
        let Some(lease) = self.held.take() else { return Ok(()) };
        tracing::info!(address = %lease.address, "the address is no longer ours");
        rtnetlink::remove_address(self.device.index, lease.address, lease.prefix)
            .with_context(|| format!("removing the network address {}", lease.address))
    }
}

/// Programs of the machine's own are heard as well (they reach its address, and broadcasts come back), but none of them may send
/// from this port, or from an address that is not the machine's.
fn is_from_a_server(from: SocketAddrV4, own: Option<Ipv4Addr>) -> bool {
    let (address, port) = (*from.ip(), from.port());
    port == SERVER_PORT && Some(address) != own && !address.is_loopback() && !address.is_unspecified()
}

fn draw() -> u32 {
    let mut bytes = [0; 4];
    // What can fail is reading more than this, or before the kernel is seeded, for which this waits.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u32::from_ne_bytes(bytes)
}

fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn is_nothing_yet(error: Errno) -> bool {
    matches!(error, Errno::AGAIN | Errno::INTR)
}

fn hardware(device: &str) -> Result<[u8; 6]> {
    let path = format!("/sys/class/net/{device}/address");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    parse_hardware(&text).with_context(|| format!("{path} has no hardware address"))
}

fn parse_hardware(text: &str) -> Option<[u8; 6]> {
    let mut bytes = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).ok());
    let mut address = [0; 6];
    for byte in &mut address {
        *byte = bytes.next()??;
    }
    bytes.next().is_none().then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_says_to_itself_is_no_answer() {
        let own = Some(Ipv4Addr::new(10, 0, 0, 2));
        for (from, is) in [
            ("10.0.0.1:67", true),
            ("192.168.9.9:67", true),
            ("10.0.0.1:68", false),
            ("10.0.0.1:5000", false),
            ("10.0.0.2:67", false),
            ("127.0.0.1:67", false),
            ("0.0.0.0:67", false),
        ] {
            assert_eq!(is_from_a_server(from.parse().unwrap(), own), is, "{from}");
        }
        assert!(is_from_a_server("10.0.0.2:67".parse().unwrap(), None));
    }

    #[test]
    fn a_hardware_address_has_six_bytes() {
        assert_eq!(parse_hardware("52:54:00:ab:cd:ef\n"), Some([0x52, 0x54, 0, 0xab, 0xcd, 0xef]));
        for wrong in ["", "52:54", "52:54:00:ab:cd:ef:00", "52:54:00:ab:cd:xy"] {
            assert_eq!(parse_hardware(wrong), None, "{wrong}");
        }
    }
}
