//! The network: the loopback device, and another one with an address that does not change or that the network gives.

mod client;
mod lease;
mod message;
mod names;
mod rtnetlink;

use std::fs;

use agent_protocol::spec::Interface;
use anyhow::{Context, Result};

pub(crate) use self::lease::Keeper;

/// The first device that the kernel makes, always.
const LOOPBACK: u32 = 1;

/// The one device of a machine.
struct Device {
    index: u32,
    name: String,
}

/// Brings up the loopback device, and the other one where there is to be a network: who keeps its address, if anybody has to.
pub(super) fn start(interface: Option<&Interface>, name: &str) -> Result<Option<Keeper>> {
    rtnetlink::bring_up(LOOPBACK).context("bringing up the loopback device")?;
    let Some(interface) = interface else { return Ok(None) };
    let device = first_device().context("the machine has no network device")?;
    let up = || rtnetlink::bring_up(device.index).context("bringing up the network device");
    let Some(address) = &interface.address else {
        up()?;
        return Keeper::open(device, name).context("asking the network for an address").map(Some);
    };
    let (address, prefix) =
        interface.parse().with_context(|| format!("`{address}` is no network address"))?;
    rtnetlink::set_address(device.index, address, prefix).context("setting the network address")?;
    up()?;
    if let Some(gateway) = interface.gateway.as_ref().and_then(|text| text.parse().ok()) {
        rtnetlink::set_gateway(device.index, gateway).context("setting the gateway")?;
    }
    Ok(None)
}

fn first_device() -> Option<Device> {
    let devices = fs::read_dir("/sys/class/net").ok()?.flatten();
    let device = |entry: fs::DirEntry| {
        // A kernel may have made tunnels of its own: behind these there is nothing.
        entry.path().join("device").exists().then_some(())?;
        let index = fs::read_to_string(entry.path().join("ifindex")).ok()?.trim().parse().ok()?;
        Some(Device { index, name: entry.file_name().into_string().ok()? })
    };
    devices.filter_map(device).filter(|device| device.index != LOOPBACK).min_by_key(|device| device.index)
}
