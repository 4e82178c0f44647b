//! Command lines in the article's style: `-h HOST -p PORT`, so `-h` is no help here; `--help` is.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use crate::Exit;

/// A command line, parsed against the options that a program knows.
#[derive(Debug)]
pub struct Args {
    usage: &'static str,
    values: BTreeMap<&'static str, String>,
}

impl Args {
    /// Parses `args` (without the program's name). `options` take a value, `flags` do not.
    pub fn parse(
        usage: &'static str,
        options: &[&'static str],
        flags: &[&'static str],
        args: impl IntoIterator<Item = String>,
    ) -> Result<Self, Exit> {
        let mut values = BTreeMap::new();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            if arg == "--help" {
                return Err(Exit::new(0, usage));
            }
            if let Some(name) = options.iter().find(|name| **name == arg) {
                let value = args.next().ok_or_else(|| {
                    Exit::new(Exit::USAGE, format!("{arg} needs a value\n{usage}"))
                })?;
                values.insert(*name, value);
            } else if let Some(name) = flags.iter().find(|name| **name == arg) {
                values.insert(*name, String::new());
            } else {
                return Err(Exit::new(
                    Exit::USAGE,
                    format!("unknown argument '{arg}'\n{usage}"),
                ));
            }
        }
        Ok(Self { usage, values })
    }

    /// The value of an option, if it was given.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// True if the flag was given.
    pub fn flag(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The value of an option, parsed, or `default` where it is absent.
    pub fn value<T: FromStr>(&self, name: &str, default: T) -> Result<T, Exit> {
        match self.text(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| {
                Exit::new(
                    Exit::USAGE,
                    format!("{name} '{text}': not a valid value\n{}", self.usage),
                )
            }),
        }
    }

    /// A duration given in milliseconds.
    pub fn millis(&self, name: &str, default: u64) -> Result<Duration, Exit> {
        self.value(name, default).map(Duration::from_millis)
    }

    /// The address that a host option and a port option name together.
    pub fn address(&self, host: &str, port: &str) -> Result<SocketAddr, Exit> {
        let missing =
            |name: &str| Exit::new(Exit::USAGE, format!("{name} is missing\n{}", self.usage));
        let host = self.text(host).ok_or_else(|| missing(host))?;
        if self.text(port).is_none() {
            return Err(missing(port));
        }
        resolve(host, self.value(port, 0)?)
    }
}

/// The first IPv4 address of a host name or literal, with `port`.
pub fn resolve(host: &str, port: u16) -> Result<SocketAddr, Exit> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let mut found = (host, port).to_socket_addrs().map_err(|error| {
        Exit::new(
            Exit::USAGE,
            format!("host '{host}' cannot be resolved: {error}"),
        )
    })?;
    found
        .find(SocketAddr::is_ipv4)
        .ok_or_else(|| Exit::new(Exit::USAGE, format!("host '{host}' has no IPv4 address")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args, Exit> {
        Args::parse(
            "usage: x",
            &["-h", "-p"],
            &["--quiet"],
            args.iter().map(|arg| arg.to_string()),
        )
    }

    #[test]
    fn article_style_address_is_read() {
        let args = parse(&["-h", "10.77.0.1", "-p", "9001"]).unwrap();
        assert_eq!(
            args.address("-h", "-p").unwrap(),
            "10.77.0.1:9001".parse().unwrap()
        );
        assert!(!args.flag("--quiet"));
    }

    #[test]
    fn faults_name_the_argument() {
        assert!(parse(&["-x"]).unwrap_err().message.contains("'-x'"));
        assert!(
            parse(&["-p"])
                .unwrap_err()
                .message
                .contains("-p needs a value")
        );
        let args = parse(&["-h", "10.77.0.1", "-p", "no"]).unwrap();
        assert!(
            args.address("-h", "-p")
                .unwrap_err()
                .message
                .contains("-p 'no'")
        );
        assert!(
            parse(&[])
                .unwrap()
                .address("-h", "-p")
                .unwrap_err()
                .message
                .contains("-h is missing")
        );
    }
}
