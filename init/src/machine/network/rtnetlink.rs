//! What the kernel is told of the network, by rtnetlink(7).

use std::net::Ipv4Addr;

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
};

/// Brings a device up.
pub(super) fn bring_up(device: u32) -> rustix::io::Result<()> {
    tell(&up(device))
}

/// Gives a device an address.
pub(super) fn set_address(device: u32, address: Ipv4Addr, prefix: u8) -> rustix::io::Result<()> {
    tell(&own_address(libc::RTM_NEWADDR, device, address, prefix))
}

/// Takes it away again, and the routes with it.
pub(super) fn remove_address(device: u32, address: Ipv4Addr, prefix: u8) -> rustix::io::Result<()> {
    tell(&own_address(libc::RTM_DELADDR, device, address, prefix))
}

/// Sends what is for elsewhere by this host, which is on the same wire, whatever the addresses say.
pub(super) fn set_gateway(device: u32, gateway: Ipv4Addr) -> rustix::io::Result<()> {
    tell(&default_route(device, gateway))
}

/// Sends one request, and waits for the kernel's answer, which it writes before the request returns.
fn tell(request: &[u8]) -> rustix::io::Result<()> {
    // No protocol named is the first one, NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    send(&socket, request, SendFlags::empty())?;
    let mut answer = [0; 1024];
    let (bytes, _) = recv(&socket, &mut answer, RecvFlags::DONTWAIT)?;
    refusal(answer.get(..bytes).unwrap_or_default()).map_or(Ok(()), Err)
}

/// An answer is a header of 16 bytes and an error number, negative, or 0.
fn refusal(answer: &[u8]) -> Option<Errno> {
    let number = answer.get(16..20)?.try_into().ok().map(i32::from_ne_bytes)?;
    (number != 0).then(|| Errno::from_raw_os_error(-number))
}

fn up(device: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(device.to_ne_bytes());
    let flag = libc::IFF_UP.unsigned_abs().to_ne_bytes();
    // What is to be set, and which bits of it count.
    body.extend([flag, flag].concat());
    request(libc::RTM_NEWLINK, &body)
}

fn own_address(kind: u16, device: u32, address: Ipv4Addr, prefix: u8) -> Vec<u8> {
    let mut body = vec![INET, prefix, 0, 0];
    body.extend(device.to_ne_bytes());
    for part in [libc::IFA_LOCAL, libc::IFA_ADDRESS] {
        attribute(&mut body, part, address.octets());
    }
    request(kind, &body)
}

/// Whether a gateway can be reached is not told from its address (linux/rtnetlink.h, RTNH_F_ONLINK).
const ON_LINK: u32 = 4;

fn default_route(device: u32, gateway: Ipv4Addr) -> Vec<u8> {
    let route = [libc::RT_TABLE_MAIN, libc::RTPROT_BOOT, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST];
    // To everywhere: no part of an address counts.
    let mut body = vec![INET, 0, 0, 0];
    body.extend(route);
    body.extend(ON_LINK.to_ne_bytes());
    attribute(&mut body, libc::RTA_GATEWAY, gateway.octets());
    attribute(&mut body, libc::RTA_OIF, device.to_ne_bytes());
    request(libc::RTM_NEWROUTE, &body)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // two
const INET: u8 = libc::AF_INET as u8;

/// Length and kind, two bytes each, then the value; all of ours have four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    body.extend(8_u16.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

fn request(kind: u16, body: &[u8]) -> Vec<u8> {
    let how = match kind {
        libc::RTM_NEWADDR | libc::RTM_NEWROUTE => libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
        _ => 0,
    };
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK | how).unwrap_or(0);
    let length = u32::try_from(16 + body.len()).unwrap_or(0);
    let mut request = Vec::with_capacity(64);
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    // A number for the answer, and who asks: nobody else does.
    request.extend([0; 8]);
    request.extend(body);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(request: &[u8]) -> usize {
        u32::from_ne_bytes(request[..4].try_into().unwrap()) as usize
    }

    #[test]
    fn requests_are_laid_out_as_the_kernel_reads_them() {
        let link = up(1);
        assert_eq!((link.len(), length(&link)), (32, 32));
        assert_eq!(link[20..], [1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);

        let address = own_address(libc::RTM_NEWADDR, 2, Ipv4Addr::new(10, 0, 2, 15), 24);
        assert_eq!((address.len(), length(&address)), (40, 40));
        assert_eq!(address[16..24], [2, 24, 0, 0, 2, 0, 0, 0]);
        assert_eq!(address[24..32], [8, 0, 2, 0, 10, 0, 2, 15]);

        let route = default_route(2, Ipv4Addr::new(10, 0, 2, 2));
        assert_eq!((route.len(), length(&route)), (44, 44));
        assert_eq!(route[16..28], [2, 0, 0, 0, 254, 3, 0, 1, 4, 0, 0, 0]);
        assert_eq!(route[28..], [8, 0, 5, 0, 10, 0, 2, 2, 8, 0, 4, 0, 2, 0, 0, 0]);
    }

    #[test]
    fn the_kernel_takes_them_for_requests() {
        // As an ordinary user, and as root for a device that is not there: refused, but understood.
        let refused = tell(&up(4_000_000)).unwrap_err();
        assert!([Errno::PERM, Errno::NODEV].contains(&refused), "{refused}");
    }

    #[test]
    fn an_answer_is_an_error_number() {
        let answer = |number: i32| [&[0; 16][..], &number.to_ne_bytes(), &[0; 16]].concat();
        assert_eq!(refusal(&answer(0)), None);
        assert_eq!(refusal(&answer(-1)), Some(Errno::PERM));
        assert_eq!(refusal(&[]), None);
    }
}
