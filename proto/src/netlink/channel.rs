//! A generic netlink socket: send a request, collect its answers, tell an acknowledgement from a refusal.

use std::{
    fmt::Debug,
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkDeserializable, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
    ParseableParametrized, parse_string,
};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{
        GenlCtrl, GenlCtrlCmd,
        nlas::{GenlCtrlAttrs, McastGrpAttrs},
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use zeroize::Zeroizing;

use super::{error::NetlinkError, spec};

/// The kernel answers before `send` returns; this only bounds the wait for an answer that was lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Attribute of an extended acknowledgement that holds its text (`NLMSGERR_ATTR_MSG`).
const EXTACK_MESSAGE: u16 = 1;
/// Bytes of a netlink message header; what an extended acknowledgement echoes when capped.
const HEADER: usize = 16;

/// Where the kernel has put the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Family {
    pub(super) id: u16,
    /// Number of the multicast group `audit`.
    pub(super) audit: Option<u32>,
}

/// One socket with its count of requests.
pub(super) struct Channel {
    socket: Socket,
    sequence: u32,
}

impl Channel {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let fail = |source| NetlinkError::Socket {
            operation: "open",
            source,
        };
        let mut socket = Socket::new(NETLINK_GENERIC).map_err(fail)?;
        socket.bind_auto().map_err(fail)?;
        socket.set_ext_ack(true).map_err(fail)?;
        socket.set_cap_ack(true).map_err(fail)?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Asks the kernel for the family's number and groups.
    pub(super) fn resolve(&mut self) -> Result<Family, NetlinkError> {
        let request = GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(spec::FAMILY.to_owned())],
        };
        let answers = match self.request("get-family", GenlMessage::from_payload(request), 0) {
            Err(NetlinkError::Refused { errno, .. }) if errno == Errno::NOENT.raw_os_error() => {
                return Err(NetlinkError::ModuleNotLoaded);
            }
            other => other?,
        };
        let attributes = answers.into_iter().flat_map(|answer| answer.nlas);
        let mut id = None;
        let mut audit = None;
        for attribute in attributes {
            match attribute {
                GenlCtrlAttrs::FamilyId(number) => id = Some(number),
                GenlCtrlAttrs::McastGroups(groups) => {
                    audit = groups.iter().find_map(|group| audit_group(group))
                }
                _ => {}
            }
        }
        let id = id.ok_or_else(|| NetlinkError::Protocol {
            operation: "get-family",
            detail: "the kernel named the family without its number".to_owned(),
        })?;
        Ok(Family { id, audit })
    }

    /// Sends one request and returns the answers that came before its acknowledgement.
    pub(super) fn request<F>(
        &mut self,
        operation: &'static str,
        message: GenlMessage<F>,
        flags: u16,
    ) -> Result<Vec<F>, NetlinkError>
    where
        F: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Debug,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = NLM_F_REQUEST
            | if flags & NLM_F_DUMP == NLM_F_DUMP {
                flags
            } else {
                flags | NLM_F_ACK
            };
        packet.header.sequence_number = self.sequence;
        let wire = serialize(packet);
        let sent = self
            .socket
            .send_to(&wire, &SocketAddr::new(0, 0), 0)
            .map_err(|source| NetlinkError::Socket { operation, source })?;
        if sent != wire.len() {
            let source = io::Error::new(
                io::ErrorKind::WriteZero,
                format!("{sent} of {} bytes sent", wire.len()),
            );
            return Err(NetlinkError::Socket { operation, source });
        }
        self.collect(operation)
    }

    fn collect<F>(&mut self, operation: &'static str) -> Result<Vec<F>, NetlinkError>
    where
        F: ParseableParametrized<[u8], GenlHeader> + Debug,
    {
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut answers = Vec::new();
        loop {
            if !readable(&self.socket, Some(deadline))
                .map_err(|source| NetlinkError::Socket { operation, source })?
            {
                return Err(NetlinkError::NoAnswer {
                    operation,
                    seconds: ANSWER_WITHIN.as_secs(),
                });
            }
            let datagram = receive(&self.socket)
                .map_err(|source| NetlinkError::Socket { operation, source })?;
            for message in messages::<F>(&datagram) {
                let message =
                    message.map_err(|detail| NetlinkError::Protocol { operation, detail })?;
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner.into_parts().1),
                    NetlinkPayload::Error(error) => match error.code {
                        None => return Ok(answers),
                        Some(code) => {
                            let text =
                                extack(&error.header, message.header.flags & NLM_F_CAPPED != 0);
                            return Err(refusal(operation, code.get(), text));
                        }
                    },
                    NetlinkPayload::Done(done) if done.code == 0 => return Ok(answers),
                    NetlinkPayload::Done(done) => {
                        return Err(refusal(
                            operation,
                            done.code,
                            extack_text(&done.extended_ack),
                        ));
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The number of the audit group, if this is its entry.
fn audit_group(group: &[McastGrpAttrs]) -> Option<u32> {
    let named = group
        .iter()
        .any(|a| matches!(a, McastGrpAttrs::Name(name) if name == spec::GROUP_AUDIT));
    group.iter().find_map(|a| match a {
        McastGrpAttrs::Id(id) if named => Some(*id),
        _ => None,
    })
}

fn serialize<I: NetlinkSerializable>(mut packet: NetlinkMessage<I>) -> Zeroizing<Vec<u8>> {
    packet.finalize();
    let mut wire = Zeroizing::new(vec![0; packet.buffer_len()]);
    packet.serialize(&mut wire);
    wire
}

/// Waits until the socket has something to read; false if the deadline came first.
pub(super) fn readable(socket: &Socket, deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left
            .map(Timespec::try_from)
            .transpose()
            .map_err(io::Error::other)?;
        let mut descriptors = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
        match poll(&mut descriptors, timeout.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Reads one datagram, from the kernel only: other processes may write to the socket as well.
pub(super) fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
    loop {
        match socket.recv_from_full() {
            Ok((datagram, sender)) if sender.port_number() == 0 => return Ok(datagram),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Splits a datagram into its messages.
pub(super) fn messages<F>(
    datagram: &[u8],
) -> impl Iterator<Item = Result<NetlinkMessage<GenlMessage<F>>, String>> + use<'_, F>
where
    F: ParseableParametrized<[u8], GenlHeader> + Debug,
    GenlMessage<F>: NetlinkDeserializable,
{
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = NetlinkBuffer::new_checked(rest)
            .map_err(|e| e.to_string())
            .and_then(|buffer| {
                let length = (buffer.length() as usize)
                    .next_multiple_of(4)
                    .min(rest.len());
                let message = NetlinkMessage::deserialize(rest).map_err(|e| e.to_string());
                rest = &rest[length..];
                message
            });
        if message.is_err() {
            rest = &[];
        }
        Some(message)
    })
}

/// The text of an extended acknowledgement, which follows the echo of the request.
pub(super) fn extack(payload: &[u8], capped: bool) -> Option<String> {
    let echoed = if capped {
        HEADER
    } else {
        let length = u32::from_ne_bytes(payload.get(..4)?.try_into().ok()?) as usize;
        length.next_multiple_of(4)
    };
    extack_text(payload.get(echoed..)?)
}

pub(super) fn extack_text(attributes: &[u8]) -> Option<String> {
    NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|nla| nla.kind() == EXTACK_MESSAGE)
        .and_then(|nla| parse_string(nla.value()).ok())
}

fn refusal(operation: &'static str, code: i32, message: Option<String>) -> NetlinkError {
    let errno = code.saturating_abs();
    if errno == Errno::PERM.raw_os_error() {
        NetlinkError::Permission { operation, message }
    } else {
        NetlinkError::Refused {
            operation,
            errno,
            message,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::netlink::message::Payload;

    /// A refusal as the kernel frames it: error message, echoed header, then the attributes.
    fn refused(code: i32, flags: u16, text: &str) -> Vec<u8> {
        let attribute_length = 4 + text.len() + 1;
        let mut body = Vec::new();
        body.extend(code.to_ne_bytes());
        body.extend(16u32.to_ne_bytes());
        body.extend([0; 12]);
        body.extend(u16::try_from(attribute_length).unwrap().to_ne_bytes());
        body.extend(EXTACK_MESSAGE.to_ne_bytes());
        body.extend(text.as_bytes());
        body.push(0);
        body.resize(body.len().next_multiple_of(4), 0);
        let mut wire = Vec::new();
        wire.extend(u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes());
        wire.extend(2u16.to_ne_bytes());
        wire.extend(flags.to_ne_bytes());
        wire.extend(1u32.to_ne_bytes());
        wire.extend(0u32.to_ne_bytes());
        wire.extend(body);
        wire
    }

    fn only_error(wire: &[u8]) -> (i32, Option<String>) {
        let all: Vec<_> = messages::<Payload>(wire).collect::<Result<_, _>>().unwrap();
        assert_eq!(all.len(), 1);
        let NetlinkPayload::Error(error) = &all[0].payload else {
            panic!("not a refusal: {all:?}")
        };
        (
            error.raw_code(),
            extack(&error.header, all[0].header.flags & NLM_F_CAPPED != 0),
        )
    }

    #[test]
    fn the_modules_words_are_found() {
        let text = "policy version 3 does not rise above 7";
        assert_eq!(
            only_error(&refused(-22, NLM_F_CAPPED, text)),
            (-22, Some(text.to_owned()))
        );
        assert_eq!(
            only_error(&refused(-22, 0, text)),
            (-22, Some(text.to_owned()))
        );
    }

    #[test]
    fn a_refusal_names_operation_words_and_error() {
        let error = refusal(
            "policy-commit",
            -129,
            Some("signature by a foreign key".to_owned()),
        );
        assert_eq!(error.errno(), Some(129));
        let text = error.to_string();
        assert_eq!(
            text,
            "policy-commit: the module refused: signature by a foreign key (errno 129)"
        );
        let silent = refusal("node-del", -2, None).to_string();
        assert!(silent.contains("No such file"), "{silent}");
        assert!(matches!(
            refusal("task-set", -1, None),
            NetlinkError::Permission { .. }
        ));
    }

    #[test]
    fn broken_datagrams_end_in_an_error_not_in_a_loop() {
        let wire = refused(-22, 0, "x");
        for end in 1..wire.len() {
            assert!(messages::<Payload>(&wire[..end]).count() <= 2);
        }
        let zero_length = [0u8; 32];
        assert!(messages::<Payload>(&zero_length).take(10).count() < 10);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(datagram in vec(any::<u8>(), 0..256), capped: bool) {
            prop_assert!(messages::<Payload>(&datagram).count() <= datagram.len());
            extack(&datagram, capped);
        }

        #[test]
        fn no_attributes_make_the_reader_panic(kind in 0u16..32, value in vec(any::<u8>(), 0..64)) {
            let payload = Payload::new(1).bytes(kind, &value);
            let _ = crate::netlink::read_status(payload.attributes());
            let _ = crate::netlink::audit::notice(&Payload::new(13).bytes(kind, &value));
        }
    }
}
