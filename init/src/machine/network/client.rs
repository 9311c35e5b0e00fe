//! The client's part in DHCP (RFC 2131, section 4.4), without a socket or a clock: what to send when, and what an answer changes.

use std::{net::Ipv4Addr, time::Duration};

use super::message::{Ask, Reply, Sender, Verdict, request};

/// The longest that is waited before the same is asked again. The first time it is a second, then twice as long each time.
const LONGEST_PAUSE: Duration = Duration::from_secs(64);
/// After so many requests for what was offered, somebody else is asked.
const TRIES: u32 = 4;
/// Between two requests to keep an address (RFC 2131, section 4.4.5), and what no lease is shorter than.
const LEAST: Duration = Duration::from_mins(1);
/// Of a network whose server does not tell.
const USUAL_PREFIX: u8 = 24;
/// Who offers an address without saying for how long gets asked again after half of this.
const USUAL_LEASE: u32 = 3600;

/// What a machine is called in its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u8,
    pub(super) router: Option<Ipv4Addr>,
    pub(super) name_servers: Vec<Ipv4Addr>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A message to this address.
    Send(Ipv4Addr, Vec<u8>),
    /// The machine has these from now on, and maybe had them before.
    Use(Lease),
    /// What it had is no longer its own.
    GiveUp,
}

/// Times are since the machine began.
pub(super) struct Client {
    hardware: [u8; 6],
    name: String,
    transaction: u32,
    began: Duration,
    state: State,
}

enum State {
    Seeking { asked: u32, next: Duration },
    Taking { address: Ipv4Addr, server: Ipv4Addr, asked: u32, next: Duration },
    Having { address: Ipv4Addr, server: Ipv4Addr, next: Duration, rebind: Duration, end: Duration },
}

impl Client {
    /// Who seeks from now on. What it asks is told from what others ask by `seed`.
    pub(super) fn new(hardware: [u8; 6], name: &str, seed: u32, now: Duration) -> Self {
        let state = State::Seeking { asked: 0, next: now };
        Self { hardware, name: name.to_owned(), transaction: seed, began: now, state }
    }

    /// When there is something to do, whatever is heard until then.
    pub(super) fn due(&self) -> Duration {
        match self.state {
            State::Seeking { next, .. } | State::Taking { next, .. } => next,
            State::Having { next, end, .. } => next.min(end),
        }
    }

    /// What is due, one after the other until nothing is.
    pub(super) fn tick(&mut self, now: Duration) -> Option<Action> {
        if now < self.due() {
            return None;
        }
        let pause = |asked: u32| jittered(asked, self.transaction);
        match &mut self.state {
            State::Seeking { asked, next } => {
                *next = now + pause(*asked);
                *asked = asked.saturating_add(1);
                Some(self.ask(Ask::Discover, Ipv4Addr::BROADCAST, now))
            }
            State::Taking { asked, .. } if *asked >= TRIES => {
                self.seek(now);
                self.tick(now)
            }
            &mut State::Taking { address, server, ref mut asked, ref mut next } => {
                *next = now + pause(*asked);
                *asked += 1;
                Some(self.ask(Ask::Take { address, server }, Ipv4Addr::BROADCAST, now))
            }
            State::Having { end, .. } if now >= *end => {
                self.seek(now);
                Some(Action::GiveUp)
            }
            &mut State::Having { address, server, ref mut next, rebind, end } => {
                // Who gave it, and when that one does not answer, anybody.
                let (to, until) = if now < rebind { (server, rebind) } else { (Ipv4Addr::BROADCAST, end) };
                *next = now + (until.saturating_sub(now) / 2).max(LEAST);
                Some(self.ask(Ask::Keep { address }, to, now))
            }
        }
    }

    /// What somebody in the network has sent.
    pub(super) fn hear(&mut self, bytes: &[u8], now: Duration) -> Option<Action> {
        let reply =
            Reply::parse(bytes, self.hardware).filter(|reply| reply.transaction == self.transaction)?;
        match (&self.state, reply.verdict) {
            (State::Seeking { asked: 1.., .. }, Verdict::Offered) => {
                let server = reply.server.filter(|server| is_usable(*server))?;
                let address = Some(reply.address).filter(|address| is_usable(*address))?;
                self.state = State::Taking { address, server, asked: 0, next: now };
                None
            }
            (
                &State::Taking { address, server, .. } | &State::Having { address, server, .. },
                Verdict::Given,
            ) if reply.address == address => {
                let lease = self.have(&reply, reply.server.unwrap_or(server), now);
                Some(Action::Use(lease))
            }
            (State::Taking { .. }, Verdict::Refused) => {
                self.seek(now + jittered(0, self.transaction));
                None
            }
            (State::Having { .. }, Verdict::Refused) => {
                self.seek(now + jittered(0, self.transaction));
                Some(Action::GiveUp)
            }
            (State::Seeking { .. }, _)
            | (State::Taking { .. } | State::Having { .. }, Verdict::Offered | Verdict::Given) => None,
        }
    }

    fn have(&mut self, reply: &Reply, server: Ipv4Addr, now: Duration) -> Lease {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into()).max(LEAST);
        let lease = seconds(reply.lease.unwrap_or(USUAL_LEASE));
        let rebind = reply.rebinding.map_or(lease * 7 / 8, seconds).min(lease);
        let renew = reply.renewal.map_or(lease / 2, seconds).min(rebind);
        let address = reply.address;
        self.state =
            State::Having { address, server, next: now + renew, rebind: now + rebind, end: now + lease };
        self.began = now + renew;
        self.transaction = self.transaction.wrapping_add(1);
        Lease {
            address,
            prefix: reply.mask.and_then(prefix).unwrap_or(USUAL_PREFIX),
            router: reply.router.filter(|router| is_usable(*router)),
            name_servers: reply.name_servers.iter().copied().filter(|server| is_usable(*server)).collect(),
        }
    }

    fn seek(&mut self, from: Duration) {
        self.began = from;
        self.transaction = self.transaction.wrapping_add(1);
        self.state = State::Seeking { asked: 0, next: from };
    }

    fn ask(&self, ask: Ask, to: Ipv4Addr, now: Duration) -> Action {
        let seconds = now.saturating_sub(self.began).as_secs().try_into().unwrap_or(u16::MAX);
        let (hardware, transaction) = (self.hardware, self.transaction);
        Action::Send(to, request(ask, &Sender { hardware, name: &self.name, transaction, seconds }))
    }
}

/// The pause after a request, with up to a second more: many machines may begin at once.
fn jittered(asked: u32, seed: u32) -> Duration {
    let pause = Duration::from_secs(1 << asked.min(16)).min(LONGEST_PAUSE);
    pause + Duration::from_millis((seed % 1000).into())
}

/// Whether a host can be called so.
fn is_usable(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    (1..224).contains(&first) && !address.is_loopback()
}

/// The length of a mask; `None` where it is none.
fn prefix(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    let ones = bits.leading_ones();
    (bits.count_ones() == ones && ones > 0).then(|| u8::try_from(ones).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::network::message::tests::{HARDWARE, reply};

    const SEED: u32 = 5_000;
    const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 7);
    const SERVER: [u8; 4] = [10, 9, 8, 1];

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn client() -> Client {
        Client::new(HARDWARE, "box", SEED, at(0))
    }

    /// The kind of a message, and its transaction.
    fn sent(action: Option<Action>) -> (Ipv4Addr, u8, u32) {
        let Some(Action::Send(to, bytes)) = action else { panic!("{action:?}") };
        (to, bytes[242], u32::from_be_bytes(bytes[4..8].try_into().unwrap()))
    }

    fn given(transaction: u32, options: &[(u8, &[u8])]) -> Vec<u8> {
        reply(5, transaction, OWN, &[&[(54, &SERVER[..])], options].concat())
    }

    /// One that has an address since second 3, until second 1003.
    fn bound() -> Client {
        let mut client = client();
        assert_eq!(sent(client.tick(at(0))), (Ipv4Addr::BROADCAST, 1, SEED));
        assert_eq!(client.hear(&reply(2, SEED, OWN, &[(54, &SERVER)]), at(3)), None);
        assert_eq!(sent(client.tick(at(3))), (Ipv4Addr::BROADCAST, 3, SEED));
        let options: [(u8, &[u8]); 4] =
            [(1, &[255, 255, 0, 0]), (3, &SERVER), (6, &[127, 0, 0, 1, 9, 9, 9, 9]), (51, &[0, 0, 3, 232])];
        let lease = Lease {
            address: OWN,
            prefix: 16,
            router: Some(SERVER.into()),
            name_servers: vec![Ipv4Addr::new(9, 9, 9, 9)],
        };
        assert_eq!(client.hear(&given(SEED, &options), at(3)), Some(Action::Use(lease)));
        client
    }

    #[test]
    fn an_address_is_found_taken_and_kept() {
        let mut client = bound();
        assert_eq!((client.tick(at(502)), client.due()), (None, at(503)));
        let (to, kind, transaction) = sent(client.tick(at(503)));
        assert_eq!((to, kind), (SERVER.into(), 3));
        assert_ne!(transaction, SEED);
        let kept = client.hear(&given(transaction, &[(51, &[0, 0, 3, 232])]), at(504));
        assert!(matches!(kept, Some(Action::Use(_))));
        assert_eq!(client.due(), at(1004));
    }

    #[test]
    fn who_does_not_answer_is_asked_less_and_less_and_then_anybody_is() {
        let mut client = bound();
        let mut asked = Vec::new();
        let lost = loop {
            let now = client.due();
            match client.tick(now) {
                Some(Action::Send(to, _)) => asked.push((now.as_secs(), to == Ipv4Addr::BROADCAST)),
                other => break (now, other),
            }
        };
        let expected = [(503, false), (690, false), (784, false), (844, false), (904, true), (964, true)];
        assert_eq!(asked, expected);
        assert_eq!(lost, (at(1003), Some(Action::GiveUp)));
        let (to, kind, _) = sent(client.tick(at(1003)));
        assert_eq!((to, kind), (Ipv4Addr::BROADCAST, 1), "it begins anew");
    }

    #[test]
    fn nobody_is_asked_again_and_again_in_longer_pauses() {
        let mut client = client();
        let mut times = Vec::new();
        for _ in 0..9 {
            let now = client.due();
            assert_eq!(sent(client.tick(now)).2, SEED, "an answer may come late");
            assert_eq!(client.tick(now), None);
            times.push(now.as_secs());
        }
        assert_eq!(times, [0, 1, 3, 7, 15, 31, 63, 127, 191]);
    }

    #[test]
    fn an_offer_that_nobody_stands_by_is_forgotten() {
        let mut client = client();
        client.tick(at(0));
        client.hear(&reply(2, SEED, OWN, &[(54, &SERVER)]), at(0));
        for _ in 0..TRIES {
            let now = client.due();
            assert_eq!(sent(client.tick(now)).1, 3);
        }
        let now = client.due();
        let (_, kind, transaction) = sent(client.tick(now));
        assert_eq!(kind, 1);
        assert_ne!(transaction, SEED);
    }

    #[test]
    fn a_refusal_is_an_end() {
        let mut client = client();
        client.tick(at(0));
        client.hear(&reply(2, SEED, OWN, &[(54, &SERVER)]), at(0));
        client.tick(at(0));
        assert_eq!(client.hear(&reply(6, SEED, Ipv4Addr::UNSPECIFIED, &[]), at(1)), None);
        assert!(client.due() > at(1), "not at once: two could go on for ever");

        let mut client = bound();
        let (.., transaction) = sent(client.tick(at(503)));
        assert_eq!(client.hear(&reply(6, transaction, OWN, &[]), at(503)), Some(Action::GiveUp));
    }

    #[test]
    fn what_was_not_asked_for_changes_nothing() {
        let mut client = bound();
        let due = client.due();
        let (.., transaction) = (0, 0, SEED + 1);
        let elsewhere = Ipv4Addr::new(10, 9, 8, 66);
        for bytes in [
            given(SEED, &[]),
            reply(6, SEED, OWN, &[]),
            reply(2, transaction, OWN, &[(54, &SERVER)]),
            reply(5, transaction, elsewhere, &[(54, &SERVER)]),
            vec![0; 300],
        ] {
            assert_eq!(client.hear(&bytes, at(10)), None);
            assert_eq!(client.due(), due);
        }
        // Before it has asked, nothing is an answer.
        let mut client = Client::new(HARDWARE, "box", SEED, at(9));
        assert_eq!(client.hear(&reply(2, SEED, OWN, &[(54, &SERVER)]), at(9)), None);
        assert_eq!(sent(client.tick(at(9))).1, 1);
    }

    #[test]
    fn addresses_that_nobody_can_have_are_not_taken() {
        for address in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255]] {
            let mut client = client();
            client.tick(at(0));
            client.hear(&reply(2, SEED, address.into(), &[(54, &SERVER)]), at(0));
            client.hear(&reply(2, SEED, OWN, &[(54, &address)]), at(0));
            client.hear(&reply(2, SEED, OWN, &[]), at(0));
            assert!(client.due() > at(0), "{address:?}");
        }
    }

    #[test]
    fn no_lease_is_so_short_that_it_keeps_the_machine_busy() {
        let mut client = client();
        client.tick(at(0));
        client.hear(&reply(2, SEED, OWN, &[(54, &SERVER)]), at(0));
        client.tick(at(0));
        client.hear(&given(SEED, &[(51, &[0; 4]), (58, &[0; 4]), (59, &[0; 4])]), at(0));
        assert_eq!(client.due(), LEAST);
        let mut client = bound();
        let (.., transaction) = sent(client.tick(at(503)));
        client.hear(&given(transaction, &[(51, &[255; 4])]), at(503));
        assert!(client.due() > at(60 * 60 * 24 * 365 * 50), "for ever");
    }

    #[test]
    fn a_mask_is_ones_and_then_zeros() {
        for (mask, bits) in [
            ([255, 255, 255, 0], Some(24)),
            ([255, 255, 255, 255], Some(32)),
            ([128, 0, 0, 0], Some(1)),
            ([0, 0, 0, 0], None),
            ([255, 0, 255, 0], None),
        ] {
            assert_eq!(prefix(mask.into()), bits, "{mask:?}");
        }
    }
}
