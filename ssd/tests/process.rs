//! The server as a process: what it tells the service manager, how it stops, and what it says to a wrong start.

use std::io::Read as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use ssd::bootstrap::{self, NewCluster};
use tempfile::TempDir;

/// How long anything may take before a test gives up; nothing takes nearly that long.
const DEADLINE: Duration = Duration::from_secs(60);

fn ssd(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ssd"));
    command
        .args([
            "--listen",
            "127.0.0.1:0",
            "--metrics",
            "127.0.0.1:0",
            "--dir",
        ])
        .arg(directory);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn cluster() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let servers = ["127.0.0.1".parse().unwrap()];
    let new = NewCluster {
        name: "test",
        servers: &servers,
        administrator: "anna",
    };
    bootstrap::init(
        &directory.path().join("ss"),
        &directory.path().join("admin"),
        &new,
        SystemTime::now(),
    )
    .unwrap();
    directory
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Gone already, it needs no killing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn service_manager_hears_ready_alive_and_stopping() {
    let directory = cluster();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let hear = || {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).expect("the daemon says something");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let started = ssd(&directory.path().join("ss"))
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .spawn()
        .unwrap();
    let mut process = Killed(started);
    let first = hear();
    assert!(
        first.starts_with("READY=1\n") && first.contains("STATUS=answering on 127.0.0.1:"),
        "{first}"
    );
    assert_eq!(hear().trim(), "WATCHDOG=1");
    let stopped = Command::new("kill")
        .args(["-TERM", &process.0.id().to_string()])
        .status()
        .unwrap();
    assert!(stopped.success());
    let last = std::iter::repeat_with(hear)
        .find(|said| said.trim() != "WATCHDOG=1")
        .unwrap();
    assert_eq!(last.trim(), "STOPPING=1");
    assert!(process.0.wait().unwrap().success());
    let mut log = String::new();
    process
        .0
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    assert!(
        log.contains("ssd answers") && log.contains("stopped"),
        "{log}"
    );
}

#[test]
fn wrong_starts_fail_with_their_place() {
    let directory = cluster();
    let server = directory.path().join("ss");
    let missing = failure(&ssd(&directory.path().join("nowhere")).output().unwrap());
    assert!(
        missing.contains("nowhere") && missing.contains("dsictl cluster init"),
        "{missing}"
    );

    let config = server.join("ssd.toml");
    std::fs::write(&config, "listen = \"[::]:7430\"\nlisen = 3\n").unwrap();
    let syntax = failure(&ssd(&server).output().unwrap());
    assert!(
        syntax.contains("ssd.toml") && syntax.contains("line 2") && syntax.contains("lisen"),
        "{syntax}"
    );
    std::fs::remove_file(&config).unwrap();

    use std::os::unix::fs::PermissionsExt as _;
    let key = server.join("ca.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let open = failure(&ssd(&server).output().unwrap());
    assert!(
        open.contains("ca.key") && open.contains("chmod 600"),
        "{open}"
    );
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();

    std::fs::write(server.join("store.redb"), vec![0x5a; 65_536]).unwrap();
    let store = failure(&ssd(&server).output().unwrap());
    assert!(store.contains("store.redb"), "{store}");

    let usage = Command::new(env!("CARGO_BIN_EXE_ssd"))
        .arg("--no-such-option")
        .output()
        .unwrap();
    assert_eq!(usage.status.code(), Some(2));
}
