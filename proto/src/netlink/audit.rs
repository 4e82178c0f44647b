//! Listening to the module's refusals.

use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

use netlink_packet_core::{DecodeError, NetlinkPayload};
use rustix::io::Errno;

use super::{
    channel::{self, Channel},
    error::NetlinkError,
    message::{Attributes, Payload},
    spec::{Class, Mode, Reason, event, operation},
};

/// Bytes asked of the kernel for unread events; it gives at most `net.core.rmem_max`.
const RECEIVE_BUFFER: i32 = 4 << 20;
const OPERATION: &str = "audit";

/// One refusal, or would-be refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Serial of the event since the module was loaded.
    pub id: u64,
    /// Nanoseconds of the realtime clock.
    pub time_ns: u64,
    /// It was refused, not merely noted.
    pub enforced: bool,
    /// Why.
    pub reason: Reason,
    /// Which kind of rule was asked.
    pub class: Class,
    /// The permission that was missing.
    pub permission: String,
    /// ScID of the subject or sender.
    pub sscid: u32,
    /// Its node.
    pub ssnid: u32,
    /// ScID of the target or receiver.
    pub tscid: u32,
    /// Its node.
    pub tsnid: u32,
    /// IP protocol, 0 if no packet was concerned.
    pub protocol: u8,
    /// Source address, if there was a packet.
    pub source: Option<IpAddr>,
    /// Destination address, if there was a packet.
    pub target: Option<IpAddr>,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub target_port: u16,
    /// Process at which it happened, 0 if none.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Rule that decided; 0 is the policy's default.
    pub rule: u32,
    /// Policy by which it was decided.
    pub policy_version: u64,
    /// Events that the module's rate limit swallowed before this one.
    pub suppressed: u64,
    /// Hook in which it was decided.
    pub hook: String,
}

/// What a subscription hears.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A refusal.
    Denial(Box<Event>),
    /// A policy was installed.
    PolicyChanged {
        /// Serial of the event.
        id: u64,
        /// Nanoseconds of the realtime clock.
        time_ns: u64,
        /// Mode from now on.
        mode: Mode,
        /// Version from now on.
        policy_version: u64,
    },
    /// The socket overran: the kernel dropped an unknown number of events before the next one.
    Lost,
}

/// A membership in the module's audit group, on a socket of its own.
pub struct AuditSubscription {
    channel: Channel,
    waiting: VecDeque<Notice>,
    overruns: u64,
}

impl AuditSubscription {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let mut channel = Channel::open()?;
        let family = channel.resolve()?;
        let group = family.audit.ok_or_else(|| NetlinkError::Protocol {
            operation: OPERATION,
            detail: "the module has no audit group".to_owned(),
        })?;
        let fail = |source| NetlinkError::Socket {
            operation: OPERATION,
            source,
        };
        channel
            .socket()
            .set_rx_buf_sz(RECEIVE_BUFFER)
            .map_err(fail)?;
        channel.socket().add_membership(group).map_err(|source| {
            if source.raw_os_error() == Some(Errno::PERM.raw_os_error()) {
                NetlinkError::Permission {
                    operation: OPERATION,
                    message: None,
                }
            } else {
                fail(source)
            }
        })?;
        Ok(Self {
            channel,
            waiting: VecDeque::new(),
            overruns: 0,
        })
    }

    /// How often events were lost because nobody read them in time.
    pub fn overruns(&self) -> u64 {
        self.overruns
    }

    /// The next notice; `None` if there was none within `timeout`.
    ///
    /// # Errors
    /// The socket failed, or the module sent what this build does not understand. The subscription stays usable.
    pub fn receive(&mut self, timeout: Option<Duration>) -> Result<Option<Notice>, NetlinkError> {
        let deadline = timeout.map(|t| Instant::now() + t);
        let fail = |source| NetlinkError::Socket {
            operation: OPERATION,
            source,
        };
        loop {
            if let Some(notice) = self.waiting.pop_front() {
                return Ok(Some(notice));
            }
            if !channel::readable(self.channel.socket(), deadline).map_err(fail)? {
                return Ok(None);
            }
            match channel::receive(self.channel.socket()) {
                Ok(datagram) => self.waiting.extend(decode(&datagram)?),
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                    self.overruns += 1;
                    return Ok(Some(Notice::Lost));
                }
                Err(error) => return Err(fail(error)),
            }
        }
    }
}

impl Iterator for AuditSubscription {
    type Item = Result<Notice, NetlinkError>;

    /// Blocks until there is a notice; never ends by itself.
    fn next(&mut self) -> Option<Self::Item> {
        self.receive(None).transpose()
    }
}

pub(super) fn decode(datagram: &[u8]) -> Result<Vec<Notice>, NetlinkError> {
    let protocol = |detail| NetlinkError::Protocol {
        operation: OPERATION,
        detail,
    };
    let mut notices = Vec::new();
    for message in channel::messages::<Payload>(datagram) {
        let NetlinkPayload::InnerMessage(inner) = message.map_err(protocol)?.payload else {
            continue;
        };
        notices.extend(notice(&inner.payload).map_err(|e| protocol(e.to_string()))?);
    }
    Ok(notices)
}

/// Reads one message of the group; an operation that this build does not know is skipped.
pub(super) fn notice(payload: &Payload) -> Result<Option<Notice>, DecodeError> {
    let a = payload.attributes();
    Ok(match payload.command {
        operation::DENIAL => Some(Notice::Denial(Box::new(denial(a)?))),
        operation::POLICY_CHANGED => Some(Notice::PolicyChanged {
            id: a.u64(event::ID)?.unwrap_or_default(),
            time_ns: a.u64(event::TIME_NS)?.unwrap_or_default(),
            mode: Mode::from_number(a.u32(event::MODE)?.unwrap_or_default()),
            policy_version: a.u64(event::POLICY_VERSION)?.unwrap_or_default(),
        }),
        _ => None,
    })
}

fn denial(a: Attributes<'_>) -> Result<Event, DecodeError> {
    Ok(Event {
        id: a.u64(event::ID)?.unwrap_or_default(),
        time_ns: a.u64(event::TIME_NS)?.unwrap_or_default(),
        enforced: a.u8(event::ENFORCED)?.unwrap_or_default() != 0,
        reason: Reason::from_number(a.u32(event::REASON)?.unwrap_or_default()),
        class: Class::from_number(a.u32(event::CLASS)?.unwrap_or_default()),
        permission: a.string(event::PERMISSION)?.unwrap_or_default(),
        sscid: a.u32(event::SSCID)?.unwrap_or_default(),
        ssnid: a.u32(event::SSNID)?.unwrap_or_default(),
        tscid: a.u32(event::TSCID)?.unwrap_or_default(),
        tsnid: a.u32(event::TSNID)?.unwrap_or_default(),
        protocol: a.u8(event::PROTOCOL)?.unwrap_or_default(),
        source: endpoint(a, event::SADDR, event::SPORT)?,
        target: endpoint(a, event::DADDR, event::DPORT)?,
        source_port: a.u16(event::SPORT)?.unwrap_or_default(),
        target_port: a.u16(event::DPORT)?.unwrap_or_default(),
        pid: a.u32(event::PID)?.unwrap_or_default(),
        comm: a.string(event::COMM)?.unwrap_or_default(),
        rule: a.u32(event::RULE)?.unwrap_or_default(),
        policy_version: a.u64(event::POLICY_VERSION)?.unwrap_or_default(),
        suppressed: a.u64(event::SUPPRESSED)?.unwrap_or_default(),
        hook: a.string(event::HOOK)?.unwrap_or_default(),
    })
}

/// An address of the event; where no packet was concerned, the kernel sends zeros.
fn endpoint(a: Attributes<'_>, address: u16, port: u16) -> Result<Option<IpAddr>, DecodeError> {
    let port = a.u16(port)?.unwrap_or_default();
    Ok(a.address(address)?
        .filter(|address| !address.is_unspecified() || port != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_is_read() {
        let payload = Payload::new(operation::DENIAL)
            .bytes(event::ID, &5u64.to_ne_bytes())
            .u8(event::ENFORCED, 1)
            .u32(event::REASON, 1)
            .u32(event::CLASS, 1)
            .bytes(event::PERMISSION, b"send\0")
            .u32(event::SSCID, 10)
            .u32(event::TSCID, 20)
            .u8(event::PROTOCOL, 17)
            .address(event::SADDR, "10.0.0.1".parse().unwrap())
            .address(event::DADDR, "10.0.0.2".parse().unwrap())
            .bytes(event::SPORT, &4000u16.to_ne_bytes())
            .bytes(event::COMM, b"PhoneManiaEP\0");
        let Some(Notice::Denial(event)) = notice(&payload).unwrap() else {
            panic!("no denial")
        };
        assert_eq!(
            (event.id, event.enforced, event.reason, event.class),
            (5, true, Reason::NoPermission, Class::Network)
        );
        assert_eq!(
            (event.permission.as_str(), event.sscid, event.tscid),
            ("send", 10, 20)
        );
        assert_eq!(event.source, Some("10.0.0.1".parse().unwrap()));
        assert_eq!((event.source_port, event.target_port), (4000, 0));
        assert_eq!(event.comm, "PhoneManiaEP");
    }

    #[test]
    fn zeros_for_an_address_are_no_address() {
        let unspecified = "0.0.0.0".parse().unwrap();
        let exec = Payload::new(operation::DENIAL).address(event::SADDR, unspecified);
        let Some(Notice::Denial(event)) = notice(&exec).unwrap() else {
            panic!("no denial")
        };
        assert_eq!((event.source, event.target), (None, None));
        let bind = exec.bytes(event::SPORT, &9001u16.to_ne_bytes());
        let Some(Notice::Denial(event)) = notice(&bind).unwrap() else {
            panic!("no denial")
        };
        assert_eq!(event.source, Some(unspecified), "bound to any address");
    }

    #[test]
    fn a_change_of_policy_is_read_and_a_newer_notice_skipped() {
        let payload = Payload::new(operation::POLICY_CHANGED)
            .u32(event::MODE, 2)
            .bytes(event::POLICY_VERSION, &3u64.to_ne_bytes());
        let expected = Notice::PolicyChanged {
            id: 0,
            time_ns: 0,
            mode: Mode::Enforcing,
            policy_version: 3,
        };
        assert_eq!(notice(&payload).unwrap(), Some(expected));
        assert_eq!(notice(&Payload::new(200)).unwrap(), None);
    }
}
