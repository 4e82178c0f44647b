//! What guests boot from: kernel and root come from `scripts/guest-image`; the payload, with what this
//! checkout builds, is made here and only when something in it has changed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::fault::Fault;
use crate::suite::Need;

/// The images of one kernel release.
#[derive(Clone, Debug)]
pub struct Images {
    /// The stock kernel, as packaged.
    pub vmlinuz: PathBuf,
    /// The same, unpacked.
    pub vmlinux: PathBuf,
    /// Loads the drivers and lays the overlay.
    pub initramfs: PathBuf,
    /// Debian's programs.
    pub base: PathBuf,
    /// The kernel's modules and its netlink client.
    pub kernel: PathBuf,
    /// The kernel's release.
    pub release: String,
    /// Debian's servers, for suites that need them: a disk that nothing mounts by itself.
    pub programs: Option<PathBuf>,
}

/// The checkout that this was built from.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The directory of this program, where Cargo puts the workspace's other programs, too.
pub fn program_dir() -> Result<PathBuf, Fault> {
    let exe = std::env::current_exe().map_err(Fault::host("find", Path::new("/proc/self/exe")))?;
    let dir = exe.parent().unwrap_or(Path::new("/"));
    // Cargo's own tests run in deps/.
    let dir = if dir.ends_with("deps") {
        dir.parent().unwrap_or(dir)
    } else {
        dir
    };
    Ok(dir.to_owned())
}

fn prepare_fault(what: &str, detail: impl Into<String>) -> Fault {
    Fault::Prepare {
        what: what.into(),
        detail: detail.into(),
    }
}

/// Runs a program whose messages the user is to see, and returns its standard output.
fn run(command: &mut Command) -> Result<String, Fault> {
    let what = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| prepare_fault(&what, error.to_string()))?;
    if !output.status.success() {
        return Err(prepare_fault(
            &what,
            format!("{}; see above", output.status),
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Images {
    /// Makes or finds the images for a kernel release, or for the newest one.
    pub fn prepare(release: &str) -> Result<Self, Fault> {
        let script = repository().join("scripts/guest-image");
        let output = run(Command::new(&script).arg(release))?;
        let values: BTreeMap<&str, &str> = output
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        let get = |name: &str| {
            values
                .get(name)
                .map(|value| (*value).to_owned())
                .ok_or_else(|| {
                    prepare_fault(
                        "scripts/guest-image",
                        format!("it printed no {name}=; it said: {output}"),
                    )
                })
        };
        Ok(Self {
            vmlinuz: get("vmlinuz")?.into(),
            vmlinux: get("vmlinux")?.into(),
            initramfs: get("initramfs")?.into(),
            base: get("base")?.into(),
            kernel: get("kernel")?.into(),
            release: get("release")?,
            programs: None,
        })
    }
}

impl Images {
    /// Whether the kernel is one of `scripts/debug-kernel`, with its checkers on.
    pub fn is_debug(&self) -> bool {
        self.release.contains("-debug-")
    }

    /// Adds what suites with these needs have besides.
    pub fn with(mut self, needs: &[Need]) -> Result<Self, Fault> {
        if needs.contains(&Need::Programs) {
            self.programs = Some(made_by("guest-programs", &[])?);
        }
        Ok(self)
    }
}

/// Builds dsm.ko for a release and returns its path.
pub fn build_module(release: &str) -> Result<PathBuf, Fault> {
    let script = repository().join("scripts/build-module");
    let output = run(Command::new(&script).arg(release))?;
    output
        .lines()
        .last()
        .map(PathBuf::from)
        .filter(|path| path.exists())
        .ok_or_else(|| {
            prepare_fault(
                "scripts/build-module",
                format!("it printed no path of a module: {output}"),
            )
        })
}

/// Runs a script that makes something, and returns the path that it prints.
fn made_by(script: &str, args: &[&str]) -> Result<PathBuf, Fault> {
    let output = run(Command::new(repository().join("scripts").join(script)).args(args))?;
    let path = output.lines().last().map(PathBuf::from);
    path.filter(|path| path.exists())
        .ok_or_else(|| prepare_fault(script, format!("it printed no path: {output}")))
}

/// Builds the programs that the guests need, in the profile that this program was built in. The whole workspace, as
/// the scripts do: for a part of it cargo would build most dependencies again, with that part's features.
pub fn build_programs() -> Result<(), Fault> {
    let release = program_dir()?.ends_with("release");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(repository())
        .args(["build", "--quiet", "--locked", "--workspace", "--bins"]);
    // Those of a debug build are the host tests' own; see scripts/lib.sh.
    cargo.arg(if release { "--release" } else { "--tests" });
    run(&mut cargo).map(drop)
}

/// The files of the payload disk: where in the guest, and from which file of the host.
#[derive(Debug, Default)]
pub struct Payload {
    files: BTreeMap<String, PathBuf>,
}

/// Where programs are in the guest.
pub const GUEST_BIN: &str = "/opt/dsi/bin";
/// Where the module is in the guest.
pub const GUEST_MODULE: &str = "/opt/dsi/dsm.ko";
/// Where the spec of the module's netlink family is in the guest.
pub const GUEST_SPEC: &str = "/opt/ynl/specs/dsi.yaml";
/// Where the policies of the tests and of the documentation are in the guest.
pub const GUEST_POLICIES: &str = "/opt/dsi/policies";
/// Where the kernel's selftests are in the guest.
pub const GUEST_SELFTESTS: &str = "/opt/selftests";

impl Payload {
    /// What suites with these needs find in their guests.
    pub fn for_needs(needs: &[Need], release: &str) -> Result<Self, Fault> {
        let (repository, programs) = (repository(), program_dir()?);
        let mut payload = Self::default();
        payload.add(
            "/opt/dsi/libexec/init",
            repository.join("qemu-tests/guest/init"),
        );
        payload.add(
            "/opt/dsi/libexec/ynl-do",
            repository.join("qemu-tests/guest/ynl-do"),
        );
        payload.add(
            "/opt/dsi/libexec/dsi-guest-agent",
            programs.join("dsi-guest-agent"),
        );
        let mut names = vec![
            "PhoneManiaEP",
            "PhoneManiaBE",
            "RingBellEP",
            "RingBellBE",
            "TelecomClient",
            "dsi-traffic",
            "dsi-attack",
            "dsi-sock-probe",
            "dsi-escape",
            "dsi-soak",
        ];
        if needs.contains(&Need::Servers) {
            names.extend(["smd", "ssd", "dsictl"]);
        }
        for name in names {
            payload.add(&format!("{GUEST_BIN}/{name}"), programs.join(name));
        }
        if needs.contains(&Need::Module) {
            payload.add(GUEST_MODULE, build_module(release)?);
            payload.add(GUEST_SPEC, repository.join("proto/netlink/dsi.yaml"));
        }
        if needs.contains(&Need::Selftests) {
            payload.add_dir(GUEST_SELFTESTS, &made_by("selftests", &[release])?)?;
        }
        for dir in ["dsp-schema/examples", "qemu-tests/policies"] {
            payload.add_dir(GUEST_POLICIES, &repository.join(dir))?;
        }
        Ok(payload)
    }

    /// Adds a file.
    pub fn add(&mut self, guest: &str, host: impl Into<PathBuf>) {
        self.files.insert(guest.to_owned(), host.into());
    }

    /// Adds the files of a directory and of those in it, if there is one.
    pub fn add_dir(&mut self, guest: &str, host: &Path) -> Result<(), Fault> {
        if !host.is_dir() {
            return Ok(());
        }
        for entry in fs::read_dir(host).map_err(Fault::host("read", host))? {
            let entry = entry.map_err(Fault::host("read", host))?;
            let name = format!("{guest}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_file() {
                self.add(&name, entry.path());
            } else {
                self.add_dir(&name, &entry.path())?;
            }
        }
        Ok(())
    }

    /// Makes the disk image in `dir`, or returns the one of the last run if nothing has changed.
    pub fn image(&self, dir: &Path) -> Result<PathBuf, Fault> {
        let (image, list, tree) = (
            dir.join("payload.ext4"),
            dir.join("payload.list"),
            dir.join("payload.tree"),
        );
        let mut wanted = String::new();
        for (guest, host) in &self.files {
            let file = fs::metadata(host).map_err(Fault::host("find", host))?;
            let _ = writeln!(
                wanted,
                "{guest} {} {} {}.{:09}",
                host.display(),
                file.len(),
                file.mtime(),
                file.mtime_nsec()
            );
        }
        if image.exists() && fs::read_to_string(&list).is_ok_and(|list| list == wanted) {
            return Ok(image);
        }
        for old in [&image, &list] {
            let _ = fs::remove_file(old);
        }
        let _ = fs::remove_dir_all(&tree);
        let mut bytes = 0;
        for (guest, host) in &self.files {
            let staged = tree.join(guest.trim_start_matches('/'));
            if let Some(parent) = staged.parent() {
                fs::create_dir_all(parent).map_err(Fault::host("create", parent))?;
            }
            stage(host, &staged)?;
            bytes += fs::metadata(&staged)
                .map_err(Fault::host("find", &staged))?
                .len();
        }
        let mib = bytes / (1 << 20);
        run(Command::new("mke2fs")
            .args([
                "-q",
                "-t",
                "ext4",
                "-O",
                "^has_journal",
                "-E",
                "root_owner=0:0",
                "-d",
            ])
            .arg(&tree)
            .arg(&image)
            .arg(format!("{}M", mib + mib / 8 + 16)))?;
        fs::remove_dir_all(&tree).map_err(Fault::host("remove", &tree))?;
        fs::write(&list, wanted).map_err(Fault::host("write", &list))?;
        Ok(image)
    }
}

/// Copies a file, programs without their debug sections: guests read them over an emulated disk.
fn stage(host: &Path, staged: &Path) -> Result<(), Fault> {
    let is_program =
        host.extension().is_none() && fs::metadata(host).is_ok_and(|file| file.mode() & 0o111 != 0);
    let stripped = is_program
        && Command::new("strip")
            .args(["--strip-debug", "-o"])
            .arg(staged)
            .arg(host)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
    if !stripped {
        fs::copy(host, staged).map_err(Fault::host("copy", host))?;
    }
    let mode = if is_program { 0o755 } else { 0o644 };
    fs::set_permissions(staged, fs::Permissions::from_mode(mode))
        .map_err(Fault::host("set the mode of", staged))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_made_again_only_when_a_file_changed() {
        let dir = std::env::temp_dir().join(format!("dsi-payload-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("policy.xml");
        fs::write(&file, "one").unwrap();
        let mut payload = Payload::default();
        payload.add("/opt/dsi/policies/policy.xml", &file);
        let made = |payload: &Payload| fs::metadata(payload.image(&dir).unwrap()).unwrap().ino();
        let first = made(&payload);
        assert_eq!(made(&payload), first);
        fs::write(&file, "two, longer").unwrap();
        let list = fs::read_to_string(dir.join("payload.list")).unwrap();
        made(&payload);
        assert_ne!(fs::read_to_string(dir.join("payload.list")).unwrap(), list);
        fs::remove_dir_all(&dir).unwrap();
    }
}
