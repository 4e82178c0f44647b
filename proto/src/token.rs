//! The join token: what a node needs to know of a cluster that it has never spoken to.
//!
//! One line of text, `dsi1.` and base64url: the servers' addresses, the cluster CA's certificate (so that the
//! new node knows its server from the first packet on), the name that the node will bear, and the one-time
//! secret. Whoever reads the line can join under that name, once, until it expires; hence files of it are
//! private, its `Debug` shows no secret, and servers store only a hash.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message as _;
use zeroize::Zeroizing;

use crate::address::{AddressError, ServerAddress};

const PREFIX: &str = "dsi1.";

/// Longest token that is looked at.
const MAX_LENGTH: usize = 16 * 1024;

/// Bytes of randomness in a token.
pub const SECRET_LEN: usize = 32;

/// The part of a join token that only the node and the administrator who made it know.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret(Zeroizing<[u8; SECRET_LEN]>);

impl TokenSecret {
    /// A new one, from the operating system's randomness.
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; SECRET_LEN]);
        getrandom::fill(bytes.as_mut()).expect("the operating system gives randomness");
        Self(bytes)
    }

    /// The bytes, for hashing.
    pub fn as_bytes(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// The text form, as it travels in `JoinRequest.token`.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.as_bytes()))
    }
}

impl FromStr for TokenSecret {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut bytes = Zeroizing::new([0; SECRET_LEN]);
        match URL_SAFE_NO_PAD.decode_slice(text, bytes.as_mut()) {
            Ok(SECRET_LEN) => Ok(Self(bytes)),
            _ => Err(TokenError::Secret),
        }
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(..)")
    }
}

/// A text that is not a join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is something else, or of a version that this build does not know.
    #[error(
        "this is not a join token: it does not begin with `dsi1.`; make one with `dsictl node join-token`"
    )]
    Prefix,
    /// It is longer than any token.
    #[error("this is not a join token: it is longer than {MAX_LENGTH} characters")]
    Length,
    /// Characters are missing or wrong.
    #[error("the join token is damaged or incomplete; copy it again, whole, on one line")]
    Damaged,
    /// The secret is not 32 bytes of base64url.
    #[error("the join token's secret is damaged; copy the token again, whole, on one line")]
    Secret,
    /// A server's address in it is none.
    #[error("the join token names a server wrongly: {0}")]
    Server(#[from] AddressError),
    /// It names no server.
    #[error("the join token names no server")]
    NoServer,
}

/// What a new node is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Where the servers answer; never empty.
    pub servers: Vec<ServerAddress>,
    /// The name that the node will bear.
    pub name: String,
    /// The one-time secret.
    pub secret: TokenSecret,
    /// The cluster CA's certificate, DER.
    pub ca_der: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(string, repeated, tag = "1")]
    servers: Vec<String>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "vec", tag = "3")]
    secret: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    ca_der: Vec<u8>,
}

impl JoinToken {
    /// The one line of text.
    pub fn to_text(&self) -> Zeroizing<String> {
        let wire = Wire {
            servers: self.servers.iter().map(ToString::to_string).collect(),
            name: self.name.clone(),
            secret: self.secret.as_bytes().to_vec(),
            ca_der: self.ca_der.clone(),
        };
        let bytes = Zeroizing::new(wire.encode_to_vec());
        let _secret = Zeroizing::new(wire.secret);
        Zeroizing::new(format!(
            "{PREFIX}{}",
            URL_SAFE_NO_PAD.encode(bytes.as_slice())
        ))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > MAX_LENGTH {
            return Err(TokenError::Length);
        }
        let body = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let bytes = Zeroizing::new(
            URL_SAFE_NO_PAD
                .decode(body)
                .map_err(|_| TokenError::Damaged)?,
        );
        let wire = Wire::decode(bytes.as_slice()).map_err(|_| TokenError::Damaged)?;
        let secret = Zeroizing::new(wire.secret);
        let secret = Zeroizing::new(
            <[u8; SECRET_LEN]>::try_from(secret.as_slice()).map_err(|_| TokenError::Secret)?,
        );
        if wire.servers.is_empty() {
            return Err(TokenError::NoServer);
        }
        if wire.ca_der.is_empty() || wire.name.is_empty() {
            return Err(TokenError::Damaged);
        }
        Ok(Self {
            servers: wire
                .servers
                .iter()
                .map(|server| server.parse())
                .collect::<Result<_, _>>()?,
            name: wire.name,
            secret: TokenSecret(secret),
            ca_der: wire.ca_der,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            servers: vec![
                "ss.example:7430".parse().unwrap(),
                "[::1]:1".parse().unwrap(),
            ],
            name: "munster".into(),
            secret: TokenSecret::generate(),
            ca_der: vec![0x30, 1, 2, 3],
        }
    }

    #[test]
    fn token_survives_the_trip_with_white_space() {
        let token = token();
        let text = format!("  {}\n", *token.to_text());
        assert_eq!(text.parse::<JoinToken>().unwrap(), token);
        assert_eq!(
            token.secret.to_text().parse::<TokenSecret>().unwrap(),
            token.secret
        );
    }

    #[test]
    fn every_truncation_is_refused() {
        let text = token().to_text();
        for end in 0..text.len() {
            assert!(text[..end].parse::<JoinToken>().is_err(), "{end}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_their_reason() {
        assert_eq!("hello".parse::<JoinToken>(), Err(TokenError::Prefix));
        assert_eq!("dsi1.!".parse::<JoinToken>(), Err(TokenError::Damaged));
        assert_eq!(
            "x".repeat(MAX_LENGTH + 1).parse::<JoinToken>(),
            Err(TokenError::Length)
        );
        assert_eq!("AAAA".parse::<TokenSecret>(), Err(TokenError::Secret));
        let mut no_server = token();
        no_server.servers.clear();
        assert_eq!(
            no_server.to_text().parse::<JoinToken>(),
            Err(TokenError::NoServer)
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        let token = token();
        let shown = format!("{token:?}");
        assert!(!shown.contains(token.secret.to_text().as_str()));
        assert!(shown.contains("TokenSecret(..)"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_token_or_an_error(text in "(dsi1\\.)?[ -~]{0,200}") {
            let _ = text.parse::<JoinToken>();
        }

        #[test]
        fn any_bytes_behind_the_prefix_are_a_token_or_an_error(bytes: Vec<u8>) {
            let _ = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)).parse::<JoinToken>();
        }
    }
}
