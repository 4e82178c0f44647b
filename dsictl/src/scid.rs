// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! A ScID on the command line: a number, or a name that a policy gives.

use std::{fmt, path::Path, str::FromStr};

use dsi_engine::{ScId, XattrError, xattr};

use crate::{commands::policy, failure::Failure};

/// A ScID as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScidArgument {
    /// A number.
    Number(ScId),
    /// A name.
    Name(String),
}

/// Neither a number that a ScID can have, nor a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; a ScID is a number up to 4294967294, or a name of the policy")]
pub struct NotAScid(XattrError);

impl FromStr for ScidArgument {
    type Err = NotAScid;

    fn from_str(text: &str) -> Result<Self, NotAScid> {
        if text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return Ok(Self::Name(text.to_owned()));
        }
        xattr::parse(text.as_bytes())
            .map(Self::Number)
            .map_err(NotAScid)
    }
}

impl fmt::Display for ScidArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(scid) => write!(f, "{}", scid.0),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl ScidArgument {
    /// The number, looked up in the policy if it is a name.
    pub fn resolve(&self, policy: Option<&Path>) -> Result<ScId, Failure> {
        match (self, policy) {
            (Self::Number(scid), _) => Ok(*scid),
            (Self::Name(name), None) if name == "default" => Ok(ScId::DEFAULT),
            (Self::Name(name), None) => Err(Failure::NameWithoutPolicy { name: name.clone() }),
            (Self::Name(name), Some(file)) => {
                let document = policy::parse_file(file)?;
                document
                    .contexts
                    .iter()
                    .find(|context| context.name == *name)
                    .map(|context| context.scid)
                    .ok_or_else(|| Failure::UnknownName {
                        name: name.clone(),
                        policy: file.to_owned(),
                        known: document
                            .contexts
                            .iter()
                            .map(|context| context.name.clone())
                            .collect(),
                    })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_told_apart() {
        assert_eq!("10".parse(), Ok(ScidArgument::Number(ScId(10))));
        assert_eq!(
            "phone-mania".parse(),
            Ok(ScidArgument::Name("phone-mania".to_owned()))
        );
        for nonsense in ["", "010", "+1", "1 ", "4294967295", "99999999999"] {
            assert!(nonsense.parse::<ScidArgument>().is_err(), "{nonsense:?}");
        }
    }
}
