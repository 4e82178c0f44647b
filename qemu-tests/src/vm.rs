//! One QEMU process. It must not outlive the harness: the kernel kills it when the thread that started
//! it ends (setpriv --pdeathsig), and `Drop` does so before.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::fault::Fault;
use crate::images::Images;
use crate::protocol::PORT;
use crate::switch::{node_end, switch_end};

/// The life of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// QEMU runs; the guest's agent has not reported yet.
    Booting,
    /// The agent has reported.
    Ready,
    /// The harness ended it.
    Stopped,
    /// QEMU or the agent was lost; a fault.
    Lost,
}

/// What a guest is made of.
#[derive(Clone, Debug)]
pub struct VmSpec {
    /// Host name.
    pub name: String,
    /// Its place in the cluster, from 1; MAC address and IP follow from it.
    pub index: u8,
    /// Its address on the cluster's network.
    pub ip: Ipv4Addr,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Boots the kernel as it is packaged, which unpacks itself to a random address.
    pub kaslr: bool,
    /// Keeps its memory in a file.
    pub readable_memory: bool,
    /// Words added to the kernel's command line.
    pub kernel_args: Vec<String>,
    /// Words added to QEMU's command line.
    pub qemu_args: Vec<String>,
    /// All nodes of the cluster, for /etc/hosts.
    pub hosts: Vec<(String, Ipv4Addr)>,
}

/// A running QEMU.
#[derive(Debug)]
pub struct Vm {
    name: String,
    child: Child,
    log: PathBuf,
}

/// The guests' kernel command line. A stall on a busy, emulating host is no fault of the guest, so its
/// watchdogs are patient (kernels without the one for blocked tasks say so, and boot); everything that the kernel says at
/// level info goes to the console.
const KERNEL_ARGS: &str = "console=ttyS0 loglevel=7 printk.devkmsg=on panic=-1 mitigations=off random.trust_cpu=on \
                           no_timer_check tsc=reliable rcupdate.rcu_cpu_stall_timeout=120 watchdog_thresh=60 \
                           sysctl.kernel.hung_task_timeout_secs=600";

impl Vm {
    /// Starts QEMU in `dir`, where the switch's sockets are. Returns the control socket with it. The
    /// calling thread must live as long as the guest is to.
    pub fn start(
        spec: &VmSpec,
        images: &Images,
        payload: &Path,
        dir: &Path,
    ) -> Result<(Self, UnixStream), Fault> {
        let name = &spec.name;
        let node_dir = dir.join(name);
        std::fs::create_dir_all(&node_dir).map_err(Fault::host("create", &node_dir))?;
        let log = node_dir.join("qemu.log");
        let output = File::create(&log).map_err(Fault::host("create", &log))?;
        let errors = output.try_clone().map_err(Fault::host("open", &log))?;
        let (control, guest_end) =
            UnixStream::pair().map_err(Fault::host("make the control socket of", &node_dir))?;

        let hosts: Vec<String> = spec
            .hosts
            .iter()
            .map(|(name, ip)| format!("{name}:{ip}"))
            .collect();
        let append = format!(
            "{KERNEL_ARGS} dsi.node={name} dsi.addr={}/24 dsi.hosts={} {}",
            spec.ip,
            hosts.join(","),
            spec.kernel_args.join(" ")
        );
        let disk = |id: &str, image: &Path| {
            let file = image.display().to_string().replace(',', ",,");
            [
                "-drive".into(),
                format!("file={file},format=raw,if=none,id={id},readonly=on,cache=unsafe"),
                "-device".into(),
                format!("virtio-blk-pci,drive={id},serial={id}"),
            ]
        };
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args([
                "-name",
                name,
                "-machine",
                "pc,hpet=off",
                // One thread for all of a guest's processors: QEMU 7.2 with a thread for each can run stale
                // code where a kernel patches itself, and the bare kernel then panics with "Oops: int3".
                "-accel",
                "tcg,thread=single",
                "-cpu",
                "max",
            ])
            .args([
                "-smp",
                &spec.cpus.to_string(),
                "-m",
                &spec.memory_mib.to_string(),
            ])
            .arg("-kernel")
            .arg(if spec.kaslr {
                &images.vmlinuz
            } else {
                &images.vmlinux
            })
            .arg("-initrd")
            .arg(&images.initramfs)
            .args(["-append", append.trim()])
            .args([
                "-chardev",
                &format!("file,id=console,path={name}/console.log"),
                "-serial",
                "chardev:console",
            ])
            .args([
                "-chardev",
                "socket,id=control,fd=0",
                "-device",
                "virtio-serial-pci",
            ])
            .args([
                "-device",
                &format!("virtserialport,chardev=control,name={PORT}"),
            ])
            .args(disk("base", &images.base))
            .args(disk("kernel", &images.kernel))
            .args(disk("payload", payload))
            .args(
                images
                    .programs
                    .iter()
                    .flat_map(|image| disk("programs", image)),
            )
            .args([
                "-netdev",
                &format!(
                    "dgram,id=lan,local.type=unix,local.path={},remote.type=unix,remote.path={}",
                    node_end(name),
                    switch_end(name)
                ),
            ])
            .args([
                "-device",
                &format!("virtio-net-pci,netdev=lan,mac={},romfile=", mac(spec.index)),
            ])
            .args(
                spec.readable_memory
                    .then(|| ram(spec))
                    .into_iter()
                    .flatten(),
            )
            .args(&spec.qemu_args)
            .current_dir(dir)
            .stdin(Stdio::from(OwnedFd::from(guest_end)))
            .stdout(output)
            .stderr(errors);
        let child = command.spawn().map_err(|error| Fault::Qemu {
            node: name.clone(),
            detail: format!("cannot be started: {error}; setpriv (util-linux) and qemu-system-x86_64 are needed: make setup"),
        })?;
        Ok((
            Self {
                name: name.clone(),
                child,
                log,
            },
            control,
        ))
    }

    /// Fails if QEMU has ended.
    pub fn check_alive(&mut self) -> Result<(), Fault> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(&status.to_string())),
            Err(error) => Err(self.ended(&error.to_string())),
        }
    }

    fn ended(&self, how: &str) -> Fault {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        Fault::Qemu {
            node: self.name.clone(),
            detail: format!("it ended ({how}); it said: {}", said.trim()),
        }
    }

    /// QEMU's process id on the host.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the guest at once, as a power cut does.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Few have one.
        let _ = std::fs::remove_file(self.log.with_file_name(MEMORY));
    }
}

/// Name of the file of a guest's memory.
const MEMORY: &str = "memory";

/// Makes a guest's memory that file, where QEMU runs.
fn ram(spec: &VmSpec) -> [String; 4] {
    let file = format!("{}/{MEMORY}", spec.name);
    [
        "-object".into(),
        format!(
            "memory-backend-file,id=ram,size={}M,mem-path={file},share=on",
            spec.memory_mib
        ),
        "-machine".into(),
        "memory-backend=ram".into(),
    ]
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The MAC address of the node with this index.
pub fn mac(index: u8) -> String {
    format!("52:54:00:77:00:{index:02x}")
}
