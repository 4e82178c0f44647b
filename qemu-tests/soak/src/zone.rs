//! Processes of zones, which talk within zone 10 and are refused between 20 and 10.

use std::io::{BufRead, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use dsi_proto::netlink::Netlink;

use crate::traffic::{Datagrams, Kind, Servers, Verified, kinds};
use crate::{Outcome, at};

/// The port from which on zone 10 has its servers: by the suite's policy, 7010 to 7019 are its ports.
pub(crate) const BASE: u16 = 7010;
/// Where they are: in the other name space, and in the node map.
pub(crate) const SERVERS: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 88, 0, 2)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 2)),
];
/// Bytes of each connection.
const BYTES: [usize; 3] = [1, 20_000, 700];

/// Whoever writes the lines puts this process into its zone before the first and after each load.
pub(crate) fn serve() -> Outcome<()> {
    println!("ready");
    let mut lines = std::io::stdin().lock().lines();
    let mut line = || lines.next().transpose().map_err(at("standard input"));
    while line()?.is_some() {
        let servers = Servers::open(BASE)?;
        println!("open");
        let over = AtomicBool::new(false);
        let closed = std::thread::scope(|scope| {
            scope.spawn(|| servers.serve(&over));
            let closed = line();
            over.store(true, Ordering::Relaxed);
            closed
        });
        drop(servers);
        closed?;
        println!("closed");
    }
    Ok(())
}

/// Zone 10 must be answered. Another zone sends datagrams that must be refused; who counts refusals sees that.
pub(crate) fn talk(zone: u32) -> Outcome<()> {
    let mut module = Netlink::open().map_err(at("netlink"))?;
    module.task_set(None, zone).map_err(at("task-set"))?;
    drop(module);
    let mut open = Vec::new();
    for ip in SERVERS {
        for kind in kinds() {
            let to = SocketAddr::new(ip, kind.port(BASE, ip));
            let whose = |what: String| format!("zone {zone}, {kind:?} to {to}: {what}");
            if kind == Kind::Udp {
                let mut socket = Datagrams::open(to).map_err(whose)?;
                if zone != 10 {
                    socket.send().map_err(whose)?;
                    continue;
                }
                for len in BYTES {
                    socket.exchange(len).map_err(whose)?;
                }
            } else if zone == 10 {
                let mut stream = Verified::open(to, kind).map_err(whose)?;
                for len in BYTES {
                    stream.exchange(len).map_err(whose)?;
                }
                open.push(stream);
            }
        }
    }
    println!("talked");
    // Its connections live on while the module goes.
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .map_err(at("standard input"))?;
    for mut stream in open {
        stream.exchange(1000)?;
        stream.end()?;
    }
    Ok(())
}
