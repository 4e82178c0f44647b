//! Proves that a process does not leave its zone, as an ordinary user or as root: not by what it executes or how, not
//! through another process, and not through the machine itself. Each way that is refused has a twin that goes through:
//! within the own zone, or from a zone to which the policy grants it. All ways are tried once, in one boot, by a
//! program of the guest (`dsi-escape`); the tests look at what came of them. No servers.

use std::collections::BTreeMap;

use crate::cluster::{Cluster, NodeSpec};
use crate::enrol::{enrol, in_zone, load, ynl_all};
use crate::fault::Failure;
use crate::node::{Node, Process};
use crate::regime::{Counters, Denial, Regime, kept, until};
use crate::suite::{Need, Suite, Test, TestResult};
use crate::{check, check_eq, tests};

/// The suite.
pub const SUITE: Suite = Suite {
    name: "escape",
    proves: "no process leaves its zone, and what the policy grants goes through",
    nodes: &[NodeSpec::new("munster")],
    needs: &[Need::Module, Need::Servers],
    setup,
    tests: TESTS,
};

/// Where what was tried was tried: root and a user of zone 10, and of zone 30, which is trusted.
const ROOT: &str = "10-root";
const USER: &str = "10-user";
const TRUSTED_ROOT: &str = "30-root";
const TRUSTED_USER: &str = "30-user";

const TESTS: &[Test] = tests! {
    "signal-to-another-zone-denied" => |c| between(c, &["signal", "probe", "pidfd-signal"]),
    "signal-within-the-zone-ok" => |c| within(c, &["signal", "probe", "pidfd-signal"]),
    "signal-by-permission-ok" => |c| permitted(c, &["signal", "probe", "pidfd-signal"]),
    "default-zone-may-end-and-not-trace-ok" => by_default,
    "signal-by-the-default-zone-without-permission-denied" => by_default_in_vain,
    "signal-by-a-container's-first-process-denied" => by_container,
    "signal-by-the-node's-first-process-ok" => by_first_process,
    "signal-by-a-ready-file-to-another-zone-denied" => |c| between(c, &["sigio"]),
    "signal-by-a-ready-file-within-the-zone-ok" => |c| within(c, &["sigio"]),
    "signal-by-a-ready-file-by-permission-ok" => |c| permitted(c, &["sigio"]),
    "ptrace-of-another-zone-denied" => |c| between(c, &["ptrace"]),
    "ptrace-within-the-zone-ok" => |c| within(c, &["ptrace"]),
    "ptrace-by-permission-ok" => |c| permitted(c, &["ptrace"]),
    "proc-mem-of-another-zone-denied" => |c| between(c, &["mem", "environ", "fd-link"]),
    "proc-mem-within-the-zone-ok" => |c| within(c, &["mem", "environ", "fd-link"]),
    "proc-mem-by-permission-ok" => |c| permitted(c, &["mem", "environ", "fd-link"]),
    "process-vm-of-another-zone-denied" => |c| between(c, &["vm-read", "vm-write"]),
    "process-vm-within-the-zone-ok" => |c| within(c, &["vm-read", "vm-write"]),
    "process-vm-by-permission-ok" => |c| permitted(c, &["vm-read", "vm-write"]),
    "pidfd-getfd-of-another-zone-denied" => |c| between(c, &["getfd"]),
    "pidfd-getfd-within-the-zone-ok" => |c| within(c, &["getfd"]),
    "pidfd-getfd-by-permission-ok" => |c| permitted(c, &["getfd"]),
    "perf-of-another-zone-denied" => |c| between(c, &["perf"]),
    "perf-within-the-zone-ok" => |c| within(c, &["perf"]),
    "perf-by-permission-ok" => |c| permitted(c, &["perf"]),
    "limits-and-pace-of-another-zone-denied" => |c| between(c, &["limit", "nice", "ioprio", "affinity"]),
    "limits-and-pace-within-the-zone-ok" => |c| within(c, &["limit", "nice", "ioprio", "affinity"]),
    "limits-and-pace-by-permission-ok" => |c| permitted(c, &["limit", "nice", "ioprio", "affinity"]),
    "settings-of-a-process-of-another-zone-denied" => |c| between(c, SETTINGS),
    "settings-of-a-process-within-the-zone-ok" => |c| within(c, SETTINGS),
    "settings-of-a-process-by-permission-ok" => |c| permitted(c, SETTINGS),
    "call-to-be-traced-by-another-zone-denied" => |c| all(c, &[ROOT, USER], &["traceme"], REFUSED),
    "call-to-be-traced-within-the-zone-ok" => |c| all(c, &[ROOT, USER], &["own-traceme"], &["done"]),
    "refused-call-to-be-traced-is-told-in-the-log-to-no-listener's-harm-ok" => told_of_traceme,
    "denials-are-told-ok" => told,
    "transition-by-rule-ok" => |c| all(c, &[ROOT, USER], &["exec"], &["done"]),
    "ld-preload-over-a-transition-denied" => |c| all(c, &[ROOT, USER], &["preload"], &["ENOENT"]),
    "ld-preload-within-the-zone-ok" => |c| all(c, &[ROOT, USER], &["own-preload"], &["done"]),
    "loader-is-told-of-a-transition-ok" => |c| all(c, &[ROOT, USER], &["secure"], &["done"]),
    "personality-over-a-transition-denied" => |c| all(c, &[ROOT, USER], &["loose"], &["done"]),
    "personality-within-the-zone-ok" => |c| all(c, &[ROOT, USER], &["own-loose"], &["ENOENT"]),
    "core-dump-for-the-caller-over-a-transition-denied" => |c| all(c, &[ROOT, USER], &["core"], &["ENOENT"]),
    "core-dump-within-the-zone-ok" => |c| all(c, &[ROOT, USER], &["own-core"], &["done"]),
    "scid-set-during-an-exec-stays-ok" => set_during_exec,
    "scid-set-for-who-is-traced-denied-then-ok" => |c| set_while_watched(c, "trace", WATCHED),
    "scid-set-for-who-is-measured-denied-then-ok" => |c| set_while_watched(c, "measure", WATCHED),
    "scid-set-for-who-shares-his-memory-denied-then-ok" => |c| set_while_watched(c, "share", SHARED),
    "transition-under-no-new-privs-denied" => |c| all(c, &[ROOT, USER], &["exec-nnp"], REFUSED),
    "exec-under-no-new-privs-within-the-zone-ok" => |c| all(c, &[ROOT, USER], &["own-exec-nnp"], &["done"]),
    "transition-while-traced-denied" => |c| all(c, &[ROOT, USER], &["exec-traced"], REFUSED),
    "exec-while-traced-within-the-zone-ok" => |c| all(c, &[ROOT, USER], &["own-exec-traced"], &["done"]),
    "transition-while-measured-denied" => |c| all(c, &[ROOT, USER], &["exec-measured"], REFUSED),
    "exec-while-measured-within-the-zone-ok" => |c| all(c, &[ROOT, USER], &["own-exec-measured"], &["done"]),
    "transition-measured-on-its-way-ends-the-process-denied" => |c| all(c, &[ROOT, USER], &["exec-measured-late"], &["silence"]),
    "exec-measured-on-its-way-within-the-zone-ok" => |c| all(c, &[ROOT, USER], &["own-exec-measured-late"], &["done"]),
    "transition-with-a-shared-root-denied" => |c| all(c, &[ROOT, USER], &["exec-shared"], REFUSED),
    "exec-with-a-shared-root-within-the-zone-ok" => |c| all(c, &[ROOT, USER], &["own-exec-shared"], &["done"]),
    "transition-in-an-own-user-namespace-denied" => |c| all(c, &[ROOT, USER], &["exec-userns"], REFUSED),
    "exec-in-an-own-user-namespace-within-the-zone-ok" => |c| all(c, &[ROOT, USER], &["own-exec-userns"], &["done"]),
    "copied-binary-denied" => |c| all(c, &[ROOT, USER], &["exec-copied"], REFUSED),
    "renamed-copy-denied" => |c| all(c, &[ROOT, USER], &["exec-renamed"], REFUSED),
    "renamed-original-ok" => |c| all(c, &[ROOT, USER], &["exec-moved"], &["done"]),
    "hard-linked-binary-ok" => |c| all(c, &[ROOT, USER], &["exec-linked"], &["done"]),
    "hard-linked-binary-without-transition-denied" => linked_in_vain,
    "memfd-copy-denied" => |c| all(c, &[ROOT, USER], &["exec-memfd"], REFUSED),
    "deleted-copy-denied" => |c| all(c, &[ROOT, USER], &["exec-deleted"], REFUSED),
    "script-with-a-label-denied" => |c| all(c, &[ROOT, USER], &["exec-script"], REFUSED),
    "binary-on-a-nosuid-mount-denied" => |c| all(c, &[ROOT, USER], &["exec-nosuid"], REFUSED),
    "binary-on-a-bind-mount-ok" => |c| all(c, &[ROOT, USER], &["exec-bound"], &["done"]),
    "binary-on-overlayfs-ok" => |c| all(c, &[ROOT, USER], &["exec-overlay"], &["done"]),
    "binary-copied-up-on-overlayfs-ok" => |c| all(c, &[ROOT, USER], &["exec-copied-up"], &["done"]),
    "what-an-overlay-hides-stays-hidden-ok" => |c| all(c, &[ROOT, USER, TRUSTED_ROOT, TRUSTED_USER], &["hidden"], &["ENOENT"]),
    "directory-in-the-place-of-a-removed-one-on-overlayfs-ok" => |c| all(c, &[ROOT, USER, TRUSTED_ROOT, TRUSTED_USER], &["mkdir"], &["done"]),
    "copy-on-overlayfs-denied" => |c| all(c, &[ROOT, USER], &["exec-overlay-copy"], REFUSED),
    "copies-run-and-stay-in-the-zone-ok" => |c| all(c, &[ROOT, USER], COPIES, &["done"]),
    "binary-on-a-mount-of-a-user's-name-space-denied" => |c| all(c, &[ROOT, USER], &["exec-foreign"], REFUSED),
    "binary-on-a-mount-of-a-user's-name-space-within-the-zone-ok" => |c| all(c, &[ROOT, USER], &["own-exec-foreign"], &["done"]),
    "binary-on-a-remote-file-system-denied" => |c| all(c, &[ROOT, USER], &["exec-remote"], REFUSED),
    "binary-on-an-overlay-of-a-remote-file-system-denied" => |c| all(c, &[ROOT, USER], &["exec-remote-overlay"], REFUSED),
    "binary-on-a-remote-file-system-within-the-zone-ok" => |c| all(c, &[ROOT, USER], &["own-exec-remote", "own-exec-remote-overlay"], &["done"]),
    "label-by-root-of-a-zone-denied" => |c| all(c, &[ROOT], &["label", "unlabel"], REFUSED),
    "label-by-root-of-an-own-user-namespace-denied" => |c| all(c, &[USER, TRUSTED_USER], &["own-ns-label"], REFUSED),
    "label-of-an-own-file-by-a-user-of-a-zone-denied" => |c| all(c, &[USER, TRUSTED_USER], &["own-label", "own-unlabel"], REFUSED),
    "label-by-permission-ok" => |c| all(c, &[TRUSTED_ROOT], &["label", "unlabel"], &["done"]),
    "module-loading-by-root-of-a-zone-denied" => |c| all(c, &[ROOT], MODULES, REFUSED),
    "module-loading-by-permission-ok" => |c| all(c, &[TRUSTED_ROOT], MODULES, &["ENOEXEC", "ENOENT"]),
    "bpf-by-root-of-a-zone-denied" => |c| all(c, &[ROOT], &["bpf"], REFUSED),
    "bpf-by-permission-ok" => |c| all(c, &[TRUSTED_ROOT], &["bpf"], &["done"]),
    "kexec-and-reboot-by-root-of-a-zone-denied" => |c| all(c, &[ROOT], BOOT, REFUSED),
    "kexec-and-reboot-by-permission-ok" => |c| all(c, &[TRUSTED_ROOT], BOOT, &["done"]),
    "block-device-by-root-of-a-zone-denied" => |c| all(c, &[ROOT], RAW, REFUSED),
    "block-device-by-permission-ok" => |c| all(c, &[TRUSTED_ROOT], RAW, &["done", "errno-6"]),
    "kprobe-by-root-of-a-zone-denied" => |c| all(c, &[ROOT], TRACING, REFUSED),
    "kprobe-by-permission-ok" => |c| all(c, &[TRUSTED_ROOT], TRACING, &["done"]),
    "audit-of-all-processes-by-root-of-a-zone-denied" => |c| all(c, &[ROOT], &["audit", "audit-rule"], REFUSED),
    "audit-of-all-processes-by-permission-ok" => |c| all(c, &[TRUSTED_ROOT], &["audit", "audit-rule"], &["done"]),
    "sysctl-and-cgroup-by-root-of-a-zone-denied" => |c| all(c, &[ROOT], &["sysctl", "cgroup"], REFUSED),
    "sysctl-and-cgroup-by-permission-ok" => |c| all(c, &[TRUSTED_ROOT], &["sysctl", "cgroup"], &["done"]),
    "kernel-file-given-away-by-root-of-a-zone-denied" => |c| all(c, &[ROOT], &["give-sysrq", "give-cgroup", "cgroup"], REFUSED),
    "kernel-file-given-away-by-permission-ok" => |c| all(c, &[TRUSTED_ROOT], &["give-sysrq", "give-cgroup", "cgroup"], &["done"]),
    "kernel-file-opened-up-by-root-of-a-zone-denied" => |c| all(c, &[ROOT], OPENED_UP, REFUSED),
    "kernel-file-opened-up-by-permission-ok" => |c| all(c, &[TRUSTED_ROOT], OPENED_UP, &["done"]),
    "pressure-watched-by-everybody-ok" => |c| all(c, &[ROOT, USER, TRUSTED_ROOT, TRUSTED_USER], &["pressure"], &["done"]),
    "cgroup-of-a-user-by-root-of-a-zone-denied" => |c| all(c, &[ROOT], &["given"], REFUSED),
    "cgroup-of-a-user-by-himself-ok" => |c| all(c, &[USER], &["given"], &["done"]),
    "tunnel-device-without-permission-denied" => |c| all(c, &[ROOT, USER], &["tun", "own-ns-tun"], REFUSED),
    "tunnel-device-handed-over-denied" => |c| tunnel_handed_over(c, 10, "Permission denied"),
    "tunnel-device-handed-over-by-permission-ok" => |c| tunnel_handed_over(c, 30, "File descriptor in bad state"),
    "tunnel-device-by-permission-ok" => |c| all(c, &[TRUSTED_ROOT, TRUSTED_USER], &["tun", "own-ns-tun"], &["done"]),
    "adapter-of-remote-memory-without-permission-denied" => |c| all(c, &[ROOT, USER], &["adapter"], &["EACCES"]),
    "adapter-of-remote-memory-by-permission-ok" => |c| all(c, &[TRUSTED_ROOT, TRUSTED_USER], &["adapter"], &["errno-6"]),
    "device-past-the-sockets-without-permission-denied" => |c| all(c, &[ROOT, USER], PAST_SOCKETS, &["EACCES"]),
    "device-past-the-sockets-by-permission-ok" => |c| all(c, &[TRUSTED_ROOT, TRUSTED_USER], PAST_SOCKETS, OPENED),
    "device-of-a-drawn-number-without-permission-denied" => drawn_denied,
    "device-of-a-drawn-number-by-permission-ok" => drawn_allowed,
    "tap-made-by-root-of-a-zone-denied" => |c| tap_made(c, 10, false),
    "tap-made-by-permission-ok" => |c| tap_made(c, 30, true),
    "file-of-its-own-by-root-of-a-zone-ok" => |c| all(c, &[ROOT], &["own-file", "own-proc", "own-open", "own-group"], &["done"]),
    "mount-by-root-of-a-zone-denied" => |c| all(c, &[ROOT], MOUNTS, REFUSED),
    "mount-by-permission-ok" => |c| all(c, &[TRUSTED_ROOT], MOUNTS, &["done"]),
    "network-by-root-of-a-zone-denied" => |c| all(c, &[ROOT], &["lo"], REFUSED),
    "network-by-permission-ok" => |c| all(c, &[TRUSTED_ROOT], &["lo"], &["done"]),
    "other-network-of-the-node-by-root-of-a-zone-denied" => |c| all(c, &[ROOT], &["setns"], REFUSED),
    "other-network-of-the-node-by-permission-ok" => |c| all(c, &[TRUSTED_ROOT], &["setns"], &["done"]),
    "network-of-an-own-namespace-ok" => |c| all(c, &[ROOT, USER], &["own-ns-lo", "own-ns-sysctl"], &["done"]),
    "sysctl-of-the-node's-network-from-an-own-namespace-denied" => |c| all(c, &[ROOT], &["kept-sysctl"], REFUSED),
    "sysctl-of-the-node's-network-from-an-own-namespace-by-permission-ok" => |c| all(c, &[TRUSTED_ROOT], &["kept-sysctl"], &["done"]),
    "netlink-command-by-root-of-a-zone-denied" => |c| command(c, &[IN_10], false),
    "netlink-command-by-root-of-an-own-user-namespace-denied" => own_namespace_command,
    "netlink-command-by-permission-ok" => |c| command(c, &[IN_30], true),
    "events-heard-in-a-zone-denied" => unheard,
    "events-heard-by-an-administrator-ok" => |c| heard(c, &[]),
    "events-heard-by-permission-ok" => |c| heard(c, &[IN_30]),
    "counters-told-in-a-zone-denied" => |c| told_of_the_module(c, &in_zone(10, "STATUS"), false),
    "counters-told-to-a-user-denied" => |c| told_of_the_module(c, "setpriv --reuid 1000 --clear-groups STATUS", false),
    "counters-told-to-an-administrator-ok" => |c| told_of_the_module(c, "STATUS", true),
    "counters-told-by-permission-ok" => |c| told_of_the_module(c, &in_zone(30, "STATUS"), true),
    "ordinary-load-is-refused-nothing-ok" => ordinary_load,
    "refusals-are-told-by-system-call-ok" => told_by_call,
    "flood-of-refusals-of-a-zone-leaves-room-in-the-log-ok" => flood_of_a_zone,
    "list-of-all-processes-is-told-of-once-ok" => told_of_list,
    "hold-on-a-process-is-told-of-each-time-ok" => told_of_attach,
};

const PROGRAM: &str = "/opt/dsi/bin/dsi-escape";
const REFUSED: &[&str] = &["EPERM", "EACCES"];
const USER_ID: &str = "1000";

/// What a process' files in `/proc` set.
const SETTINGS: &[&str] = &[
    "oom-score",
    "name",
    "name-of-thread",
    "core-filter",
    "timer-slack",
    "uid-map",
];
/// Copies of zone 20's program, which have no label, and the like. Who is still in zone 10 can signal zone 10.
const COPIES: &[&str] = &[
    "own-exec-copied",
    "own-exec-renamed",
    "own-exec-memfd",
    "own-exec-deleted",
    "own-exec-script",
    "own-exec-nosuid",
    "own-exec-overlay-copy",
];
/// What of the machine's is tried, by the permission that it takes.
const MODULES: &[&str] = &["insmod", "insmod-file", "rmmod"];
const BOOT: &[&str] = &["kexec", "kexec-file", "cad", "sysrq"];
const RAW: &[&str] = &["disk", "dev-mem", "scsi-generic", "mtd", "ioperm"];
const TRACING: &[&str] = &["kprobe", "tracefs", "debugfs", "kernel-perf"];
const MOUNTS: &[&str] = &["mount", "bind", "move-mount", "chroot"];
/// The kernel's files, opened to those who may not write to them.
const OPENED_UP: &[&str] = &["open-sysrq", "open-cgroup", "group-of-cgroup"];
/// Devices that talk to other machines past the sockets, and what comes of opening them: not every guest has them.
const PAST_SOCKETS: &[&str] = &["vhost-net", "vhost-vsock", "ppp"];
const OPENED: &[&str] = &["done", "errno-6", "errno-19"];

/// Zone 10 may start programs of zone 20, and nothing else with it; zone 30 may do everything.
const POLICY: &str = "<DSP xmlns=\"urn:dsi:dsp:1\" mode=\"enforcing\" default=\"deny\"><contexts>
<context ScID=\"10\" name=\"ten\"/><context ScID=\"20\" name=\"twenty\"/><context ScID=\"30\" name=\"trusted\"/>
<context ScID=\"40\" name=\"forty\"/></contexts><rules>
<transition><parent_ScID>2</parent_ScID><binary_ScID>10</binary_ScID><new_ScID>10</new_ScID></transition>
<transition><parent_ScID>2</parent_ScID><binary_ScID>20</binary_ScID><new_ScID>20</new_ScID></transition>
<transition><parent_ScID>2</parent_ScID><binary_ScID>30</binary_ScID><new_ScID>30</new_ScID></transition>
<transition><parent_ScID>2</parent_ScID><binary_ScID>40</binary_ScID><new_ScID>40</new_ScID></transition>
<transition><parent_ScID>10</parent_ScID><binary_ScID>20</binary_ScID><new_ScID>20</new_ScID></transition>
<process_permission><source_ScID>2</source_ScID><target_ScID>10</target_ScID><grant>signal</grant></process_permission>
<process_permission><source_ScID>2</source_ScID><target_ScID>20</target_ScID><grant>signal</grant></process_permission>
<process_permission><source_ScID>2</source_ScID><target_ScID>30</target_ScID><grant>signal</grant></process_permission>
<process_permission><source_ScID>30</source_ScID><target_ScID>20</target_ScID><grant>signal trace</grant></process_permission>
<socket_permission><source_ScID>30</source_ScID><target_ScID>30</target_ScID><grant>create_unmediated</grant></socket_permission>
<system_permission><source_ScID>30</source_ScID>
<grant>load_module bpf boot raw_io trace_kernel net_admin label sys_admin</grant></system_permission>
</rules></DSP>";

/// What the ways need: labelled programs, and mounts to find them on. Everything in one file system, for hard links.
const PREPARE: &str = r#"
set -e
echo 0 >/proc/sys/kernel/yama/ptrace_scope
echo 1 >/proc/sys/kernel/perf_event_paranoid
echo 0 >/proc/sys/fs/protected_hardlinks
mkdir -p /srv/plain /srv/room /srv/mnt /srv/nosuid /srv/bound /srv/over /srv/cgroup /srv/remote /srv/remote-over
chmod 1777 /srv/room
install -D $1 /srv/plain/dsi-escape
label() { setfattr -n security.dsi -v $1 $2; }
for zone in 10 20 30 40; do install -D $1 /srv/zone$zone/dsi-escape; label $zone /srv/zone$zone/dsi-escape; done
cp $1 /srv/zone20/renamed
cp $1 /srv/zone20/original; label 20 /srv/zone20/original; mv /srv/zone20/original /srv/plain/moved
printf '#!/srv/plain/dsi-escape\n' >/srv/zone20/script; chmod 755 /srv/zone20/script; label 20 /srv/zone20/script
cp $1 /srv/zone20/up; label 20 /srv/zone20/up
touch /srv/room/unlabelled; cp $1 /srv/room/labelled; label 10 /srv/room/labelled
mount --bind /srv/zone20 /srv/bound
mount --bind /srv/zone20 /srv/nosuid; mount -o remount,bind,nosuid /srv/nosuid
mount -t tmpfs tmpfs /srv/over; mkdir /srv/over/up /srv/over/work /srv/over/all
mount -t overlay overlay -o lowerdir=/srv/zone20,upperdir=/srv/over/up,workdir=/srv/over/work /srv/over/all
cp /srv/over/all/dsi-escape /srv/over/all/copy
printf '\0' >>/srv/over/all/up
test -e /srv/over/up/up
test "$(getfattr --absolute-names --only-values -n security.dsi /srv/remote/dsi-escape)" = 20
mount -t overlay overlay -o lowerdir=/srv/remote:/srv/plain /srv/remote-over
test "$(getfattr --absolute-names --only-values -n security.dsi /srv/remote-over/dsi-escape)" = 20
mkdir -p /srv/lay/low/dir /srv/lay/low/gone /srv/lay/all
touch /srv/lay/low/dir/old; chmod 1777 /srv/lay/low
lay() { mount -t overlay overlay -o lowerdir=/srv/lay/low,upperdir=/srv/over/lay,workdir=/srv/over/laywork /srv/lay/all; }
mkdir /srv/over/lay /srv/over/laywork; chmod 1777 /srv/over/lay
lay; rm -r /srv/lay/all/dir /srv/lay/all/gone; mkdir /srv/lay/all/dir
umount /srv/lay/all; lay
mount -t cgroup2 cgroup2 /srv/cgroup
mkdir /srv/cgroup/given; chown -R 1000 /srv/cgroup/given
echo core >/proc/sys/kernel/core_pattern
mkdir -p /srv/moved; mount --bind /srv/plain /srv/moved
ip netns add other
modprobe tun; chmod 666 /dev/net/tun; ip tuntap add dev tunnel mode tun user 1000
mknod /srv/room/adapter c 231 192; mknod /srv/room/vhost-net c 10 238; mknod /srv/room/vhost-vsock c 10 241
mknod /srv/room/ppp c 108 0; chmod 666 /srv/room/adapter /srv/room/vhost-net /srv/room/vhost-vsock /srv/room/ppp
mknod /srv/room/scsi-generic c 21 0; mknod /srv/room/mtd c 90 0
# The debug kernel has none of these drivers: there is no device of these numbers.
for driver in macvtap vduse vfio; do modprobe $driver || [[ $(uname -r) == *-debug-* ]]; done
ip link add low type dummy; ip link set low up
if ip link add link low name tap type macvtap; then ip link set tap up; fi
for of in tap:macvtap/tap* vduse:vduse/control vfio:misc/vfio; do
  number=$(cat /sys/class/${of#*:}/dev || [[ $(uname -r) == *-debug-* ]])
  number=${number:-510:0}
  mknod -m 666 /srv/room/${of%%:*} c ${number/:/ }
done
test -e /sys/kernel/tracing/kprobe_events || mount -t tracefs tracefs /sys/kernel/tracing
test -e /sys/kernel/debug/x86 || mount -t debugfs debugfs /sys/kernel/debug
"#;

/// What came of each way, by where it was tried.
struct Kept {
    came: BTreeMap<(&'static str, String), String>,
    victims: Vec<Victim>,
    mark: u64,
    _server: Process,
}

/// A process to be attacked.
struct Victim {
    process: Process,
    address: String,
    descriptor: String,
}

impl Victim {
    fn start(node: &Node, zone: &str, user: bool) -> Result<Self, Failure> {
        let program = of_zone(zone);
        let mut argv = vec![program.as_str()];
        if user {
            argv.extend(["--uid", USER_ID]);
        }
        argv.push("victim");
        let process = node.spawn(&format!("victim-{zone}-{user}"), &argv)?;
        let line = process.wait_line("ready")?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["ready", address, descriptor] = words.as_slice() else {
            return Err(Failure::new(format!("the victim says '{line}'")));
        };
        Ok(Self {
            address: (*address).into(),
            descriptor: (*descriptor).into(),
            process,
        })
    }

    /// The ways to attack it.
    fn ways(&self, prefix: &str) -> Vec<String> {
        let (pid, address, descriptor) = (self.process.pid(), &self.address, &self.descriptor);
        [
            format!("signal:kill={pid},10"),
            format!("probe:kill={pid},0"),
            format!("pidfd-signal:pidfd-signal={pid}"),
            format!("sigio:sigio={pid}"),
            format!("ptrace:ptrace={pid}"),
            format!("mem:mem={pid},{address}"),
            format!("environ:environ={pid}"),
            format!("fd-link:fd-link={pid}"),
            format!("vm-read:vm-read={pid},{address}"),
            format!("vm-write:vm-write={pid},{address}"),
            format!("getfd:getfd={pid},{descriptor}"),
            format!("perf:perf={pid}"),
            format!("limit:limit={pid}"),
            format!("nice:nice={pid}"),
            format!("ioprio:ioprio={pid}"),
            format!("affinity:affinity={pid}"),
            format!("oom-score:write=/proc/{pid}/oom_score_adj"),
            format!("name:write=/proc/{pid}/comm"),
            format!("name-of-thread:write=/proc/{pid}/task/{pid}/comm"),
            format!("core-filter:write=/proc/{pid}/coredump_filter"),
            format!("timer-slack:write=/proc/{pid}/timerslack_ns"),
            format!("uid-map:write=/proc/{pid}/uid_map"),
        ]
        .map(|way| format!("{prefix}{way}"))
        .into()
    }
}

fn of_zone(zone: &str) -> String {
    format!("/srv/zone{zone}/dsi-escape")
}

/// The ways through an exec. Who is in zone 20 afterwards can signal zone 20; who is in zone 10, zone 10.
fn execs(other: &Victim, own: &Victim) -> Vec<String> {
    let other = format!("kill={},10", other.process.pid());
    let own = format!("kill={},10", own.process.pid());
    let (ten, twenty, forty) = (of_zone("10"), of_zone("20"), of_zone("40"));
    let twenty = twenty.as_str();
    let mut ways: Vec<String> = [
        ("exec", "plain", twenty),
        ("exec-nnp", "nnp", twenty),
        ("exec-traced", "traced", twenty),
        ("exec-shared", "shared", twenty),
        ("exec-userns", "userns", twenty),
        ("exec-measured", "measured", twenty),
        ("exec-measured-late", "measured-late", twenty),
        ("exec-copied", "copied", twenty),
        ("exec-renamed", "plain", "/srv/zone20/renamed"),
        ("exec-moved", "plain", "/srv/plain/moved"),
        ("exec-linked", "linked", twenty),
        ("exec-linked-unasked", "linked-unasked", forty.as_str()),
        ("exec-foreign", "foreign", twenty),
        ("exec-memfd", "memfd", twenty),
        ("exec-deleted", "deleted", twenty),
        ("exec-script", "plain", "/srv/zone20/script"),
        ("exec-nosuid", "plain", "/srv/nosuid/dsi-escape"),
        ("exec-bound", "plain", "/srv/bound/dsi-escape"),
        ("exec-overlay", "plain", "/srv/over/all/dsi-escape"),
        ("exec-copied-up", "plain", "/srv/over/all/up"),
        ("exec-overlay-copy", "plain", "/srv/over/all/copy"),
        ("exec-remote", "plain", "/srv/remote/dsi-escape"),
        (
            "exec-remote-overlay",
            "plain",
            "/srv/remote-over/dsi-escape",
        ),
    ]
    .map(|(key, how, program)| format!("{key}:run={how},{program},{other}"))
    .into();
    ways.extend(
        [
            "nnp",
            "traced",
            "shared",
            "userns",
            "measured",
            "measured-late",
            "foreign",
        ]
        .map(|how| format!("own-exec-{how}:run={how},{ten},{own}")),
    );
    ways.extend(
        [
            ("copied", "copied", twenty),
            ("renamed", "plain", "/srv/zone20/renamed"),
            ("memfd", "memfd", twenty),
            ("deleted", "deleted", twenty),
            ("script", "plain", "/srv/zone20/script"),
            ("nosuid", "plain", "/srv/nosuid/dsi-escape"),
            ("overlay-copy", "plain", "/srv/over/all/copy"),
        ]
        .map(|(key, how, program)| format!("own-exec-{key}:run={how},{program},{own}")),
    );
    ways.extend(
        ["remote", "remote-over"]
            .map(|at| (at, at.replace("over", "overlay")))
            .map(|(at, key)| format!("own-exec-{key}:run=plain,/srv/{at}/dsi-escape,{own}")),
    );
    ways.extend([
        format!("preload:run=preload,{twenty},preloaded=libresolv"),
        format!("own-preload:run=preload,{ten},preloaded=libresolv"),
        format!("secure:run=plain,{twenty},secure"),
        format!("loose:run=loose,{twenty},strict"),
        format!("own-loose:run=loose,{ten},strict"),
        format!("traceme:run=plain,{twenty},traceme"),
        format!("own-traceme:run=plain,{ten},traceme"),
        format!("core:run=core,{twenty},crash"),
        format!("own-core:run=core,{ten},crash"),
    ]);
    ways
}

/// The ways through an overlay whose mounter may more: what it notes of its layers is its own matter.
const OVERLAY: &[&str] = &[
    "hidden:read=/srv/lay/all/dir/old",
    "mkdir:mkdir=/srv/lay/all/gone",
];
/// The ways through what everybody may open.
const OPEN: &[&str] = &[
    "given:write=/srv/cgroup/given/cgroup.procs",
    "tun:tun=tunnel",
    "own-ns-tun:unshared-tun",
    "adapter:read=/srv/room/adapter",
    "vhost-net:read=/srv/room/vhost-net",
    "vhost-vsock:read=/srv/room/vhost-vsock",
    "ppp:read=/srv/room/ppp",
    "tap-put:put=/srv/room/tap",
    "tap-ask:ask=/srv/room/tap,2147767503",
    "tap-map:map=/srv/room/tap",
    "vduse-ask:ask=/srv/room/vduse,2148040960",
    "vfio-ask:ask=/srv/room/vfio,15204",
    "pressure:write=/proc/pressure/memory",
];
/// The ways through the machine.
const MACHINE: &[&str] = &[
    "label:label=/srv/room/unlabelled",
    "unlabel:unlabel=/srv/room/labelled",
    "insmod:insmod",
    "insmod-file:insmod-file=/etc/hostname",
    "rmmod:rmmod",
    "bpf:bpf",
    "kexec:kexec",
    "kexec-file:kexec-file",
    "cad:ctrl-alt-del",
    "sysrq:write=/proc/sysrq-trigger",
    "disk:read=/dev/vda",
    "dev-mem:read=/dev/mem",
    "scsi-generic:read=/srv/room/scsi-generic",
    "mtd:read=/srv/room/mtd",
    "ioperm:ioperm",
    "kprobe:write=/sys/kernel/tracing/kprobe_events",
    "tracefs:write=/sys/kernel/tracing/tracing_on",
    "debugfs:write=/sys/kernel/debug/x86/tlb_single_page_flush_ceiling",
    "kernel-perf:kernel-perf",
    "audit:audit",
    "audit-rule:audit-rule",
    "sysctl:write=/proc/sys/kernel/core_pattern",
    "give-sysrq:give=/proc/sysrq-trigger",
    "give-cgroup:give=/srv/cgroup/cgroup.procs",
    "open-sysrq:open-up=/proc/sysrq-trigger",
    "open-cgroup:open-up=/srv/cgroup/cgroup.procs",
    "group-of-cgroup:hand-to-group=/srv/cgroup/cgroup.procs",
    "own-open:open-up=/srv/room/unlabelled",
    "own-group:hand-to-group=/srv/room/unlabelled",
    "kept-sysctl:kept-write=/proc/sys/net/ipv4/ip_forward",
    "cgroup:cgroup=/srv/cgroup/mine",
    "cgroup:write=/srv/cgroup/cgroup.procs",
    "own-file:write=/srv/room/unlabelled",
    "own-proc:write=/proc/self/comm",
    "mount:mount=/srv/mnt",
    "bind:bind=/srv/plain,/srv/zone20",
    "move-mount:move-mount=/srv/moved,/srv/zone20",
    "chroot:chroot=/srv",
    "setns:setns=/run/netns/other",
    "lo:lo",
];
/// Those of a user's.
const OWN_FILE: &[&str] = &[
    "own-label:label=/srv/room/mine",
    "own-unlabel:unlabel=/srv/room/mine",
];
/// Those from within name spaces of one's own.
const OWN_NAMESPACE: &[&str] = &[
    "own-ns-lo:unshared-lo",
    "own-ns-sysctl:unshared-write=/proc/sys/net/ipv4/ip_forward",
    "own-ns-label:unshared-label=/srv/room/mine",
];

fn setup(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    load(node, &[])?;
    enrol(cluster, &["munster"], 1)?;
    let regime = Regime::establish(cluster, &["munster"])?;
    // Somebody's file system, which says of its program what it likes.
    node.sh("mkdir -p /srv/remote")?.ok()?;
    node.write(
        "/srv/one-file-fuse.py",
        include_str!("../../guest/one-file-fuse.py"),
    )?;
    let server = [
        "python3",
        "/srv/one-file-fuse.py",
        "/srv/remote",
        PROGRAM,
        "20",
        "/srv/room",
    ];
    let server = node.spawn("one-file-fuse", &server)?;
    server.wait_line("serving")?;
    node.run(&["bash", "-c", PREPARE, "prepare", PROGRAM])?
        .ok()?;
    node.run(&["install", "-o", USER_ID, "/dev/null", "/srv/room/mine"])?
        .ok()?;
    regime.enforce(node, POLICY)?;
    let mark = node.kernel_mark();
    let mut victims = Vec::new();
    for (zone, user) in [("20", false), ("20", true), ("10", false), ("10", true)] {
        victims.push(Victim::start(node, zone, user)?);
    }
    let [of_root, of_user, own_of_root, own_of_user] = victims.as_slice() else {
        return Err(Failure::new("four victims"));
    };
    let mut came = BTreeMap::new();
    for (place, zone, user, other, own) in [
        (ROOT, "10", false, of_root, own_of_root),
        (USER, "10", true, of_user, own_of_user),
        (TRUSTED_ROOT, "30", false, of_root, own_of_root),
        (TRUSTED_USER, "30", true, of_user, own_of_user),
    ] {
        let program = of_zone(zone);
        let mut argv = vec![program];
        if user {
            argv.extend(["--uid".into(), USER_ID.into()]);
            argv.extend(OWN_FILE.iter().map(|way| (*way).to_owned()));
        } else {
            argv.extend(MACHINE.iter().map(|way| (*way).to_owned()));
        }
        argv.extend(
            [OVERLAY, OPEN, OWN_NAMESPACE]
                .concat()
                .iter()
                .map(|way| (*way).to_owned()),
        );
        argv.extend(other.ways(""));
        if zone == "10" {
            argv.extend(own.ways("own-"));
            argv.extend(execs(other, own));
        }
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let output = node.run(&argv)?.ok()?;
        for line in output.stdout.lines() {
            if let Some((key, result)) = line.split_once(' ') {
                came.insert((place, key.to_owned()), result.to_owned());
            }
        }
    }
    cluster.kept = Some(Box::new(Kept {
        came,
        victims,
        mark,
        _server: server,
    }));
    Ok(())
}

/// Fails unless each of these ways, tried from each of these places, ended in one of these words.
fn all(cluster: &Cluster, places: &[&'static str], ways: &[&str], words: &[&str]) -> TestResult {
    let kept: &Kept = kept(cluster)?;
    for &place in places {
        for way in ways {
            let came = kept.came.get(&(place, (*way).to_owned()));
            let came = came.map_or("nothing", String::as_str);
            check!(
                words.contains(&came),
                "{way} as {place}: expected one of {words:?}, it was {came}; all of it: {:?}",
                kept.came
            );
        }
    }
    Ok(())
}

/// Devices that pass the sockets by, whose numbers are drawn when their drivers are loaded, and ways to use them.
const DRAWN: &[&str] = &["tap-put", "tap-ask", "vduse-ask", "vfio-ask"];

/// What comes of a use, if the kernel has the drivers; the debug kernel has none.
fn drawn(cluster: &Cluster, places: &[&'static str], ways: &[&str], word: &str) -> TestResult {
    let release = cluster.node("munster")?.run(&["uname", "-r"])?.ok()?;
    let word = if release.stdout.contains("-debug-") {
        "errno-6"
    } else {
        word
    };
    all(cluster, places, ways, &[word])
}

fn drawn_denied(cluster: &mut Cluster) -> TestResult {
    let kept: &Kept = kept(cluster)?;
    let node = cluster.node("munster")?;
    drawn(cluster, &[ROOT, USER], DRAWN, "EACCES")?;
    drawn(cluster, &[ROOT, USER], &["tap-map"], "EACCES")?;
    if node.run(&["test", "-e", "/sys/module/tap"])?.code == Some(0) {
        Denial::wait(
            node,
            kept.mark,
            "denied sscid=10 ssnid=1 tscid=10 tsnid=1 perm=create_unmediated",
        )?;
    }
    Ok(())
}

fn drawn_allowed(cluster: &mut Cluster) -> TestResult {
    let places = [TRUSTED_ROOT, TRUSTED_USER];
    drawn(cluster, &places, DRAWN, "done")?;
    // A tap has nothing to map.
    drawn(cluster, &places, &["tap-map"], "errno-19")
}

/// Reads from a tunnel device that the default zone has opened. It is attached to nothing, which the driver says.
fn tunnel_handed_over(cluster: &mut Cluster, zone: u32, said: &str) -> TestResult {
    let node = cluster.node("munster")?;
    let script = format!(
        "modprobe tun && exec 9<>/dev/net/tun && {}",
        in_zone(zone, "exec cat <&9")
    );
    node.run(&["bash", "-c", &script])?
        .exits_with(1)?
        .says(said)?;
    Ok(())
}

/// Has the kernel make a tap over a device of the node's network.
fn tap_made(cluster: &mut Cluster, zone: u32, allowed: bool) -> TestResult {
    let node = cluster.node("munster")?;
    let kind = "$(test -e /sys/module/macvtap && echo macvtap || echo dummy)";
    let make = format!("ip link add link low name more type {kind} && ip link del more");
    let output = node.run(&["bash", "-c", &in_zone(zone, &make)])?;
    if allowed {
        output.ok()?;
    } else {
        output.exits_with(2)?.says("Operation not permitted")?;
    }
    Ok(())
}

fn between(cluster: &Cluster, ways: &[&str]) -> TestResult {
    all(cluster, &[ROOT, USER], ways, REFUSED)
}

fn within(cluster: &Cluster, ways: &[&str]) -> TestResult {
    let own: Vec<String> = ways.iter().map(|way| format!("own-{way}")).collect();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    all(cluster, &[ROOT, USER], &own, &["done"])
}

fn permitted(cluster: &Cluster, ways: &[&str]) -> TestResult {
    all(cluster, &[TRUSTED_ROOT, TRUSTED_USER], ways, &["done"])
}

/// A hard link is the binary itself: to the zone of its label a transition is asked for.
fn linked_in_vain(cluster: &mut Cluster) -> TestResult {
    all(
        cluster,
        &[ROOT, USER],
        &["exec-linked-unasked"],
        &["EACCES"],
    )?;
    let kept: &Kept = kept(cluster)?;
    Denial::wait(
        cluster.node("munster")?,
        kept.mark,
        "denied sscid=10 ssnid=1 tscid=40 tsnid=1 perm=execute",
    )?
    .says("reason", "no-transition")
}

/// What begins a command that a process of a zone executes.
const IN_10: &str = "dsictl run --scid 10 --";
const IN_30: &str = "dsictl run --scid 30 --";
/// The same for an ordinary user, and for who makes a user name space of his own, in which he is root.
const AS_USER: &str = "setpriv --reuid 1000 --regid 1000 --clear-groups";
const AS_OWN_ROOT: &str = "unshare --user --map-root-user";

/// A command that reveals labels.
fn command(cluster: &Cluster, who: &[&str], allowed: bool) -> TestResult {
    let script = format!("{} dsictl ps", who.join(" "));
    let output = cluster.node("munster")?.sh(&script)?;
    if allowed {
        output.ok()?;
    } else {
        output
            .exits_with(5)?
            .says("needs CAP_MAC_ADMIN in the initial user namespace")?;
    }
    Ok(())
}

fn own_namespace_command(cluster: &mut Cluster) -> TestResult {
    for zone in [IN_10, IN_30] {
        command(cluster, &[zone, AS_OWN_ROOT], false)?;
        command(cluster, &[zone, AS_USER, AS_OWN_ROOT], false)?;
    }
    Ok(())
}

/// Joins the module's group of events. Says each event that comes; or, given the name of a file, once that is there
/// whether any has come.
const HEARS: &str = r#"
import os, socket, struct, sys, time
def attributes(data):
    while len(data) >= 4:
        length, kind = struct.unpack("=HH", data[:4])
        yield kind & 0x3FFF, data[4:length]
        data = data[length + 3 & ~3:]
sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)
sock.bind((0, 0))
GETFAMILY, FAMILY_NAME, GROUPS, GROUP_NAME, GROUP_ID = 3, 2, 7, 1, 2
sock.send(struct.pack("=IHHIIBBHHH", 28, 16, 1, 1, 0, GETFAMILY, 1, 0, 8, FAMILY_NAME) + b"dsi\0")
family = dict(attributes(sock.recv(65536)[20:]))
groups = [dict(attributes(group)) for _, group in attributes(family[GROUPS])]
audit, = [group[GROUP_ID] for group in groups if group[GROUP_NAME] == b"audit\0"]
SOL_NETLINK, ADD_MEMBERSHIP = 270, 1
try:
    sock.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, struct.unpack("=I", audit)[0])
except OSError as error:
    print("not joined", error.errno, flush=True)
    sys.exit(error.errno)
print("joined", flush=True)
if len(sys.argv) > 1:
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.02)
    try:
        sock.recv(65536, socket.MSG_DONTWAIT)
        print("heard", flush=True)
    except BlockingIOError:
        print("silence", flush=True)
    sys.exit()
while True:
    sock.recv(65536)
    print("heard", flush=True)
"#;
const HEARS_FILE: &str = "/srv/hears.py";
/// The file that the listener waits for which hears nothing.
const HEARD: &str = "/srv/heard";

/// A listener that has joined the group.
fn listener(node: &Node, name: &str, who: &[&str], until: &str) -> Result<Process, Failure> {
    node.write(HEARS_FILE, HEARS)?;
    let script = format!("exec {} python3 {HEARS_FILE} {until}", who.join(" "));
    let listener = node.spawn(name, &["bash", "-c", &script])?;
    listener.wait_line("joined")?;
    Ok(listener)
}

/// Has something refused, of which a listener hears.
fn until_heard(node: &Node, listener: &Process) -> TestResult {
    node.run(&[&of_zone("10"), "x:kill=1,0"])?
        .ok()?
        .says("EPERM")?;
    listener.wait_line("heard")?;
    Ok(())
}

fn heard(cluster: &Cluster, who: &[&str]) -> TestResult {
    let node = cluster.node("munster")?;
    let listener = listener(node, "hears", who, "")?;
    until_heard(node, &listener)?;
    listener.signal(9)?;
    listener.join()?;
    Ok(())
}

/// A process of a zone does not come into the group; in a network of its own it does, where nothing is told.
fn unheard(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    node.write(HEARS_FILE, HEARS)?;
    for who in [
        vec![IN_10],
        vec![IN_10, AS_USER],
        vec![IN_10, AS_OWN_ROOT],
        vec![IN_30, AS_USER, AS_OWN_ROOT],
        vec![AS_USER],
    ] {
        let script = format!("{} python3 {HEARS_FILE}", who.join(" "));
        node.sh(&script)?.exits_with(1)?.says("not joined 1\n")?;
    }
    node.run(&["rm", "-f", HEARD])?.ok()?;
    let own_network = [IN_10, AS_OWN_ROOT, "--net"];
    let apart = listener(node, "hears-apart", &own_network, HEARD)?;
    let control = listener(node, "hears-at-all", &[], "")?;
    // The second one is told when all have been told of the first one.
    for _ in 0..2 {
        until_heard(node, &control)?;
    }
    node.write(HEARD, "")?;
    check_eq!(apart.join()?, Some(0), "{}", apart.output()?);
    let said = apart.output()?;
    check!(said.ends_with("silence\n"), "{said}");
    control.signal(9)?;
    control.join()?;
    Ok(())
}

/// What the module tells a process of itself: everybody its mode, and what it counts who may give it commands. Who is
/// told less has been refused nothing.
fn told_of_the_module(cluster: &mut Cluster, who: &str, counters: bool) -> TestResult {
    let node = cluster.node("munster")?;
    let before = Counters::of(node)?;
    for (format, whole) in [("--json", "\"counters\":"), ("", "\ncounters ")] {
        let script = who.replace("STATUS", &format!("dsictl {format} status --local"));
        let output = node.sh(&script)?.ok()?.says("enforcing")?;
        let said = &output.stdout;
        check_eq!(said.contains(whole), counters, "{said}");
        let json = !format.is_empty();
        check_eq!(said.contains("\"snid\":"), counters && json, "{said}");
        let plain = said.contains("the rest, and the counters, need CAP_MAC_ADMIN");
        check_eq!(plain, !counters && !json, "{said}");
    }
    let refusals = Counters::of(node)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    Ok(())
}

/// The default zone, where administrators log in, may do what its rules say: end zone 20, and not look into it.
fn by_default(cluster: &mut Cluster) -> TestResult {
    let kept: &Kept = kept(cluster)?;
    let victim = kept.victims.first().map(|victim| victim.process.pid());
    let pid = victim
        .ok_or_else(|| Failure::new("there is no victim"))?
        .to_string();
    let node = cluster.node("munster")?;
    node.run(&["kill", "-USR1", &pid])?.ok()?;
    // What needs no more than to read memory CAP_PERFMON gives to the default zone's root, so not `environ`.
    let denied = node.run(&["readlink", &format!("/proc/{pid}/fd/0")])?;
    check_eq!(denied.code, Some(1), "{}", denied.describe());
    Ok(())
}

/// No rule lets the default zone end zone 40.
fn by_default_in_vain(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    let victim = Victim::start(node, "40", false)?;
    let before = Counters::of(node)?;
    let pid = victim.process.pid().to_string();
    node.run(&["kill", &pid])?.exits_with(1)?;
    let refused = Counters::of(node)?.rise(&before, "refused-no-permission")?;
    check_eq!(refused, 1, "refusals");
    check!(victim.process.is_running()?, "it ended");
    first_process_ends(node, &victim)
}

/// The first process of a name space of its own, with a child of zone 40. With it, the kernel ends what is in there.
const CONTAINER: &str = "
import os, subprocess, sys
os.unshare(os.CLONE_NEWPID)
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert os.getpid() == 1
victim = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
victim.stdout.readline()
try:
    victim.terminate()
except PermissionError:
    os._exit(13)
os._exit(0)
";

/// Who is the first process of a container is not the node's.
fn by_container(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    let before = Counters::of(node)?;
    node.run(&["python3", "-c", CONTAINER, &of_zone("40"), "victim"])?
        .exits_with(13)?;
    let refused = Counters::of(node)?.rise(&before, "refused-no-permission")?;
    check_eq!(refused, 1, "refusals");
    Ok(())
}

/// Process 1 of the guests ends whom this file names when it gets SIGUSR1.
const TO_END: &str = "/run/to-end";

fn first_process_ends(node: &Node, victim: &Victim) -> TestResult {
    node.write(TO_END, victim.process.pid().to_string())?;
    node.run(&["kill", "-USR1", "1"])?.ok()?;
    victim.process.join()?;
    Ok(())
}

/// What stops the node has to end every service.
fn by_first_process(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    let victim = Victim::start(node, "40", false)?;
    let before = Counters::of(node)?;
    first_process_ends(node, &victim)?;
    let refusals = Counters::of(node)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    Ok(())
}

/// Who did what to whom, and why not, is in the log.
fn told(cluster: &mut Cluster) -> TestResult {
    let kept: &Kept = kept(cluster)?;
    let node = cluster.node("munster")?;
    for (head, fields) in [
        (
            "denied sscid=10 ssnid=1 tscid=20 tsnid=1 perm=signal",
            [("reason", "no-permission"), ("hook", "task_kill")],
        ),
        (
            "denied sscid=10 ssnid=1 tscid=20 tsnid=1 perm=trace",
            [("reason", "no-permission"), ("hook", "ptrace_access_check")],
        ),
        (
            "denied sscid=10 ssnid=1 tscid=20 tsnid=1 perm=execute",
            [("reason", "unsafe-exec"), ("hook", "bprm_creds_from_file")],
        ),
        (
            "denied sscid=10 ssnid=1 tscid=0 tsnid=1 perm=load_module",
            [("reason", "no-permission"), ("hook", "capable")],
        ),
        (
            "denied sscid=10 ssnid=1 tscid=0 tsnid=1 perm=raw_io",
            [("reason", "no-permission"), ("hook", "file_open")],
        ),
    ] {
        let denial = Denial::wait(node, kept.mark, head)?;
        for (field, value) in fields {
            denial.says(field, value)?;
        }
    }
    Ok(())
}

/// Listens to events, and wants a signal to its process group for each.
const LISTENER: &str = r#"
import fcntl, os, signal, sys
sys.path.insert(0, "/opt/ynl")
from pyynl.lib import YnlFamily
os.setpgrp()
signal.signal(signal.SIGIO, lambda *_: os.write(1, b"signalled\n"))
family = YnlFamily("/opt/ynl/specs/dsi.yaml", schema="")
family.ntf_subscribe("audit")
fd = family.sock.fileno()
fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpgrp())
fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
print("listens", flush=True)
while True:
    signal.pause()
"#;

/// The kernel asks with all its tasks locked, and signals to a process group need that lock.
fn told_of_traceme(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    let listener = node.spawn("listener", &["python3", "-c", LISTENER])?;
    listener.wait_line("listens")?;
    let mark = node.kernel_mark();
    let way = format!("x:run=plain,{},traceme", of_zone("20"));
    node.run(&[&of_zone("10"), &way])?.ok()?.says("EPERM")?;
    until("a line of ptrace_traceme", || {
        let of_hook = |line: &String| line.contains("denied") && line.contains("ptrace_traceme");
        Ok(node.kernel_lines_since(mark).iter().any(of_hook))
    })?;
    // What is told elsewhere does signal it.
    node.run(&[&of_zone("10"), "x:kill=1,0"])?.ok()?;
    listener.wait_line("signalled")?;
    listener.signal(9)?;
    listener.join()?;
    Ok(())
}

/// What servers do all day: make processes, execute programs, talk through pipes and sockets, look at files and links.
const ORDINARY: &str = "set -e; for i in $(seq 20); do \
      echo $i | cat | sort >/tmp/of-zone; cp -a /tmp/of-zone /tmp/copy-of-zone; ls -lR /tmp /etc/apt /srv/lay >/dev/null; \
      find /usr/bin /srv/lay -newer /etc/hostname -name 'x*' >/dev/null; nice -n 1 true; (ulimit -n 100; true); \
      df /tmp >/dev/null; mkdir /tmp/dir-of-zone; mv /tmp/copy-of-zone /tmp/dir-of-zone; \
      chmod 700 /tmp/dir-of-zone; touch -d yesterday /tmp/of-zone; rm -r /tmp/dir-of-zone /tmp/of-zone; \
    done; python3 -c \"import os, subprocess, threading
for _ in range(5):
    subprocess.run(['/bin/true'], check=True)
    thread = threading.Thread(target=os.getpid); thread.start(); thread.join()
    child = os.fork()
    os.waitpid(child, 0) if child else os._exit(0)\"";

fn ordinary_load(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    let before = Counters::of(node)?;
    node.command(&["bash", "-c", &in_zone(10, &format!("{{ {ORDINARY}; }}"))])
        .timeout(std::time::Duration::from_secs(300))
        .run()?
        .ok()?;
    let refusals = Counters::of(node)?.refusals(&before)?;
    check!(refusals.is_empty(), "refused: {refusals:?}");
    Ok(())
}

/// The first refusal of each system call is told at once, though others with the same permission were before; the same
/// again is counted only.
fn told_by_call(cluster: &mut Cluster) -> TestResult {
    const MOUNT: &str = "syscall=165";
    const CHROOT: &str = "syscall=161";
    const SETHOSTNAME: &str = "syscall=170";
    let kept: &Kept = kept(cluster)?;
    let node = cluster.node("munster")?;
    let head = "denied sscid=10 ssnid=1 tscid=0 tsnid=1 perm=sys_admin";
    let lines = |mark: u64, call: &str| {
        let of_call =
            |line: &String| line.contains(head) && line.split_whitespace().any(|word| word == call);
        node.kernel_lines_since(mark)
            .into_iter()
            .filter(of_call)
            .count()
    };
    for call in [MOUNT, CHROOT] {
        until(call, || Ok(lines(kept.mark, call) > 0))?;
        // Of many attempts; a time in which it is told once may have ended among them.
        let told = lines(kept.mark, call);
        check!(told <= 2, "{told} lines of {call}");
    }
    let (mark, before) = (node.kernel_mark(), Counters::of(node)?);
    let script = "for time in 1 2 3; do /srv/plain/dsi-escape a:mount=/srv/mnt b:mount=/srv/mnt; done; \
                  hostname colby && exit 1; true";
    node.run(&["bash", "-c", &in_zone(10, script)])?.ok()?;
    until(SETHOSTNAME, || Ok(lines(mark, SETHOSTNAME) > 0))?;
    // One time in which it is told once may end meanwhile.
    let again = lines(mark, MOUNT);
    check!(again <= 2, "{again} lines of what was refused six times");
    // By whichever is told next: the first of these may find nothing left to say of those before.
    let held = |line: &String| line.contains(head) && line.contains(" suppressed=");
    until("a line that says how many were not told", || {
        Ok(node.kernel_lines_since(mark).iter().any(held))
    })?;
    let refused = Counters::of(node)?.rise(&before, "refused-no-permission")?;
    check!(refused >= 7, "{refused} refusals were counted of 7");
    Ok(())
}

/// How many processes exec all the time.
const EXECS: usize = 60;
/// Starts them, in the background and with little to say on when they run, and names them.
const EXEC: &str = "export AGAIN='exec nice -n 0 sh -c \"$AGAIN\"'
for i in $(seq $1); do nice -n 19 sh -c \"$AGAIN\" & echo $!; done; wait";

/// Whom a manager gives a ScID has it from then on, wherever in an exec he is at that moment.
fn set_during_exec(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    let count = EXECS.to_string();
    let load = node.spawn("execs", &["bash", "-c", EXEC, "execs", &count])?;
    let pids = || -> Result<Vec<u32>, Failure> {
        let output = load.output()?;
        Ok(output
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .collect())
    };
    until("all processes", || Ok(pids()?.len() == EXECS))?;
    let pids = pids()?;
    let mut requests: Vec<serde_json::Value> = Vec::new();
    for pid in &pids {
        requests.push(serde_json::json!(["task-set", {"pid": pid, "scid": 10}]));
    }
    for pid in &pids {
        requests.push(serde_json::json!(["task-get", {"pid": pid}]));
    }
    let answers = ynl_all(node, &requests);
    let list: Vec<String> = pids.iter().map(u32::to_string).collect();
    node.sh(&format!("kill -9 {}", list.join(" ")))?;
    let answers = answers?;
    check_eq!(answers.len(), requests.len(), "answers");
    for answer in &answers[pids.len()..] {
        check_eq!(answer["scid"], 10, "ScID of a process: {answer}");
    }
    Ok(())
}

/// Why not.
const WATCHED: &str = "somebody traces or measures it";
const SHARED: &str = "another process shares its memory";

/// Traces or measures a child, which it names, until it is ended itself; or shares its memory with it.
const WATCH: &str = r#"
import ctypes, os, signal, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
if sys.argv[1] == "share":
    CLONE, OF_VFORK = 56, 0x4100
    if libc.syscall(CLONE, OF_VFORK | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        print("watches", os.getpid(), flush=True)
        while True:
            signal.pause()
    sys.exit("the child is no more")
child = os.fork()
if child == 0:
    while True:
        signal.pause()
if sys.argv[1] == "trace":
    SEIZE = 0x4206
    result = libc.ptrace(SEIZE, child, 0, 0)
else:
    PERF_EVENT_OPEN, SOFTWARE, NOT_OF_KERNEL = 298, 1, 1 << 5 | 1 << 6
    attributes = struct.pack("<2I7Q", SOFTWARE, 64, 0, 0, 0, 0, NOT_OF_KERNEL, 0, 0)
    result = libc.syscall(PERF_EVENT_OPEN, attributes, child, -1, -1, 0)
if result < 0:
    raise OSError(ctypes.get_errno(), sys.argv[1])
print("watches", child, flush=True)
while True:
    signal.pause()
"#;

/// Whom somebody watches keeps his ScID, and a manager is told why; once nobody does he gets another one.
fn set_while_watched(cluster: &mut Cluster, how: &str, why: &str) -> TestResult {
    let node = cluster.node("munster")?;
    let watcher = node.spawn(how, &["python3", "-c", WATCH, how])?;
    let line = watcher.wait_line("watches")?;
    let pid: u32 = line
        .trim()
        .rsplit(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| Failure::new(format!("the watcher says '{line}'")))?;
    let set = serde_json::json!(["task-set", {"pid": pid, "scid": 10}]);
    let get = serde_json::json!(["task-get", {"pid": pid}]);
    let answers = ynl_all(node, &[set.clone(), get.clone()])?;
    let said = answers[0]["refused"].as_str().unwrap_or_default();
    check!(
        said.contains(why),
        "task-set for who is watched: {answers:?}"
    );
    check_eq!(answers[1]["scid"], 2, "ScID of who is watched: {answers:?}");
    watcher.signal(9)?;
    watcher.join()?;
    until("nobody watches it any more", || {
        let answers = ynl_all(node, &[set.clone(), get.clone()])?;
        Ok(answers[0]["refused"].is_null() && answers[1]["scid"] == 10)
    })?;
    node.run(&["kill", "-9", &pid.to_string()])?.ok()?;
    Ok(())
}

/// Has itself refused as many kinds as it can, over and over: what it names is processes.
const FLOOD: &str = r#"
import os, socket, sys
def tries(way):
    try:
        way()
    except OSError:
        pass
pids = [int(pid) for pid in sys.argv[1:]]
files = "/dev/mem", "/proc/sysrq-trigger", "/sys/kernel/tracing/kprobe_events", "/proc/sys/kernel/core_pattern"
while True:
    for pid in pids:
        tries(lambda: os.kill(pid, 0))
        tries(lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR)))
    for file in files:
        tries(lambda: os.close(os.open(file, os.O_WRONLY)))
    for kind in socket.SOCK_DGRAM, socket.SOCK_RAW:
        tries(lambda: socket.socket(socket.AF_INET, kind, 0 if kind == socket.SOCK_DGRAM else 255).close())
"#;

/// A zone that is refused more than the log has room for hides no other one's refusal.
fn flood_of_a_zone(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    let mut victims = Vec::new();
    for zone in ["20", "30", "40"] {
        victims.push(Victim::start(node, zone, false)?);
    }
    let pids: Vec<String> = victims
        .iter()
        .map(|victim| victim.process.pid().to_string())
        .collect();
    node.write("/srv/flood.py", FLOOD)?;
    let (mark, before) = (node.kernel_mark(), Counters::of(node)?);
    let script = in_zone(
        10,
        &format!("exec python3 /srv/flood.py 1 {}", pids.join(" ")),
    );
    let flood = node.spawn("flood", &["bash", "-c", &script])?;
    until("refusals by the hundred", || {
        Ok(Counters::of(node)?.rise(&before, "log-held")? > 1000)
    })?;
    let way = format!("x:kill={},0", pids[2]);
    node.run(&[&of_zone("20"), &way])?.ok()?.says("EPERM")?;
    let denial = Denial::wait(
        node,
        mark,
        "denied sscid=20 ssnid=1 tscid=40 tsnid=1 perm=signal",
    )?;
    // Nothing of the flood's is lost without being counted.
    let held: u64 = denial
        .field("suppressed")
        .and_then(|held| held.parse().ok())
        .ok_or_else(|| Failure::new("the line does not say how many were held"))?;
    check!(held > 0, "{held} lines held");
    flood.signal(9)?;
    flood.join()?;
    let of_flood = |line: &String| line.contains("denied sscid=10 ");
    let told = node.kernel_lines_since(mark);
    let told = told.iter().filter(|line| of_flood(line)).count();
    check!(told >= 20, "{told} lines of the flood itself");
    for victim in &victims {
        first_process_ends(node, victim)?;
    }
    Ok(())
}

/// Reads of each process what the kernel asks about aloud, again and again.
const LIST: &str =
    "for round in 1 2 3 4 5; do for pid in /proc/[0-9]*; do readlink $pid/exe; done; done; true";

/// Of all that a list of the processes is refused, each kind is told once: the zone, whose processes, the system call.
fn told_of_list(cluster: &mut Cluster) -> TestResult {
    let node = cluster.node("munster")?;
    let (mark, before) = (node.kernel_mark(), Counters::of(node)?);
    node.run(&["bash", "-c", &in_zone(10, LIST)])?.ok()?;
    let after = Counters::of(node)?;
    let head = "denied sscid=10 ssnid=1 tscid=20 tsnid=1 perm=trace";
    // The suite's victims are refused to read, twice in each round; the other program's call may have been told of before.
    let refused = after.rise(&before, "refused-no-permission")?;
    check!(
        refused >= 10,
        "{refused} refusals were counted of 10 or more"
    );
    let held = after.rise(&before, "log-held")?;
    check!(
        held >= refused - 5,
        "{held} lines held of {refused} refusals"
    );
    let lines = node.kernel_lines_since(mark);
    let told = lines.iter().filter(|line| line.contains(head)).count();
    // As above.
    check!(told <= 2, "{told} lines of one kind: {lines:?}");
    Ok(())
}

/// An attack on a process is no list: it is told of each time.
fn told_of_attach(cluster: &mut Cluster) -> TestResult {
    let kept: &Kept = kept(cluster)?;
    let node = cluster.node("munster")?;
    let victim = kept
        .victims
        .first()
        .ok_or_else(|| Failure::new("no victim"))?;
    let way = format!("mem={},{}", victim.process.pid(), victim.address);
    let mark = node.kernel_mark();
    let script = format!("/srv/plain/dsi-escape a:{way} b:{way}");
    node.run(&["bash", "-c", &in_zone(10, &script)])?.ok()?;
    let head = "denied sscid=10 ssnid=1 tscid=20 tsnid=1 perm=trace";
    until("two lines", || {
        let lines = node.kernel_lines_since(mark);
        Ok(lines.iter().filter(|line| line.contains(head)).count() == 2)
    })
}
