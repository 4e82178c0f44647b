// SPDX-License-Identifier: GPL-2.0

//! The functions that the kernel calls: each decodes its pointers, asks a safe hook and turns
//! the answer into an errno. No policy here, and no loop.

use super::bindings;
use kernel::ffi::{c_char, c_int, c_void};

/// Defines entry points and checks each against its declaration in `hooks.h`, which the C side
/// checks against the kernel's.
macro_rules! entries {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => {$(
        #[no_mangle]
        extern "C" fn $name($($arg: $ty),*) $(-> $ret)? $body
        const _: unsafe extern "C" fn($($ty),*) $(-> $ret)? = bindings::$name;
    )*};
}

entries! {
    fn dsm_hook_task_free(_task: *mut bindings::task_struct) {}

    fn dsm_hook_task_alloc(_task: *mut bindings::task_struct, _clone_flags: u64) -> c_int { 0 }

    fn dsm_hook_sk_free_security(_sk: *mut bindings::sock) {}

    fn dsm_hook_bprm_creds_from_file(_bprm: *mut bindings::linux_binprm, _file: *const bindings::file) -> c_int { 0 }

    fn dsm_hook_bprm_committed_creds(_bprm: *const bindings::linux_binprm) {}

    fn dsm_hook_inode_setxattr(_idmap: *mut bindings::mnt_idmap, _dentry: *mut bindings::dentry, _name: *const c_char, _value: *const c_void, _size: usize, _flags: c_int) -> c_int { 0 }

    fn dsm_hook_inode_removexattr(_idmap: *mut bindings::mnt_idmap, _dentry: *mut bindings::dentry, _name: *const c_char) -> c_int { 0 }

    fn dsm_hook_socket_setsockopt(_sock: *mut bindings::socket, _level: c_int, _optname: c_int) -> c_int { 0 }

    fn dsm_hook_socket_getsockopt(_sock: *mut bindings::socket, _level: c_int, _optname: c_int) -> c_int { 0 }

    fn dsm_hook_inet_csk_clone(_newsk: *mut bindings::sock, _req: *const bindings::request_sock) {}

    fn dsm_hook_inet_conn_request(_sk: *const bindings::sock, _skb: *mut bindings::sk_buff, _req: *mut bindings::request_sock) -> c_int { 0 }

    fn dsm_hook_mptcp_add_subflow(_sk: *mut bindings::sock, _ssk: *mut bindings::sock) -> c_int { 0 }

    fn dsm_hook_socket_create(_family: c_int, _type: c_int, _protocol: c_int, _kern: c_int) -> c_int { 0 }

    fn dsm_hook_socket_post_create(_sock: *mut bindings::socket, _family: c_int, _type: c_int, _protocol: c_int, _kern: c_int) -> c_int { 0 }

    fn dsm_hook_socket_bind(_sock: *mut bindings::socket, _address: *mut bindings::sockaddr, _addrlen: c_int) -> c_int { 0 }

    fn dsm_hook_socket_connect(_sock: *mut bindings::socket, _address: *mut bindings::sockaddr, _addrlen: c_int) -> c_int { 0 }

    fn dsm_hook_socket_listen(_sock: *mut bindings::socket, _backlog: c_int) -> c_int { 0 }

    fn dsm_hook_socket_accept(_sock: *mut bindings::socket, _newsock: *mut bindings::socket) -> c_int { 0 }

    fn dsm_hook_socket_sendmsg(_sock: *mut bindings::socket, _msg: *mut bindings::msghdr, _size: c_int) -> c_int { 0 }

    fn dsm_hook_socket_recvmsg(_sock: *mut bindings::socket, _msg: *mut bindings::msghdr, _size: c_int, _flags: c_int) -> c_int { 0 }

    fn dsm_hook_socket_sock_rcv_skb(_sk: *mut bindings::sock, _skb: *mut bindings::sk_buff) -> c_int { 0 }

}
