//! The address that the network gives: asked for before anything runs, and kept for as long as the machine lives.

use std::{
    fs, io,
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};

use super::{
    Device,
    client::{Action, Client, Lease},
    message::{CLIENT_PORT, MAX_BYTES, SERVER_PORT},
    names::Names,
    rtnetlink,
};
use crate::machine::uptime;

/// Servers look whether anybody else has an address before they offer it, which takes some seconds.
const WITHIN: Duration = Duration::from_secs(15);

/// Of what is due later than this, a timer can know nothing.
const LONGEST_SLEEP: Duration = Duration::from_hours(24);

/// Keeps an address.
pub(crate) struct Keeper {
    socket: UdpSocket,
    device: Device,
    client: Client,
    names: Names,
    held: Option<Lease>,
}

impl Keeper {
    /// Begins to ask. Needs the privileges that init gives up before anything is started.
    pub(super) fn open(device: Device, name: &str) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CLIENT_PORT)).context("opening a socket")?;
        setsockopt(&socket, BindToDevice, &device.name.clone().into()).context("binding it to the device")?;
        socket.set_broadcast(true).context("asking for broadcasts")?;
        let mut seed = [0; 4];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
        let hardware = hardware(&device.name)?;
        let client = Client::new(hardware, name, u32::from_ne_bytes(seed), uptime());
        let mut keeper = Self { socket, device, client, names: Names::open()?, held: None };
        keeper.tick();
        Ok(keeper)
    }

    /// Waits for the address, and shows whom to ask for names. `false` where nobody has given one; it is asked for all the same.
    pub(in crate::machine) fn wait(&mut self) -> Result<bool> {
        let end = uptime() + WITHIN;
        while self.held.is_none() {
            let now = uptime();
            if now >= end {
                break;
            }
            let pause = self.client.due().min(end).saturating_sub(now).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(pause))?;
            let mut bytes = [0; MAX_BYTES];
            match self.socket.recv(&mut bytes) {
                Ok(length) => self.hear(&bytes[..length]),
                Err(error) if is_nothing_yet(&error) => {}
                Err(error) => return Err(error).context("listening for an address"),
            }
            self.tick();
        }
        self.names.show().context("showing whom to ask for names")?;
        Ok(self.held.is_some())
    }

    /// Keeps it, for ever. Ends where the socket cannot be used.
    pub(crate) async fn keep(mut self) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        let listener = tokio::net::UdpSocket::from_std(self.socket.try_clone()?)?;
        let mut bytes = [0; MAX_BYTES];
        loop {
            let pause = self.client.due().saturating_sub(uptime()).min(LONGEST_SLEEP);
            // A network that is down for a while fails to be read from, and is asked again when that is due.
            tokio::select! {
                heard = listener.recv(&mut bytes) => {
                    if let Ok(length) = heard {
                        self.hear(&bytes[..length]);
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
            self.tick();
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        if let Some(action) = self.client.hear(bytes, uptime()) {
            self.act(action);
        }
    }

    fn tick(&mut self) {
        while let Some(action) = self.client.tick(uptime()) {
            self.act(action);
        }
    }

    /// What fails is told, and tried again with the next request.
    fn act(&mut self, action: Action) {
        let done = match action {
            Action::Send(to, bytes) => {
                self.socket.send_to(&bytes, (to, SERVER_PORT)).map(drop).context("asking for an address")
            }
            Action::Use(lease) => self.take(lease),
            Action::GiveUp => self.give_up(),
        };
        if let Err(error) = done {
            tracing::warn!("{error:#}");
        }
    }

    fn take(&mut self, lease: Lease) -> Result<()> {
        if self.held.as_ref() == Some(&lease) {
            return Ok(());
        }
        self.give_up()?;
        tracing::info!(address = %lease.address, "the network gave an address");
        let held = self.held.insert(lease);
        rtnetlink::set_address(self.device.index, held.address, held.prefix)
            .with_context(|| format!("setting the network address {}/{}", held.address, held.prefix))?;
        self.names.write(&held.name_servers).context("writing whom to ask for names")?;
        if let Some(router) = held.router {
            rtnetlink::set_gateway(self.device.index, router)
                .with_context(|| format!("setting the gateway {router}"))?;
        }
        Ok(())
    }

    /// Routes go with the address.
    fn give_up(&mut self) -> Result<()> {
        let Some(lease) = self.held.take() else { return Ok(()) };
        tracing::info!(address = %lease.address, "the address is no longer ours");
        rtnetlink::remove_address(self.device.index, lease.address, lease.prefix)
            .with_context(|| format!("removing the network address {}", lease.address))
    }
}

fn is_nothing_yet(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
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
    fn a_hardware_address_has_six_bytes() {
        assert_eq!(parse_hardware("52:54:00:ab:cd:ef\n"), Some([0x52, 0x54, 0, 0xab, 0xcd, 0xef]));
        for wrong in ["", "52:54", "52:54:00:ab:cd:ef:00", "52:54:00:ab:cd:xy"] {
            assert_eq!(parse_hardware(wrong), None, "{wrong}");
        }
    }
}
