//! Messages of DHCP (RFC 2131, section 2; options of RFC 2132), as far as a client of IPv4 on Ethernet needs them.
//!
//! By hand, because what there is does not fit: `dhcproto` brings a library of DNS along, which is more than all of init, and
//! `edge-dhcp` 0.8 writes the broadcast flag into the wrong byte and names no server in its requests.

use std::net::Ipv4Addr;

/// Where servers listen.
pub(super) const SERVER_PORT: u16 = 67;
/// Where clients do.
pub(super) const CLIENT_PORT: u16 = 68;

/// More than a server may send to who does not say that it has room for more.
pub(super) const MAX_BYTES: usize = 1500;

/// Of name servers no program asks more (resolv.conf(5)).
const MAX_NAME_SERVERS: usize = 3;

/// Up to the options.
const HEADER_BYTES: usize = 240;
/// A server may ignore what is shorter (RFC 1542, section 2.1).
const LEAST_BYTES: usize = 300;

const COOKIE: [u8; 4] = [99, 130, 83, 99];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ETHERNET: [u8; 2] = [1, 6];
/// Who has no address yet is answered by broadcast.
const BROADCAST: u16 = 0x8000;

/// Options by their numbers.
mod option {
    pub(super) const PAD: u8 = 0;
    pub(super) const SUBNET_MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const NAME_SERVER: u8 = 6;
    pub(super) const HOST_NAME: u8 = 12;
    pub(super) const REQUESTED_ADDRESS: u8 = 50;
    pub(super) const LEASE_TIME: u8 = 51;
    pub(super) const OVERLOAD: u8 = 52;
    pub(super) const MESSAGE_TYPE: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const PARAMETERS: u8 = 55;
    pub(super) const RENEWAL_TIME: u8 = 58;
    pub(super) const REBINDING_TIME: u8 = 59;
    pub(super) const END: u8 = 255;
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Whether anybody has an address.
    Discover,
    /// The address that a server has offered.
    Take {
        /// It.
        address: Ipv4Addr,
        /// Whose offer it was.
        server: Ipv4Addr,
    },
    /// To keep the address that it has.
    Keep {
        /// It.
        address: Ipv4Addr,
    },
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Sender<'a> {
    pub(super) hardware: [u8; 6],
    /// What the machine would like to be called; not sent where it is no label of DNS.
    pub(super) name: &'a str,
    /// A number that the answer has as well.
    pub(super) transaction: u32,
    /// For how long it has been asking.
    pub(super) seconds: u16,
}

/// A message of a client's.
pub(super) fn request(ask: Ask, sender: &Sender<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LEAST_BYTES);
    bytes.extend([REQUEST, ETHERNET[0], ETHERNET[1], 0]);
    bytes.extend(sender.transaction.to_be_bytes());
    bytes.extend(sender.seconds.to_be_bytes());
    let (flags, own) = match ask {
        Ask::Discover | Ask::Take { .. } => (BROADCAST, Ipv4Addr::UNSPECIFIED),
        Ask::Keep { address } => (0, address),
    };
    bytes.extend(flags.to_be_bytes());
    bytes.extend(own.octets());
    bytes.extend([0; 12]);
    bytes.extend(sender.hardware);
    bytes.resize(HEADER_BYTES - COOKIE.len(), 0);
    bytes.extend(COOKIE);

    let mut add = |number: u8, value: &[u8]| {
        // None of ours is longer: the name is a label, and has 63 bytes at most.
        let Ok(length) = u8::try_from(value.len()) else { return };
        bytes.extend([number, length]);
        bytes.extend(value);
    };
    let kind = if ask == Ask::Discover { 1 } else { 3 };
    add(option::MESSAGE_TYPE, &[kind]);
    if let Ask::Take { address, server } = ask {
        add(option::REQUESTED_ADDRESS, &address.octets());
        add(option::SERVER, &server.octets());
    }
    let wanted = [option::SUBNET_MASK, option::ROUTER, option::NAME_SERVER, option::LEASE_TIME];
    add(option::PARAMETERS, &wanted);
    if is_label(sender.name) {
        add(option::HOST_NAME, sender.name.as_bytes());
    }
    bytes.push(option::END);
    bytes.resize(bytes.len().max(LEAST_BYTES), option::PAD);
    bytes
}

/// Whether it can be a part of a host's name (RFC 1123, section 2.1).
fn is_label(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('-') && !name.ends_with('-')
}

/// What a server says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It can be had.
    Offered,
    /// It is the client's now.
    Given,
    /// It cannot be had.
    Refused,
}

/// A message of a server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) transaction: u32,
    pub(super) verdict: Verdict,
    pub(super) address: Ipv4Addr,
    pub(super) server: Option<Ipv4Addr>,
    pub(super) mask: Option<Ipv4Addr>,
    pub(super) router: Option<Ipv4Addr>,
    pub(super) name_servers: Vec<Ipv4Addr>,
    /// Seconds.
    pub(super) lease: Option<u32>,
    pub(super) renewal: Option<u32>,
    pub(super) rebinding: Option<u32>,
}

impl Reply {
    /// Reads what anybody in the network may have sent; `None` where it is no answer to who has this hardware address.
    pub(super) fn parse(bytes: &[u8], hardware: [u8; 6]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        let is_ours = header[0] == REPLY
            && header[1..3] == ETHERNET
            && header[28..34] == hardware
            && header[HEADER_BYTES - COOKIE.len()..] == COOKIE;
        if !is_ours {
            return None;
        }
        let mut found = Found::default();
        found.read(rest)?;
        // Options may go on in the fields of two names that nobody uses: the second of them first (RFC 2131, section 4.1).
        let overloaded = found.overload;
        if overloaded & 1 != 0 {
            found.read(&header[108..236])?;
        }
        if overloaded & 2 != 0 {
            found.read(&header[44..108])?;
        }
        let verdict = match found.kind? {
            2 => Verdict::Offered,
            5 => Verdict::Given,
            6 => Verdict::Refused,
            _ => return None,
        };
        Some(Self {
            transaction: u32::from_be_bytes(header[4..8].try_into().ok()?),
            verdict,
            address: address(&header[16..20])?,
            server: found.server,
            mask: found.mask,
            router: found.router,
            name_servers: found.name_servers,
            lease: found.lease,
            renewal: found.renewal,
            rebinding: found.rebinding,
        })
    }
}

/// Options that have been read.
#[derive(Default)]
struct Found {
    kind: Option<u8>,
    overload: u8,
    server: Option<Ipv4Addr>,
    mask: Option<Ipv4Addr>,
    router: Option<Ipv4Addr>,
    name_servers: Vec<Ipv4Addr>,
    lease: Option<u32>,
    renewal: Option<u32>,
    rebinding: Option<u32>,
}

impl Found {
    /// `None` where an option is longer than what is left.
    fn read(&mut self, mut rest: &[u8]) -> Option<()> {
        while let Some((&number, behind)) = rest.split_first() {
            if number == option::END {
                break;
            }
            if number == option::PAD {
                rest = behind;
                continue;
            }
            let (&length, behind) = behind.split_first()?;
            let (value, behind) = behind.split_at_checked(length.into())?;
            rest = behind;
            match number {
                option::MESSAGE_TYPE => self.kind = value.first().copied(),
                option::OVERLOAD => self.overload = value.first().copied().unwrap_or(0),
                option::SERVER => self.server = address(value),
                option::SUBNET_MASK => self.mask = address(value),
                option::ROUTER => self.router = value.get(..4).and_then(address),
                option::NAME_SERVER => {
                    self.name_servers =
                        value.chunks_exact(4).filter_map(address).take(MAX_NAME_SERVERS).collect();
                }
                option::LEASE_TIME => self.lease = number_of(value),
                option::RENEWAL_TIME => self.renewal = number_of(value),
                option::REBINDING_TIME => self.rebinding = number_of(value),
                _ => {}
            }
        }
        Some(())
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

fn number_of(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) const HARDWARE: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

    /// As a server writes it.
    pub(in super::super) fn reply(
        kind: u8,
        transaction: u32,
        own: Ipv4Addr,
        options: &[(u8, &[u8])],
    ) -> Vec<u8> {
        let mut bytes = vec![REPLY, 1, 6, 0];
        bytes.extend(transaction.to_be_bytes());
        bytes.extend([0; 8]);
        bytes.extend(own.octets());
        bytes.extend([0; 8]);
        bytes.extend(HARDWARE);
        bytes.resize(236, 0);
        bytes.extend(COOKIE);
        bytes.extend([option::MESSAGE_TYPE, 1, kind]);
        for (number, value) in options {
            bytes.extend([*number, u8::try_from(value.len()).unwrap()]);
            bytes.extend(*value);
        }
        bytes.push(option::END);
        bytes
    }

    fn sender(name: &str) -> Sender<'_> {
        Sender { hardware: HARDWARE, name, transaction: 0x0102_0304, seconds: 7 }
    }

    #[test]
    fn a_request_is_laid_out_as_the_standard_has_it() {
        let bytes = request(Ask::Discover, &sender("box"));
        assert_eq!(bytes.len(), 300);
        assert_eq!(bytes[..12], [1, 1, 6, 0, 1, 2, 3, 4, 0, 7, 0x80, 0]);
        assert_eq!(bytes[12..28], [0; 16]);
        assert_eq!(bytes[28..34], HARDWARE);
        assert_eq!(bytes[236..243], [99, 130, 83, 99, 53, 1, 1]);
        assert_eq!(bytes[243..], {
            let mut rest = vec![55, 4, 1, 3, 6, 51, 12, 3, b'b', b'o', b'x', 255];
            rest.resize(57, 0);
            rest
        });

        let (address, server) = (Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(10, 1, 2, 1));
        let bytes = request(Ask::Take { address, server }, &sender("not a label"));
        assert_eq!(bytes[12..16], [0; 4], "it has none yet");
        assert_eq!(bytes[240..255], [53, 1, 3, 50, 4, 10, 1, 2, 3, 54, 4, 10, 1, 2, 1]);
        assert!(!bytes[240..].contains(&option::HOST_NAME));

        let bytes = request(Ask::Keep { address }, &sender("-box"));
        assert_eq!((&bytes[10..12], &bytes[12..16]), (&[0, 0][..], &[10, 1, 2, 3][..]));
        assert_eq!(bytes[240..244], [53, 1, 3, 55], "neither server nor address, RFC 2131, table 4");
    }

    #[test]
    fn an_answer_is_read() {
        let own = Ipv4Addr::new(192, 168, 7, 20);
        let names = [9, 9, 9, 9, 8, 8, 8, 8, 1, 1, 1, 1, 4, 4, 4, 4];
        let bytes = reply(
            5,
            77,
            own,
            &[
                (54, &[192, 168, 7, 1]),
                (1, &[255, 255, 255, 0]),
                (3, &[192, 168, 7, 1, 0, 0, 0, 0]),
                (6, &names),
            ],
        );
        let found = Reply::parse(&bytes, HARDWARE).unwrap();
        assert_eq!((found.transaction, found.verdict, found.address), (77, Verdict::Given, own));
        assert_eq!(found.server, Some(Ipv4Addr::new(192, 168, 7, 1)));
        assert_eq!(found.mask, Some(Ipv4Addr::new(255, 255, 255, 0)));
        assert_eq!(found.router, Some(Ipv4Addr::new(192, 168, 7, 1)));
        assert_eq!(found.name_servers.len(), MAX_NAME_SERVERS);
        assert_eq!((found.lease, found.renewal, found.rebinding), (None, None, None));
        assert_eq!(Reply::parse(&bytes, [0; 6]), None, "another machine's");
    }

    #[test]
    fn options_go_on_in_the_names() {
        let mut bytes = reply(2, 1, Ipv4Addr::new(10, 0, 0, 2), &[(52, &[3])]);
        bytes[108..115].copy_from_slice(&[51, 4, 0, 0, 14, 16, 255]);
        bytes[44..51].copy_from_slice(&[54, 4, 10, 0, 0, 1, 255]);
        let found = Reply::parse(&bytes, HARDWARE).unwrap();
        assert_eq!((found.lease, found.server), (Some(3600), Some(Ipv4Addr::new(10, 0, 0, 1))));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        let good = reply(2, 1, Ipv4Addr::new(10, 0, 0, 2), &[]);
        assert!(Reply::parse(&good, HARDWARE).is_some());
        for (at, byte) in [(0, REQUEST), (1, 6), (2, 16), (236, 0), (242, 9), (241, 200)] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            assert_eq!(Reply::parse(&bytes, HARDWARE), None, "{at}");
        }
        for length in 0..good.len() - 2 {
            assert_eq!(Reply::parse(&good[..length], HARDWARE), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn anything_can_come(mut bytes in prop::collection::vec(any::<u8>(), 0..600), as_header in any::<bool>()) {
            if as_header && bytes.len() > HEADER_BYTES {
                let good = reply(5, 1, Ipv4Addr::LOCALHOST, &[]);
                bytes[..HEADER_BYTES].copy_from_slice(&good[..HEADER_BYTES]);
            }
            let found = Reply::parse(&bytes, HARDWARE);
            prop_assert!(found.is_none_or(|found| found.name_servers.len() <= MAX_NAME_SERVERS));
        }
    }
}
