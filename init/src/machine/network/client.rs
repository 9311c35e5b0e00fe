//! The client's part in DHCP (RFC 2131, section 4.4), without a socket or a clock: what to send when, and what an answer changes.

use std::{net::Ipv4Addr, time::Duration};

use super::message::{Ask, Reply, Sender, Verdict, request};

/// The longest that is waited before the same is asked again. The first time it is a second, then twice as long each time.
const LONGEST_PAUSE: Duration = Duration::from_secs(64);
/// After so many requests for what was offered, somebody else is asked.
const TRIES: u32 = 4;
/// Between two requests to keep an address (RFC 2131, section 4.4.5); less where it would be a large part of the lease.
const LEAST: Duration = Duration::from_mins(1);
/// No lease is shorter than this: who gives one for a second is not asked each second.
const SHORTEST: Duration = Duration::from_secs(10);
/// Of a network whose server does not tell.
const USUAL_PREFIX: u8 = 24;
/// Seconds that an address can be had for where the server does not tell.
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

/// Times are since some moment that stays the same.
pub(super) struct Client {
    hardware: [u8; 6],
    name: String,
    /// Numbers that nobody can guess.
    draw: Box<dyn FnMut() -> u32>,
    transaction: u32,
    began: Duration,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    Seeking { asked: u32, next: Duration },
    Taking { address: Ipv4Addr, server: Ipv4Addr, asked: u32, next: Duration },
    Having(Having),
}

#[derive(Clone, Copy)]
struct Having {
    address: Ipv4Addr,
    server: Ipv4Addr,
    /// Only then there can be an answer (RFC 2131, figure 5): what programs of the machine send is heard as well.
    asked: bool,
    lease: Duration,
    next: Duration,
    rebind: Duration,
    end: Duration,
}

impl Client {
    /// Who seeks from now on.
    pub(super) fn new(
        hardware: [u8; 6],
        name: &str,
        mut draw: Box<dyn FnMut() -> u32>,
        now: Duration,
    ) -> Self {
        let state = State::Seeking { asked: 0, next: now };
        Self { hardware, name: name.to_owned(), transaction: draw(), draw, began: now, state }
    }

    /// When there is something to do, whatever is heard until then.
    pub(super) fn due(&self) -> Duration {
        match self.state {
            State::Seeking { next, .. } | State::Taking { next, .. } => next,
            State::Having(Having { next, end, .. }) => next.min(end),
        }
    }

    /// What is due, one after the other until nothing is.
    pub(super) fn tick(&mut self, now: Duration) -> Option<Action> {
        if now < self.due() {
            return None;
        }
        match self.state {
            State::Seeking { asked, .. } => {
                self.state = State::Seeking { asked: asked.saturating_add(1), next: now + self.pause(asked) };
                Some(self.ask(Ask::Discover, Ipv4Addr::BROADCAST, now))
            }
            State::Taking { asked: TRIES.., .. } => {
                self.seek(now);
                self.tick(now)
            }
            State::Taking { address, server, asked, .. } => {
                let next = now + self.pause(asked);
                self.state = State::Taking { address, server, asked: asked + 1, next };
                Some(self.ask(Ask::Take { address, server }, Ipv4Addr::BROADCAST, now))
            }
            State::Having(having) if now >= having.end => {
                self.seek(now);
                Some(Action::GiveUp)
            }
            State::Having(having) => {
                if !having.asked {
                    self.begin(now);
                }
                let (to, next) = having.ask_again(now);
                self.state = State::Having(Having { asked: true, next, ..having });
                Some(self.ask(Ask::Keep { address: having.address }, to, now))
            }
        }
    }

    /// What somebody in the network has sent.
    pub(super) fn hear(&mut self, bytes: &[u8], now: Duration) -> Option<Action> {
        let reply =
            Reply::parse(bytes, self.hardware).filter(|reply| reply.transaction == self.transaction)?;
        match (self.state, reply.verdict) {
            (State::Seeking { asked: 1.., .. }, Verdict::Offered) => {
                let server = reply.server.filter(|server| is_usable(*server))?;
                let address = Some(reply.address).filter(|address| is_usable(*address))?;
                self.state = State::Taking { address, server, asked: 0, next: now };
                None
            }
            (
                State::Taking { address, server, .. }
                | State::Having(Having { address, server, asked: true, .. }),
                Verdict::Given,
            ) if reply.address == address => {
                let server = reply.server.filter(|server| is_usable(*server)).unwrap_or(server);
                self.state = State::Having(Having::new(&reply, server, now));
                Some(Action::Use(Lease {
                    address,
                    prefix: reply.mask.and_then(prefix).unwrap_or(USUAL_PREFIX),
                    router: reply.router.filter(|router| is_usable(*router)),
                    name_servers: reply
                        .name_servers
                        .into_iter()
                        .filter(|server| is_usable(*server))
                        .collect(),
                }))
            }
            (State::Taking { .. }, Verdict::Refused) => {
                self.seek(now + jittered(0, 0));
                None
            }
            (State::Having(Having { asked: true, .. }), Verdict::Refused) => {
                self.seek(now + jittered(0, 0));
                Some(Action::GiveUp)
            }
            (State::Seeking { .. } | State::Having(_), _)
            | (State::Taking { .. }, Verdict::Offered | Verdict::Given) => None,
        }
    }

    /// What is asked from now on has nothing to do with what was asked before.
    fn begin(&mut self, from: Duration) {
        self.began = from;
        self.transaction = (self.draw)();
    }

    fn seek(&mut self, from: Duration) {
        self.begin(from);
        self.state = State::Seeking { asked: 0, next: from };
    }

    fn pause(&mut self, asked: u32) -> Duration {
        jittered(asked, (self.draw)() % 1000)
    }

    fn ask(&self, ask: Ask, to: Ipv4Addr, now: Duration) -> Action {
        let seconds = now.saturating_sub(self.began).as_secs().try_into().unwrap_or(u16::MAX);
        let (hardware, transaction) = (self.hardware, self.transaction);
        Action::Send(to, request(ask, &Sender { hardware, name: &self.name, transaction, seconds }))
    }
}

impl Having {
    /// From when it is given on.
    fn new(reply: &Reply, server: Ipv4Addr, now: Duration) -> Self {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let lease = seconds(reply.lease.unwrap_or(USUAL_LEASE)).max(SHORTEST);
        // Times that come too soon, or not one after the other, are none.
        let told = |told: Option<u32>, from, to, usual| {
            told.map(seconds).filter(|told| (from..to).contains(told)).unwrap_or(usual)
        };
        let rebind = told(reply.rebinding, lease / 4, lease, lease / 8 * 7);
        let renew = told(reply.renewal, lease / 8, rebind, (lease / 2).min(rebind));
        let (next, rebind, end) = (now + renew, now + rebind, now + lease);
        Self { address: reply.address, server, asked: false, lease, next, rebind, end }
    }

    /// Whom to ask whether it can be kept, who gave it or later anybody, and when the next time.
    fn ask_again(&self, now: Duration) -> (Ipv4Addr, Duration) {
        let (to, until) =
            if now < self.rebind { (self.server, self.rebind) } else { (Ipv4Addr::BROADCAST, self.end) };
        let step = (until.saturating_sub(now) / 2).max(LEAST.min(self.lease / 8));
        (to, (now + step).min(until))
    }
}

/// The pause after a request, with some milliseconds more: many machines may begin at once.
fn jittered(asked: u32, more_ms: u32) -> Duration {
    let pause = Duration::from_secs(1 << asked.min(16)).min(LONGEST_PAUSE);
    pause + Duration::from_millis(more_ms.into())
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

    /// It draws thousands, of which a pause gets nothing.
    fn client() -> Client {
        let mut drawn = SEED - 1000;
        let draw = move || {
            drawn += 1000;
            drawn
        };
        Client::new(HARDWARE, "box", Box::new(draw), at(0))
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
        let to_server = [503, 690, 784, 844].map(|time| (time, false));
        let to_anybody = [878, 940, 1000].map(|time| (time, true));
        let expected = [&to_server[..], &to_anybody].concat();
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
        let (transaction, elsewhere) = (client.transaction, Ipv4Addr::new(10, 9, 8, 66));
        for bytes in [
            given(SEED, &[]),
            reply(6, SEED, OWN, &[]),
            reply(2, transaction, OWN, &[(54, &SERVER)]),
            reply(5, transaction, elsewhere, &[(54, &SERVER)]),
            given(transaction, &[(51, &[255; 4])]),
            reply(6, transaction, OWN, &[]),
            vec![0; 300],
        ] {
            assert_eq!(client.hear(&bytes, at(10)), None);
            assert_eq!(client.due(), due);
        }
        // An answer counts once.
        let (.., transaction) = sent(client.tick(at(503)));
        assert!(client.hear(&given(transaction, &[]), at(503)).is_some());
        assert_eq!(client.hear(&given(transaction, &[]), at(504)), None);
        // Before it has asked, nothing is an answer.
        let mut client = self::client();
        assert_eq!(client.hear(&reply(2, SEED, OWN, &[(54, &SERVER)]), at(0)), None);
        assert_eq!(sent(client.tick(at(0))).1, 1);
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

    /// When it asks to keep an address for which the server says this, and when it has lost it.
    fn times(options: &[(u8, &[u8])]) -> (Vec<u64>, u64) {
        let mut client = client();
        client.tick(at(0));
        client.hear(&reply(2, SEED, OWN, &[(54, &SERVER)]), at(0));
        client.tick(at(0));
        client.hear(&given(SEED, options), at(0));
        let mut asked = Vec::new();
        loop {
            let now = client.due();
            match client.tick(now) {
                Some(Action::Send(..)) => asked.push(now.as_secs()),
                other => {
                    assert_eq!(other, Some(Action::GiveUp));
                    return (asked, now.as_secs());
                }
            }
        }
    }

    #[test]
    fn the_shortest_lease_is_renewed_too_and_keeps_nobody_busy() {
        let (asked, lost) = times(&[(51, &[0; 4]), (58, &[0; 4]), (59, &[0; 4])]);
        assert_eq!((asked, lost), (vec![5, 6, 8, 8], 10));
        let (asked, lost) = times(&[(51, &[0, 0, 0, 60]), (58, &[0, 0, 0, 30]), (59, &[0, 0, 0, 52])]);
        assert_eq!((asked.first(), lost), (Some(&30), 60));
        let same = &[0, 0, 1, 0][..];
        let (asked, lost) = times(&[(51, same), (58, same), (59, same)]);
        assert_eq!((asked.first(), lost), (Some(&128), 256));
        let (asked, lost) = times(&[(51, &[255; 4])]);
        assert!(asked[0] > 60 * 60 * 24 * 365 * 50 && lost > asked[0], "for ever");
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
