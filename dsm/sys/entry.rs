// SPDX-License-Identifier: GPL-2.0

//! The functions that the kernel calls: each decodes its pointers, asks a safe hook and turns
//! the answer into an errno. No policy here, and no loop.

use super::{bindings, errors};
use super::net::{self, Departure, Ends, Incoming, LabelWords, Packet, SockRef, SockView};
use super::ptrmap::{self, Context, Held};
use super::system::{self, Part};
use super::task::{CredRef, Program, TaskRef};
use crate::engine::{ScId, SystemPermission};
use crate::hooks::socket::Errors;
use crate::hooks::{arrival, cred, departure, exec, machine, option, process, socket, unix, Verdict};
use crate::state::recent::Handshake;
use crate::state::{owners, tasks};
use core::net::IpAddr;
use core::ptr::null;
use kernel::ffi::{c_char, c_int, c_void};
use kernel::prelude::*;
use kernel::str::CStrExt;

fn errno(verdict: Verdict, error: Error) -> c_int {
    match verdict {
        Ok(()) => 0,
        Err(_) => error.to_errno(),
    }
}

fn status(result: Result) -> c_int {
    match result {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// A call on a socket, with an address or none; other sockets than TCP's and UDP's pass.
///
/// # Safety
///
/// The pointers are those of a socket hook that is running; `address` may be null.
#[inline(always)]
unsafe fn on_socket(
    sock: *const bindings::socket,
    address: (*const bindings::sockaddr, c_int),
    error: Error,
    ask: impl FnOnce(&SockView<'_>) -> Verdict,
) -> c_int {
    // SAFETY: by the caller's promise.
    match ptrmap::read(|held| unsafe { SockView::from_raw(sock, (null(), 0), address, held) }) {
        Some(view) => errno(ask(&view), error),
        None => 0,
    }
}

/// The same for a call that takes a permission on sockets that cannot be labelled, too.
///
/// # Safety
///
/// As [`on_socket`].
#[inline(always)]
unsafe fn on_any_socket(
    sock: *const bindings::socket,
    address: (*const bindings::sockaddr, c_int),
    hook: &'static str,
    ask: impl FnOnce(&SockView<'_>) -> Verdict,
) -> c_int {
    // SAFETY: by the caller's promise.
    match ptrmap::read(|held| unsafe { SockView::from_raw(sock, (null(), 0), address, held) }) {
        Some(view) => errno(ask(&view), EACCES),
        // SAFETY: by the caller's promise.
        None => unsafe { on_other(sock, hook) },
    }
}

/// A call on a socket that is neither TCP nor UDP.
///
/// # Safety
///
/// The socket is that of a hook that is running.
unsafe fn on_other(sock: *const bindings::socket, hook: &'static str) -> c_int {
    // SAFETY: by the caller's promise.
    if unsafe { net::is_unmediated(sock) } {
        errno(socket::unmediated(hook), EACCES)
    } else {
        0
    }
}

/// A message on a socket that is neither TCP nor UDP.
///
/// # Safety
///
/// The socket is that of `socket_sendmsg`, which is running.
unsafe fn on_other_message(sock: *const bindings::socket) -> c_int {
    const HOOK: &str = "socket_sendmsg";
    if unix::is_within_zone() {
        // SAFETY: by the caller's promise.
        return unsafe { on_other(sock, HOOK) };
    }
    // SAFETY: by the caller's promise.
    match unsafe { (net::sock_of(sock), net::unix_peer(sock)) } {
        (Some(own), Some(peer)) => errno(unix::go_on(own, peer.sock(), HOOK), EACCES),
        (own, _) => {
            // SAFETY: by the caller's promise.
            let answer = unsafe { on_other(sock, HOOK) };
            if let (Some(own), 0) = (own, answer) {
                socket::sends_other(own);
            }
            answer
        }
    }
}

/// No address.
const NOWHERE: (*const bindings::sockaddr, c_int) = (null(), 0);

/// A socket that the module mediates.
///
/// # Safety
///
/// `sk` is null or a socket that is not freed while the value lives.
unsafe fn mediated<'a>(sk: *const bindings::sock) -> Option<SockRef<'a>> {
    // SAFETY: by the caller's promise.
    let sk = unsafe { bindings::dsm_sock_mediated(sk) };
    // SAFETY: by the caller's promise.
    (!sk.is_null()).then(|| unsafe { SockRef::from_raw(sk) })
}

/// A file is used otherwise than to read or write it.
///
/// # Safety
///
/// `file` is an open file.
unsafe fn on_device(file: *const bindings::file, hook: &'static str) -> c_int {
    // SAFETY: by the caller's promise.
    if unsafe { bindings::dsm_is_past_sockets(file) } {
        errno(socket::unmediated(hook), EACCES)
    } else {
        0
    }
}

/// May the process receive through a socket?
///
/// # Safety
///
/// The socket is that of a hook that is running.
unsafe fn on_receive(sock: *const bindings::socket, hook: &'static str) -> c_int {
    // SAFETY: by the caller's promise.
    unsafe { on_any_socket(sock, NOWHERE, hook, |view| socket::receive(view, hook)) }
}

/// What a call or packet is asked by: a socket and who acts.
///
/// # Safety
///
/// The socket is that of a hook that is running, the task the one that runs, and the RCU read lock is
/// held until the hook is through with the values.
#[inline(always)]
unsafe fn call<'a>(
    sk: *const bindings::sock,
    task: *const bindings::task_struct,
) -> (SockRef<'a>, TaskRef<'a>, Held<'a>) {
    // SAFETY: by the caller's promise.
    unsafe { (SockRef::from_raw(sk), TaskRef::from_raw(task), Held::assume()) }
}

/// Writes a label's 20 bytes.
///
/// # Safety
///
/// `label` has room for them, at any alignment.
#[inline(always)]
unsafe fn write_label(label: *mut u8, [a, b, c]: LabelWords) {
    // SAFETY: by the caller's promise.
    unsafe {
        label.cast::<u64>().write_unaligned(a);
        label.add(8).cast::<u64>().write_unaligned(b);
        label.add(16).cast::<u32>().write_unaligned(c as u32);
    }
}

/// An attribute's name.
///
/// # Safety
///
/// `name` is a NUL-terminated string.
unsafe fn on_attribute(name: *const c_char) -> c_int {
    // SAFETY: by the caller's promise.
    errno(
        option::attribute(unsafe { CStr::from_char_ptr(name) }),
        EPERM,
    )
}

/// Whoever acts uses a part of the machine, or none.
#[inline(always)]
fn on_machine(part: Option<SystemPermission>, hook: &'static str, error: Error) -> c_int {
    match part {
        Some(part) => errno(machine::access(part, hook), error),
        None => 0,
    }
}

/// A message of a process' to another one's netlink socket; of the kernel's own are most.
///
/// # Safety
///
/// The arguments are those of `socket_sock_rcv_skb`, which is running.
unsafe fn on_message(sk: *const bindings::sock, skb: *const bindings::sk_buff) -> c_int {
    // SAFETY: by the caller's promise.
    if unsafe { bindings::dsm_is_message(sk, skb) } {
        // SAFETY: as above.
        errno(unix::message(unsafe { SockRef::from_raw(sk) }), EACCES)
    } else {
        0
    }
}

/// Defines entry points and checks each against its declaration in a header of the shim; that of
/// a hook the C side checks against the kernel's.
macro_rules! entries {
    ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        #[no_mangle]
        unsafe extern "C" fn $name($($arg: $ty),*) $(-> $ret)? $body
        const _: unsafe extern "C" fn($($ty),*) $(-> $ret)? = bindings::$name;
    )*};
}

entries! {
    fn dsm_hook_task_free(task: *mut bindings::task_struct) {
        // SAFETY: the task is freed only after the hook.
        exec::ended(unsafe { TaskRef::from_raw(task) });
    }

    fn dsm_hook_task_alloc(task: *mut bindings::task_struct, _flags: u64) -> c_int {
        // SAFETY: the task is being made.
        status(exec::cloned(unsafe { TaskRef::from_raw(task) }))
    }

    fn dsm_hook_sk_free_security(sk: *mut bindings::sock) {
        // SAFETY: the socket is freed only after the hook.
        crate::state::sockets::forget(unsafe { SockRef::from_raw(sk) });
    }

    fn dsm_hook_bprm_creds_from_file(
        bprm: *mut bindings::linux_binprm,
        file: *const bindings::file,
    ) -> c_int {
        // SAFETY: the hook's arguments.
        errno(exec::execute(&unsafe { Program::from_raw(bprm, file) }), EACCES)
    }

    fn dsm_hook_bprm_committed_creds(_bprm: *const bindings::linux_binprm) {
        exec::executed();
    }

    fn dsm_hook_inode_setxattr(
        _idmap: *mut bindings::mnt_idmap,
        _dentry: *mut bindings::dentry,
        name: *const c_char,
        _value: *const c_void,
        _size: usize,
        _flags: c_int,
    ) -> c_int {
        // SAFETY: an attribute's name is a string.
        unsafe { on_attribute(name) }
    }

    fn dsm_hook_inode_removexattr(
        _idmap: *mut bindings::mnt_idmap,
        _dentry: *mut bindings::dentry,
        name: *const c_char,
    ) -> c_int {
        // SAFETY: an attribute's name is a string.
        unsafe { on_attribute(name) }
    }

    fn dsm_hook_inode_xattr_skipcap(name: *const c_char) -> c_int {
        // SAFETY: an attribute's name is a string.
        option::is_label(unsafe { CStr::from_char_ptr(name) }).into()
    }

    fn dsm_hook_capable(
        cred: *const bindings::cred,
        ns: *mut bindings::user_namespace,
        capability: c_int,
        options: u32,
    ) -> c_int {
        // SAFETY: the hook's argument.
        let Some(part) = (unsafe { system::of_capability(ns, capability) }) else {
            return 0;
        };
        // SAFETY: the hook's argument.
        let cred = unsafe { CredRef::from_raw(cred) };
        errno(
            machine::capability(part, cred, system::is_quiet_capability(options)),
            EPERM,
        )
    }

    fn dsm_hook_cred_free(cred: *mut bindings::cred) {
        // SAFETY: the credentials are freed only after the hook.
        cred::ended(unsafe { CredRef::from_raw(cred) });
    }

    fn dsm_hook_cred_prepare(
        new: *mut bindings::cred,
        old: *const bindings::cred,
        _flags: bindings::gfp_t,
    ) -> c_int {
        // SAFETY: the hook's arguments.
        let (new, old) = unsafe { (CredRef::from_raw(new), CredRef::from_raw(old)) };
        status(cred::prepared(new, old))
    }

    fn dsm_hook_cred_transfer(new: *mut bindings::cred, old: *const bindings::cred) {
        // SAFETY: the hook's arguments.
        let (new, old) = unsafe { (CredRef::from_raw(new), CredRef::from_raw(old)) };
        cred::transferred(new, old);
    }

    fn dsm_hook_uring_override_creds(new: *const bindings::cred) -> c_int {
        // SAFETY: the hook's argument.
        errno(cred::borrow(unsafe { CredRef::from_raw(new) }), EACCES)
    }

    fn dsm_hook_file_free_security(file: *mut bindings::file) {
        owners::FILES.forget(file as usize);
    }

    fn dsm_hook_file_set_fowner(file: *mut bindings::file) {
        process::owns(file as usize);
    }

    fn dsm_hook_file_send_sigiotask(
        task: *mut bindings::task_struct,
        fown: *mut bindings::fown_struct,
        _signal: c_int,
    ) -> c_int {
        // SAFETY: the hook's argument.
        let file = unsafe { bindings::dsm_owned_file(fown) };
        // SAFETY: the hook's argument.
        errno(process::ready(file as usize, unsafe { TaskRef::from_raw(task) }), EPERM)
    }

    fn dsm_hook_file_open(file: *mut bindings::file) -> c_int {
        // SAFETY: the hook's argument.
        match unsafe { system::of_file(file) } {
            Part::None => 0,
            Part::Network => errno(socket::unmediated("file_open"), EACCES),
            // SAFETY: the hook's argument.
            Part::Process => ptrmap::read(|held| match unsafe { system::process_of(file, held) } {
                Some(task) => errno(process::pace(task, "file_open"), EACCES),
                None => 0,
            }),
            Part::Machine(part) => errno(machine::access(part, "file_open"), EACCES),
        }
    }

    fn dsm_hook_file_ioctl(
        file: *mut bindings::file,
        _command: u32,
        _argument: c_ulong,
    ) -> c_int {
        // SAFETY: the hook's argument.
        unsafe { on_device(file, "file_ioctl") }
    }

    fn dsm_hook_file_ioctl_compat(
        file: *mut bindings::file,
        _command: u32,
        _argument: c_ulong,
    ) -> c_int {
        // SAFETY: the hook's argument.
        unsafe { on_device(file, "file_ioctl_compat") }
    }

    fn dsm_hook_mmap_file(
        file: *mut bindings::file,
        _asked: c_ulong,
        _protection: c_ulong,
        _flags: c_ulong,
    ) -> c_int {
        if file.is_null() {
            return 0;
        }
        // SAFETY: the hook's argument.
        unsafe { on_device(file, "mmap_file") }
    }

    fn dsm_hook_inode_setattr(
        _idmap: *mut bindings::mnt_idmap,
        dentry: *mut bindings::dentry,
        attributes: *mut bindings::iattr,
    ) -> c_int {
        // SAFETY: the hook's arguments.
        match unsafe { system::of_chown(dentry, attributes) } {
            Some(part) => errno(machine::access(part, "inode_setattr"), EACCES),
            None => 0,
        }
    }

    fn dsm_hook_tun_dev_create() -> c_int {
        errno(socket::unmediated("tun_dev_create"), EACCES)
    }

    fn dsm_hook_tun_dev_open(_security: *mut c_void) -> c_int {
        errno(socket::unmediated("tun_dev_open"), EACCES)
    }

    fn dsm_hook_tun_dev_attach_queue(_security: *mut c_void) -> c_int {
        errno(socket::unmediated("tun_dev_attach_queue"), EACCES)
    }

    fn dsm_hook_locked_down(what: u32) -> c_int {
        on_machine(system::of_lockdown(what), "locked_down", EPERM)
    }

    fn dsm_hook_bpf(
        _command: c_int,
        _attributes: *mut bindings::bpf_attr,
        _size: u32,
        kernel: bool,
    ) -> c_int {
        let part = (!kernel).then_some(SystemPermission::Bpf);
        on_machine(part, "bpf", EPERM)
    }

    fn dsm_hook_perf_event_open(kind: c_int) -> c_int {
        on_machine(system::of_perf(kind), "perf_event_open", EACCES)
    }

    fn dsm_hook_task_kill(
        task: *mut bindings::task_struct,
        _info: *mut bindings::kernel_siginfo,
        _signal: c_int,
        _cred: *const bindings::cred,
    ) -> c_int {
        // SAFETY: the hook's argument.
        errno(process::signal(unsafe { TaskRef::from_raw(task) }), EPERM)
    }

    fn dsm_hook_task_setrlimit(
        task: *mut bindings::task_struct,
        _resource: u32,
        _limit: *mut bindings::rlimit,
    ) -> c_int {
        // SAFETY: the hook's argument.
        errno(process::limit(unsafe { TaskRef::from_raw(task) }), EPERM)
    }

    fn dsm_hook_task_setnice(task: *mut bindings::task_struct, _nice: c_int) -> c_int {
        // SAFETY: the hook's argument.
        errno(process::pace(unsafe { TaskRef::from_raw(task) }, "task_setnice"), EPERM)
    }

    fn dsm_hook_task_setioprio(task: *mut bindings::task_struct, _priority: c_int) -> c_int {
        // SAFETY: the hook's argument.
        errno(process::pace(unsafe { TaskRef::from_raw(task) }, "task_setioprio"), EPERM)
    }

    fn dsm_hook_task_setscheduler(task: *mut bindings::task_struct) -> c_int {
        // SAFETY: the hook's argument.
        errno(process::pace(unsafe { TaskRef::from_raw(task) }, "task_setscheduler"), EPERM)
    }

    fn dsm_hook_ptrace_access_check(child: *mut bindings::task_struct, mode: u32) -> c_int {
        let look = system::look_of_trace(mode);
        // SAFETY: the hook's argument.
        errno(process::trace(unsafe { TaskRef::from_raw(child) }, look), EPERM)
    }

    fn dsm_hook_ptrace_traceme(parent: *mut bindings::task_struct) -> c_int {
        // SAFETY: the hook's argument.
        errno(process::traced_by(unsafe { TaskRef::from_raw(parent) }), EPERM)
    }

    fn dsm_hook_socket_setsockopt(
        sock: *mut bindings::socket,
        level: c_int,
        optname: c_int,
    ) -> c_int {
        // SAFETY: the hook's argument.
        if unsafe { net::is_ping(sock) } {
            return errno(option::set_bare(level, optname), EPERM);
        }
        // SAFETY: the hook's arguments.
        unsafe {
            on_socket(sock, NOWHERE, EPERM, |view| {
                option::set(view, level, optname)
            })
        }
    }

    fn dsm_hook_socket_getsockopt(
        sock: *mut bindings::socket,
        level: c_int,
        optname: c_int,
    ) -> c_int {
        if option::receives(level, optname) {
            // SAFETY: the hook's argument.
            return unsafe { on_receive(sock, "socket_getsockopt") };
        }
        // SAFETY: the hook's arguments.
        unsafe {
            on_socket(sock, NOWHERE, errors::no_such_option(), |view| {
                option::get(view, level, optname)
            })
        }
    }

    fn dsm_hook_inet_conn_request(
        sk: *const bindings::sock,
        _skb: *mut bindings::sk_buff,
        _req: *mut bindings::request_sock,
    ) -> c_int {
        // SAFETY: the hook's argument.
        status(socket::requested(unsafe { SockRef::from_raw(sk) }))
    }

    fn dsm_hook_sk_clone_security(sk: *const bindings::sock, newsk: *mut bindings::sock) {
        // SAFETY: both live while one is cloned from the other.
        let parent = unsafe { mediated(sk) };
        if newsk.is_null() {
            return;
        }
        // SAFETY: as above; the clone is its maker's alone.
        let clone = unsafe { net::Cloned::from_raw(newsk) };
        match parent {
            Some(parent) => socket::cloned(parent, &clone),
            // SAFETY: as above.
            None => socket::cloned_other(unsafe { SockRef::from_raw(sk) }, &clone),
        }
    }

    fn dsm_hook_inet_csk_clone(
        newsk: *mut bindings::sock,
        req: *const bindings::request_sock,
    ) {
        // SAFETY: the socket has just been made and is not shown to anybody yet.
        if let Some(child) = unsafe { mediated(newsk) } {
            // SAFETY: the request is that of the socket, and lives while the hook runs.
            let mut from = [0; 16];
            // SAFETY: as above; there is room for 16 bytes.
            let len = unsafe { bindings::dsm_request_peer(newsk, req, from.as_mut_ptr()) };
            let [a, b, c, d, ..] = from;
            let from = match len {
                4 => Some(IpAddr::from([a, b, c, d])),
                16 => Some(IpAddr::from(from)),
                _ => None,
            };
            let (mut theirs, mut ours) = (0, 0);
            // SAFETY: as above; it is a TCP request.
            unsafe { bindings::dsm_request_starts(req, &mut theirs, &mut ours) };
            let (mut addrs, mut ports) = ([0; 4], 0);
            // SAFETY: as above; there is room for four words.
            unsafe { bindings::dsm_request_ends(req, addrs.as_mut_ptr(), &mut ports) };
            let of = Handshake {
                addrs,
                ports,
                starts: [theirs, ours],
            };
            // SAFETY: as above; the socket takes its options from it after this hook.
            let reserve = || unsafe { bindings::dsm_reserve_child(req) };
            // SAFETY: as above; it is a TCP socket.
            let part = unsafe { bindings::dsm_is_part(newsk) };
            socket::connection(child, from, part, &of, reserve);
        }
    }

    fn dsm_hook_mptcp_add_subflow(sk: *mut bindings::sock, ssk: *mut bindings::sock) -> c_int {
        // SAFETY: both live while one becomes a part of the other.
        let (whole, part) = unsafe { (SockRef::from_raw(sk), SockRef::from_raw(ssk)) };
        // SAFETY: a part is a TCP socket, and locked by the hook's caller.
        let reserve = |sleeper| unsafe { part.reserve_locked(sleeper) };
        status(socket::adopt_part(whole, part, reserve))
    }

    fn dsm_hook_unix_stream_connect(
        _sock: *mut bindings::sock,
        other: *mut bindings::sock,
        newsk: *mut bindings::sock,
    ) -> c_int {
        // SAFETY: the hook's arguments; the new socket is not shown to anybody yet.
        let (other, newsk) = unsafe { (SockRef::from_raw(other), SockRef::from_raw(newsk)) };
        errno(unix::connect(other, newsk), EACCES)
    }

    fn dsm_hook_unix_may_send(
        _sock: *mut bindings::socket,
        other: *mut bindings::socket,
    ) -> c_int {
        if other.is_null() {
            // It is being closed.
            return errors::connection_refused().to_errno();
        }
        // SAFETY: the hook's argument.
        match unsafe { net::sock_of(other) } {
            Some(other) => errno(unix::send(other), EACCES),
            None => errors::connection_refused().to_errno(),
        }
    }

    fn dsm_hook_file_receive(file: *mut bindings::file) -> c_int {
        // SAFETY: the hook's argument.
        let socket = unsafe { bindings::dsm_file_socket(file) };
        if socket.is_null() {
            return 0;
        }
        // SAFETY: the file holds its socket.
        match unsafe { net::sock_of(socket) } {
            Some(sock) => errno(unix::take(sock), EACCES),
            None => 0,
        }
    }

    fn dsm_hook_socket_create(
        family: c_int,
        kind: c_int,
        protocol: c_int,
        kern: c_int,
    ) -> c_int {
        errno(socket::create(family, kind, protocol, kern != 0), EACCES)
    }

    fn dsm_hook_socket_post_create(
        sock: *mut bindings::socket,
        _family: c_int,
        _kind: c_int,
        _protocol: c_int,
        kern: c_int,
    ) -> c_int {
        // SAFETY: the hook's arguments.
        match ptrmap::read(|held| unsafe {
            SockView::from_raw(sock, (null(), 0), NOWHERE, held)
        }) {
            Some(view) => status(socket::created(view.sock(), kern != 0)),
            // SAFETY: the hook's argument.
            None => match unsafe { net::sock_of(sock) } {
                Some(sock) => status(socket::created_other(sock, kern != 0)),
                None => 0,
            },
        }
    }

    fn dsm_hook_socket_bind(
        sock: *mut bindings::socket,
        address: *mut bindings::sockaddr,
        len: c_int,
    ) -> c_int {
        // SAFETY: the hook's arguments; the address is the kernel's copy.
        unsafe { on_any_socket(sock, (address, len), "socket_bind", socket::bind) }
    }

    fn dsm_hook_socket_connect(
        sock: *mut bindings::socket,
        address: *mut bindings::sockaddr,
        len: c_int,
    ) -> c_int {
        // SAFETY: the hook's arguments; the address is the kernel's copy.
        unsafe { on_any_socket(sock, (address, len), "socket_connect", socket::connect) }
    }

    fn dsm_hook_socket_listen(sock: *mut bindings::socket, _backlog: c_int) -> c_int {
        // SAFETY: the hook's arguments.
        unsafe { on_any_socket(sock, NOWHERE, "socket_listen", socket::listen) }
    }

    fn dsm_hook_socket_accept(
        sock: *mut bindings::socket,
        _newsock: *mut bindings::socket,
    ) -> c_int {
        // SAFETY: the hook's arguments.
        unsafe { on_any_socket(sock, NOWHERE, "socket_accept", socket::accept) }
    }

    fn dsm_known_stream(
        sk: *const bindings::sock,
        task: *const bindings::task_struct,
        port: u32,
    ) -> bool {
        // SAFETY: the call's socket and the running task; the shim holds the RCU read lock.
        let (sock, task, held) = unsafe { call(sk, task) };
        socket::may_stream(sock, task, port, &held)
    }

    fn dsm_known_datagram(
        sk: *const bindings::sock,
        task: *const bindings::task_struct,
        word: u64,
        port: u32,
    ) -> bool {
        // SAFETY: as above.
        let (sock, task, held) = unsafe { call(sk, task) };
        socket::may_send_datagram(sock, task, word, port, &held)
    }

    fn dsm_recent_datagram(
        sk: *const bindings::sock,
        task: *const bindings::task_struct,
        word: u64,
        port: u32,
    ) -> bool {
        // SAFETY: as above.
        let (sock, task, held) = unsafe { call(sk, task) };
        socket::may_send_again(sock, task, word, port, &held)
    }

    fn dsm_known_receiver(
        sk: *const bindings::sock,
        task: *const bindings::task_struct,
        port: u32,
    ) -> bool {
        // SAFETY: as above.
        let (sock, task, held) = unsafe { call(sk, task) };
        socket::may_receive(sock, task, port, &held)
    }

    fn dsm_known_segment(sk: *const bindings::sock) -> bool {
        // SAFETY: the socket lives while the hook runs. A TCP socket gets its segments from the IP layer,
        // which delivers them under the RCU read lock (ip_local_deliver_finish, ip6_input_finish).
        unsafe { arrival::is_believed(SockRef::from_raw(sk), &Held::assume()) }
    }

    fn dsm_known_arrival(
        sk: *const bindings::sock,
        addrs: u64,
        ports: u32,
        label0: u64,
        label1: u64,
        label2: u32,
    ) -> bool {
        // SAFETY: as above, of UDP.
        let (sock, held) = unsafe { (SockRef::from_raw(sk), Held::assume()) };
        let label = [label0, label1, u64::from(label2)];
        arrival::is_known_datagram(sock, Ends { addrs, ports }, label, &held)
    }

    fn dsm_recent_arrival(
        sk: *const bindings::sock,
        addrs: u64,
        ports: u32,
        label0: u64,
        label1: u64,
        label2: u32,
    ) -> bool {
        // SAFETY: as above.
        let (sock, held) = unsafe { (SockRef::from_raw(sk), Held::assume()) };
        let label = [label0, label1, u64::from(label2)];
        arrival::is_recent_datagram(sock, Ends { addrs, ports }, label, &held)
    }

    fn dsm_known_bare(sk: *const bindings::sock) -> bool {
        // SAFETY: the socket is the packet's and lives while the hook runs; netfilter hooks run under
        // the RCU read lock.
        unsafe { departure::is_bare(SockRef::from_raw(sk), &Held::assume()) }
    }

    fn dsm_known_label(
        sk: *const bindings::sock,
        task: *const bindings::task_struct,
        addrs: u64,
        ports: u32,
        label: *mut u8,
    ) -> bool {
        // SAFETY: the packet's socket and the running task; netfilter hooks run under the RCU read lock.
        let (sock, task, held) = unsafe { call(sk, task) };
        let Some(words) = departure::known_label(sock, task, Ends { addrs, ports }, &held) else {
            return false;
        };
        // SAFETY: the shim's buffer has room for a label's 20 bytes.
        unsafe { write_label(label, words) };
        true
    }

    fn dsm_recent_label(
        sk: *const bindings::sock,
        task: *const bindings::task_struct,
        addrs: u64,
        ports: u32,
        label: *mut u8,
    ) -> bool {
        // SAFETY: as above.
        let (sock, task, held) = unsafe { call(sk, task) };
        let Some(words) = departure::recent_label(sock, task, Ends { addrs, ports }, &held) else {
            return false;
        };
        // SAFETY: the shim's buffer has room for a label's 20 bytes.
        unsafe { write_label(label, words) };
        true
    }

    fn dsm_on_sendmsg(
        sock: *mut bindings::socket,
        msg: *mut bindings::msghdr,
        size: c_int,
    ) -> c_int {
        let view = ptrmap::read(|held| {
            // SAFETY: the hook's arguments; the message's address is the kernel's copy.
            let view = unsafe { SockView::from_raw(sock, (msg, size), NOWHERE, held) }?;
            Some((!socket::may_send(&view, held)).then_some(view))
        });
        match view {
            Some(Some(view)) => errno(socket::send(&view), EACCES),
            Some(None) => 0,
            // SAFETY: the hook's argument.
            None => unsafe { on_other_message(sock) },
        }
    }

    fn dsm_on_recvmsg(sock: *const bindings::socket) -> c_int {
        // SAFETY: the hook's argument.
        unsafe { on_receive(sock, "socket_recvmsg") }
    }

    fn dsm_on_errors(more: bool) -> c_int {
        match socket::errors(more) {
            Ok(Errors::Whole) => bindings::DSM_ERRORS_WHOLE as c_int,
            Ok(Errors::Bare) => bindings::DSM_ERRORS_BARE as c_int,
            Err(_) => EACCES.to_errno(),
        }
    }

    fn dsm_on_file_read(sock: *const bindings::socket) -> c_int {
        // SAFETY: the file holds its socket.
        unsafe { on_receive(sock, "file_permission") }
    }

    fn dsm_on_device() -> c_int {
        errno(socket::unmediated("file_permission"), EACCES)
    }

    fn dsm_on_arrival(sk: *mut bindings::sock, skb: *mut bindings::sk_buff) -> c_int {
        let mut packet = bindings::dsm_packet::default();
        // SAFETY: the hook's arguments.
        let kind = unsafe { bindings::dsm_arrival(sk, skb, &mut packet) };
        if kind == bindings::DSM_ARRIVAL_FOREIGN {
            // SAFETY: the hook's arguments.
            return unsafe { on_message(sk, skb) };
        }
        // SAFETY: as above: none but packets of the IP layer's are not foreign.
        let held = unsafe { Held::assume() };
        // SAFETY: filled in above; the packet lives while the hook runs.
        let packet = unsafe { Packet::from_raw(&packet, kind == bindings::DSM_ARRIVAL_IPV4) };
        // SAFETY: the hook's arguments; RCU as above.
        let (sock, incoming) = unsafe { (SockRef::from_raw(sk), Incoming::from_raw(sk, skb)) };
        errno(arrival::arrival(sock, &packet, &held, &incoming), EACCES)
    }

    fn dsm_departure(
        sk: *const bindings::sock,
        packet: *const bindings::dsm_packet,
        label: *mut u8,
    ) -> u32 {
        // SAFETY: the shim filled the packet in, and it lives while the hook runs.
        let packet = unsafe { Packet::from_raw(&*packet, true) };
        // SAFETY: the socket, if there is one, is the packet's and lives while the hook runs.
        let sock = (!sk.is_null()).then(|| unsafe { SockRef::from_raw(sk) });
        // SAFETY: netfilter hooks run under the RCU read lock.
        let held = unsafe { Held::assume() };
        // SAFETY: a stream's socket is locked while it sends; only a stream's is asked.
        let peer_start = |sock: SockRef<'_>| unsafe { sock.peer_start() };
        match departure::departure(sock, &packet, &held, peer_start) {
            Departure::Bare => bindings::DSM_OUT_BARE,
            Departure::Drop => bindings::DSM_OUT_DROP,
            Departure::Refuse => bindings::DSM_OUT_REFUSE,
            Departure::Label(words) => {
                // SAFETY: the shim's buffer has room for a label's 20 bytes.
                unsafe { write_label(label, words) };
                bindings::DSM_OUT_LABEL
            }
        }
    }

    fn dsm_departure6(
        sk: *const bindings::sock,
        packet: *const bindings::dsm_packet,
        header: *mut u8,
    ) -> u32 {
        // SAFETY: the shim filled the packet in, and it lives while the hook runs.
        let packet = unsafe { Packet::from_raw(&*packet, false) };
        // SAFETY: the socket, if there is one, is the packet's and lives while the hook runs.
        let sock = (!sk.is_null()).then(|| unsafe { SockRef::from_raw(sk) });
        // SAFETY: netfilter hooks run under the RCU read lock.
        let held = unsafe { Held::assume() };
        // SAFETY: a stream's socket is locked while it sends; only a stream's is asked.
        let peer_start = |sock: SockRef<'_>| unsafe { sock.peer_start() };
        match departure::departure(sock, &packet, &held, peer_start) {
            Departure::Bare => bindings::DSM_OUT_BARE,
            Departure::Drop => bindings::DSM_OUT_DROP,
            Departure::Refuse => bindings::DSM_OUT_REFUSE,
            Departure::Label(words) => {
                // SAFETY: the shim's buffer has room for 24 bytes, and their alignment.
                unsafe { header.cast::<[u64; 3]>().write(words) };
                bindings::DSM_OUT_LABEL
            }
        }
    }

    fn dsm_on_thread(thread: *const bindings::task_struct, scid: u32) -> c_int {
        // SAFETY: the shim holds the RCU read lock, so the thread is not freed.
        let thread = unsafe { TaskRef::from_raw(thread) };
        let kept = ptrmap::read(|held| {
            let cred = thread.credentials(held);
            owners::CREDS.try_set(cred.key(), ScId(scid), Context::Atomic)
        });
        status(kept.and_then(|()| tasks::set(thread, ScId(scid), Context::Atomic)))
    }
}
