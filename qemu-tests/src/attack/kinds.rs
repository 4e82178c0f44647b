//! How an attack is chosen and put into frames, the same for both families of addresses.

use fastrand::Rng;

use super::{Attack, COPIED, Counts, FORGED, Plan, Sender};

/// What a kind makes: packets that are whole, or fragments of one.
pub enum Made {
    /// One packet.
    Whole(Vec<u8>),
    /// Fragments, and what they become.
    Fragments(Vec<Vec<u8>>, Vec<u8>),
    /// Packets whose fate is known, such as fragments that never become a datagram.
    Known(Vec<Vec<u8>>, Counts),
}

/// Makes one attack: a number, what its data begins with, and where its choices come from.
pub type Make = fn(&Plan, u64, &[u8; 6], &mut Rng) -> Made;

/// A kind of attack, how many in a thousand or so it is, and whether it takes a member's key.
pub type Kind = (&'static str, u32, bool, Make);

/// What a family of addresses makes.
pub struct Makes {
    /// Its kinds.
    pub kinds: &'static [Kind],
    /// Fragments that wait for the rest.
    pub incomplete: Make,
    /// What frames say that they hold.
    pub ethertype: [u8; 2],
    /// The counters that a whole packet raises; `None` if not for sure.
    pub fate: fn(&[u8]) -> Option<Counts>,
    /// The same of what fragments have become.
    pub reassembled: fn(&[u8]) -> Option<Counts>,
    /// The kernel's counters of a fragment and of a datagram that fragments have become.
    pub reassembly: [&'static str; 2],
}

/// The kind that is all that a claimant makes.
pub const CLAIMS: &str = "members-label-of-another-zone";

/// One in so many leaves fragments behind that wait for the rest for a minute at most.
pub const INCOMPLETE_EACH: u64 = 2048;

/// The next attack.
pub fn attack(makes: &Makes, plan: &Plan, number: u64, rng: &mut Rng) -> Attack {
    if number.is_multiple_of(INCOMPLETE_EACH) {
        let made = (makes.incomplete)(plan, number, FORGED, rng);
        if let Some(attack) = attack_of(makes, plan, "fragments-incomplete", made) {
            return attack;
        }
    }
    let usable = |(name, _, keyed, _): &&Kind| match plan.sender {
        Sender::Stranger => !keyed,
        Sender::Member => true,
        Sender::Claimant => *name == CLAIMS,
    };
    let all: u32 = makes.kinds.iter().filter(usable).map(|kind| kind.1).sum();
    loop {
        let mut at = rng.u32(..all);
        let chosen = makes.kinds.iter().filter(usable).find(|kind| {
            let here = at < kind.1;
            at = at.wrapping_sub(kind.1);
            here
        });
        let Some((kind, _, _, make)) = chosen else {
            continue;
        };
        let before = rng.clone();
        let made = make(plan, number, FORGED, rng);
        let Some(attack) = attack_of(makes, plan, kind, made) else {
            continue;
        };
        if !attack.counts.contains(&"delivered") {
            return attack;
        }
        // The same again, under the mark of what may be seen.
        let made = make(plan, number, COPIED, &mut before.clone());
        if let Some(attack) = attack_of(makes, plan, kind, made) {
            return attack;
        }
    }
}

fn attack_of(makes: &Makes, plan: &Plan, kind: &'static str, made: Made) -> Option<Attack> {
    let (packets, counts) = match made {
        Made::Whole(packet) => {
            let counts = (makes.fate)(&packet)?;
            (vec![packet], counts)
        }
        Made::Fragments(packets, whole) => {
            let [fragment, datagram] = makes.reassembly;
            let mut counts = (makes.reassembled)(&whole)?;
            counts.extend(std::iter::repeat_n(fragment, packets.len()));
            counts.push(datagram);
            (packets, counts)
        }
        Made::Known(packets, counts) => (packets, counts),
    };
    let frame = |packet: &Vec<u8>| {
        let mut frame = Vec::with_capacity(14 + packet.len());
        frame.extend(plan.mac);
        frame.extend([2, 0, 0, 0, 0, 0x66]);
        frame.extend(makes.ethertype);
        frame.extend(packet);
        frame
    };
    Some(Attack {
        kind,
        frames: packets.iter().map(frame).collect(),
        counts,
    })
}

/// Another value than this.
pub fn other(rng: &mut Rng, value: u8) -> u8 {
    value.wrapping_add(rng.u8(1..))
}

/// Changes one byte of these.
pub fn changed(bytes: &mut [u8], rng: &mut Rng) {
    let at = rng.usize(..bytes.len());
    bytes[at] = other(rng, bytes[at]);
}
