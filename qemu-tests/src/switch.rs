//! The network between the nodes: a learning Ethernet switch in the harness' own process.
//!
//! QEMU hands each frame over as one datagram on a Unix socket in the run's directory; nothing is
//! bound on the host's network and no right is needed. Every frame is written to the capture before it
//! is forwarded. A frame that a node does not take within [`PATIENCE`] is dropped, as wires do.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::fault::Fault;
use crate::pcap::{Frame, Writer, read};

/// How long a node may take to accept a frame: longer than a busy host holds its process up.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest frame, with room for a large virtual MTU.
const MAX_FRAME: usize = 65536;

type Mac = [u8; 6];

/// One node's socket pair: frames come in on `socket`, and go out to the path `peer`.
struct Port {
    socket: UnixDatagram,
    peer: PathBuf,
    up: AtomicBool,
}

/// Which frames the network loses.
type Loss = Box<dyn FnMut(&Frame) -> bool + Send>;

struct Shared {
    ports: Vec<Port>,
    table: Mutex<HashMap<Mac, usize>>,
    capture: Mutex<Writer>,
    loss: Mutex<Option<Loss>>,
    dropped: AtomicU64,
    stop: AtomicBool,
}

/// The switch; it stops when it is dropped.
pub struct Switch {
    shared: Arc<Shared>,
    names: Vec<String>,
    threads: Vec<JoinHandle<()>>,
}

/// Name of the socket that the switch reads for a node.
pub fn switch_end(node: &str) -> String {
    format!("{node}.net")
}

/// Name of the socket that QEMU reads for a node.
pub fn node_end(node: &str) -> String {
    format!("{node}.nic")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Switch {
    /// Starts a switch with a port for each name. `sockets` is a short path of the directory for the
    /// sockets, `capture` the file for all frames.
    pub fn start(names: &[String], sockets: &Path, capture: &Path) -> Result<Self, Fault> {
        let mut ports = Vec::new();
        for name in names {
            let path = sockets.join(switch_end(name));
            let _ = std::fs::remove_file(&path);
            let socket = UnixDatagram::bind(&path).map_err(Fault::host("bind", &path))?;
            socket
                .set_write_timeout(Some(PATIENCE))
                .map_err(Fault::host("set a time-out on", &path))?;
            ports.push(Port {
                socket,
                peer: sockets.join(node_end(name)),
                up: AtomicBool::new(true),
            });
        }
        let shared = Arc::new(Shared {
            ports,
            table: Mutex::default(),
            capture: Mutex::new(Writer::create(capture).map_err(Fault::host("create", capture))?),
            loss: Mutex::default(),
            dropped: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let threads = (0..names.len())
            .map(|port| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.serve(port))
            })
            .collect();
        Ok(Self {
            shared,
            names: names.to_vec(),
            threads,
        })
    }

    /// Plugs a node's cable in or out.
    pub fn set_link(&self, node: &str, up: bool) {
        if let Some(port) = self.names.iter().position(|name| name == node) {
            self.shared.ports[port].up.store(up, Ordering::Relaxed);
        }
    }

    /// Loses the frames that `loss` says from now on; they are in the capture nevertheless.
    pub fn lose(&self, loss: impl FnMut(&Frame) -> bool + Send + 'static) {
        *lock(&self.shared.loss) = Some(Box::new(loss));
    }

    /// Loses none any more.
    pub fn lose_none(&self) {
        *lock(&self.shared.loss) = None;
    }

    /// Puts a frame on the network as a machine outside of the cluster would.
    pub fn inject(&self, frame: &[u8]) {
        self.shared.forward(None, frame);
    }

    /// A place in the capture; frames from then on are what [`Switch::frames_since`] returns.
    pub fn mark(&self) -> u64 {
        lock(&self.shared.capture).mark()
    }

    /// The frames that crossed the switch since a mark.
    pub fn frames_since(&self, mark: u64) -> Result<Vec<Frame>, Fault> {
        let path = self.capture_path();
        read(&path, mark).map_err(Fault::host("read", &path))
    }

    /// The capture file, in pcap format.
    pub fn capture_path(&self) -> PathBuf {
        lock(&self.shared.capture).path().to_owned()
    }

    /// Frames that a node did not take in time.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for port in &self.shared.ports {
            // Wakes the thread that reads it.
            let _ = port.socket.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn serve(&self, port: usize) {
        let mut buffer = vec![0; MAX_FRAME];
        while !self.stop.load(Ordering::Relaxed) {
            match self.ports[port].socket.recv(&mut buffer) {
                Ok(0) => {}
                Ok(len) if self.ports[port].up.load(Ordering::Relaxed) => {
                    self.forward(Some(port), &buffer[..len])
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn forward(&self, from: Option<usize>, frame: &[u8]) {
        let (Some(to), Some(source)) = (mac_at(frame, 0), mac_at(frame, 6)) else {
            return;
        };
        if lock(&self.capture).frame(frame).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(loss) = lock(&self.loss).as_mut()
            && loss(&Frame(frame.to_vec()))
        {
            return;
        }
        let known = {
            let mut table = lock(&self.table);
            if let Some(from) = from {
                table.insert(source, from);
            }
            table.get(&to).copied()
        };
        let group = to[0] & 1 == 1;
        for (port, _) in self
            .ports
            .iter()
            .enumerate()
            .filter(|(port, _)| Some(*port) != from)
        {
            if group || known.is_none_or(|known| known == port) {
                self.send(port, frame);
            }
        }
    }

    fn send(&self, port: usize, frame: &[u8]) {
        let port = &self.ports[port];
        if port.up.load(Ordering::Relaxed) && port.socket.send_to(frame, &port.peer).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn mac_at(frame: &[u8], at: usize) -> Option<Mac> {
    frame.get(at..at + 6)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(to: u8, from: u8) -> Vec<u8> {
        vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0, 1, 2]
    }

    #[test]
    fn frames_are_flooded_until_the_place_is_learned() {
        let dir = std::env::temp_dir().join(format!("dsi-switch-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let names = ["a", "b", "c"].map(String::from);
        let switch = Switch::start(&names, &dir, &dir.join("wire.pcap")).unwrap();
        let nics = names.each_ref().map(|name| {
            let nic = UnixDatagram::bind(dir.join(node_end(name))).unwrap();
            nic.connect(dir.join(switch_end(name))).unwrap();
            nic.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            nic
        });
        let mut buffer = [0; 64];

        nics[0].send(&frame(2, 1)).unwrap();
        assert_eq!(nics[1].recv(&mut buffer).unwrap(), 16);
        assert_eq!(nics[2].recv(&mut buffer).unwrap(), 16);

        // The answer goes to a alone: the next thing that c hears is the injected frame.
        nics[1].send(&frame(1, 2)).unwrap();
        assert_eq!(nics[0].recv(&mut buffer).unwrap(), 16);
        switch.inject(&frame(3, 9));
        nics[2].recv(&mut buffer).unwrap();
        assert_eq!(buffer[11], 9);

        assert_eq!(switch.frames_since(0).unwrap().len(), 3);
        assert_eq!(switch.dropped(), 0);
        drop(switch);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
