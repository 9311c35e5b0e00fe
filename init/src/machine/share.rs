//! The root file system, which the host shares.

use std::{
    ffi::CStr,
    thread::sleep,
    time::{Duration, Instant},
};

use agent_protocol::spec::{Share, ShareKind};
use anyhow::{Context, Result};
use rustix::{
    io::Errno,
    mount::{MountFlags, mount},
};

use super::mounts::NEW_ROOT;

/// How long a device may take to show up behind its driver.
const DEVICE_WITHIN: Duration = Duration::from_secs(2);

/// In between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Mounts it beside the initial one. What is in it gives nobody privileges, and no file in it is a device.
pub(super) fn mount_root(share: &Share) -> Result<()> {
    // Most kernels bring it along.
    let _ = std::fs::create_dir(NEW_ROOT);
    let (kind, options) = how(share.kind);
    let end = Instant::now() + DEVICE_WITHIN;
    loop {
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        match mount(share.tag.as_str(), NEW_ROOT, kind, flags, options) {
            Ok(()) => return Ok(()),
            // How the two say that nobody has this tag.
            Err(Errno::NOENT | Errno::INVAL) if Instant::now() < end => sleep(LOOK_AGAIN),
            Err(errno) => {
                return Err(errno).with_context(|| {
                    format!("mounting the root file system: {kind} with the tag `{}`", share.tag)
                });
            }
        }
    }
}

fn how(kind: ShareKind) -> (&'static str, Option<&'static CStr>) {
    match kind {
        ShareKind::Virtiofs => ("virtiofs", None),
        // Files can be mapped, and each message takes as much as the device has room for: reading is five times as fast
        // as with the default of 8 KiB.
        ShareKind::Plan9 => ("9p", Some(c"trans=virtio,version=9p2000.L,cache=mmap,msize=512000")),
    }
}
