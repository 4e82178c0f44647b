//! The datagrams of the quotation service, one line of text each.

use std::fmt;

/// Longest datagram that the service sends or accepts.
pub const MAX_LEN: usize = 512;

/// A request or its answer. `id` is the sender's own number, returned with the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A client, or an entry point on behalf of one, asks for the quotation of a company.
    Request {
        /// The asker's number for this request.
        id: u64,
        /// The company's name; may hold spaces.
        company: String,
    },
    /// The quotation.
    Quote {
        /// The number of the request.
        id: u64,
        /// The price.
        price: u32,
        /// The company's name.
        company: String,
    },
    /// No quotation can be had.
    Unavailable {
        /// The number of the request.
        id: u64,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { id, company } => write!(f, "REQUEST {id} {company}"),
            Self::Quote { id, price, company } => write!(f, "QUOTE {id} {price} {company}"),
            Self::Unavailable { id, reason } => write!(f, "UNAVAILABLE {id} {reason}"),
        }
    }
}

impl Message {
    /// Reads a datagram; `None` if it is none of this service.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(datagram).ok()?;
        let (kind, rest) = text.split_once(' ')?;
        let (id, rest) = rest.split_once(' ')?;
        let id = id.parse().ok()?;
        match kind {
            "REQUEST" => Some(Self::Request {
                id,
                company: rest.to_owned(),
            }),
            "QUOTE" => {
                let (price, company) = rest.split_once(' ')?;
                Some(Self::Quote {
                    id,
                    price: price.parse().ok()?,
                    company: company.to_owned(),
                })
            }
            "UNAVAILABLE" => Some(Self::Unavailable {
                id,
                reason: rest.to_owned(),
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let messages = [
            Message::Request {
                id: 7,
                company: "Ericsson".into(),
            },
            Message::Quote {
                id: 7,
                price: 83,
                company: "Two Words".into(),
            },
            Message::Unavailable {
                id: 9,
                reason: "the back end does not answer".into(),
            },
        ];
        for message in messages {
            assert_eq!(
                Message::parse(message.to_string().as_bytes()),
                Some(message)
            );
        }
    }

    #[test]
    fn foreign_datagrams_are_ignored() {
        for bytes in [
            &b""[..],
            b"REQUEST",
            b"REQUEST x y",
            b"QUOTE 1 Ericsson",
            b"\xff\xfe 1 2",
            b"HELLO 1 2",
        ] {
            assert_eq!(Message::parse(bytes), None, "{bytes:?}");
        }
    }
}
