//! As little of io_uring as it takes to send and receive through it, one request at a time.

use crate::address::Address;
use crate::{Message, Result, check, wrong};
use std::ffi::{CStr, CString};
use std::io::Error;
use std::sync::atomic::{AtomicU32, Ordering, fence};

const OP_SENDMSG: u8 = 9;
const OP_ACCEPT: u8 = 13;
const OP_CONNECT: u8 = 16;
const OP_RECVMSG: u8 = 10;
const OP_SPLICE: u8 = 30;
const OP_SEND: u8 = 26;
const OP_RECV: u8 = 27;
const OP_READ: u8 = 22;
const OP_SETXATTR: u8 = 42;
const OP_SOCKET: u8 = 45;
const OP_MSG_RING: u8 = 40;
const OP_FIXED_FD_INSTALL: u8 = 54;
/// `IOSQE_FIXED_FILE`: the descriptor is a place in the ring's table of files.
const FIXED_FILE: u8 = 1;
/// `IORING_MSG_SEND_FD`, and `IORING_MSG_RING_CQE_SKIP`: the other ring gets a file, and is not told.
const MSG_SEND_FD: u64 = 1;
const MSG_UNTOLD: u32 = 1;
const REGISTER_FILES: u32 = 2;
const NEED_WAKEUP: u32 = 1;
const GETEVENTS: u32 = 1;
const SQ_WAKEUP: u32 = 2;
const REGISTER_PERSONALITY: u32 = 9;

/// struct io_uring_params.
#[repr(C)]
#[derive(Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    resv: [u32; 3],
    // head, tail, ring_mask, ring_entries, flags, dropped, array, resv1, user_addr
    sq: [u32; 10],
    // head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1, user_addr
    cq: [u32; 10],
}

/// A ring for one request at a time.
pub(crate) struct Ring {
    fd: i32,
    params: Params,
    sq: *mut u8,
    cq: *mut u8,
    sqes: *mut u8,
}

/// struct io_uring_sqe, as far as it is used.
#[repr(C)]
#[derive(Default)]
struct Request {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    off: u64,
    addr: u64,
    len: u32,
    op_flags: u32,
    user_data: u64,
    buf: u16,
    personality: u16,
    splice_fd_in: i32,
    rest: [u64; 2],
}

impl Ring {
    pub(crate) fn new(flags: u32) -> Result<Self> {
        let mut params = Params {
            flags,
            sq_thread_idle: 1000,
            ..Params::default()
        };
        // SAFETY: the kernel fills the parameters in.
        let fd = check(unsafe {
            libc::syscall(libc::SYS_io_uring_setup, 4, std::ptr::from_mut(&mut params))
        })? as i32;
        Self::of(fd, params)
    }

    fn of(fd: i32, params: Params) -> Result<Self> {
        // SAFETY: the mappings are as long as they are used.
        unsafe {
            let map = |offset| {
                let at = libc::mmap(
                    std::ptr::null_mut(),
                    8192,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_SHARED | libc::MAP_POPULATE,
                    fd,
                    offset,
                );
                if at == libc::MAP_FAILED {
                    Err(Error::last_os_error())
                } else {
                    Ok(at.cast::<u8>())
                }
            };
            Ok(Self {
                fd,
                sq: map(0)?,
                cq: map(0x800_0000)?,
                sqes: map(0x1000_0000)?,
                params,
            })
        }
    }

    /// A ring that this process has inherited, and that was made like a new one.
    pub(crate) fn inherited(fd: i32) -> Result<Self> {
        let like = Self::new(0)?;
        Self::of(fd, like.params)
    }

    pub(crate) fn descriptor(&self) -> i32 {
        self.fd
    }

    fn word(&self, base: *mut u8, offset: u32) -> &AtomicU32 {
        // SAFETY: within the mapping, as the kernel says; aligned to four bytes.
        unsafe { &*base.add(offset as usize).cast() }
    }

    /// Does one request and returns what it returned.
    fn run(&mut self, request: Request) -> Result<i64> {
        let [_, sq_tail, sq_mask, _, sq_flags, _, array, ..] = self.params.sq;
        let [cq_head, cq_tail, cq_mask, _, _, cqes, ..] = self.params.cq;
        let tail = self.word(self.sq, sq_tail).load(Ordering::Relaxed);
        let index = tail & self.word(self.sq, sq_mask).load(Ordering::Relaxed);
        // SAFETY: the index is within the ring.
        unsafe {
            self.sqes
                .add(index as usize * 64)
                .cast::<Request>()
                .write(request);
        }
        self.word(self.sq, array + 4 * index)
            .store(index, Ordering::Relaxed);
        self.word(self.sq, sq_tail)
            .store(tail.wrapping_add(1), Ordering::Release);
        fence(Ordering::SeqCst);
        let mut flags = GETEVENTS;
        // Only a ring with a thread of its own asks for that.
        if self.word(self.sq, sq_flags).load(Ordering::Relaxed) & NEED_WAKEUP != 0 {
            flags |= SQ_WAKEUP;
        }
        // SAFETY: plain numbers.
        check(unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.fd,
                1,
                1,
                flags,
                std::ptr::null::<u8>(),
                0,
            )
        })?;
        let head = self.word(self.cq, cq_head).load(Ordering::Relaxed);
        if self.word(self.cq, cq_tail).load(Ordering::Acquire) == head {
            return Err(wrong("no completion"));
        }
        let index = head & self.word(self.cq, cq_mask).load(Ordering::Relaxed);
        let result = self
            .word(self.cq, cqes + 16 * index + 8)
            .load(Ordering::Relaxed) as i32;
        self.word(self.cq, cq_head)
            .store(head.wrapping_add(1), Ordering::Release);
        if result < 0 {
            Err(Error::from_raw_os_error(-result))
        } else {
            Ok(i64::from(result))
        }
    }

    /// Registers the process' credentials.
    pub(crate) fn register_personality(&mut self) -> Result<i64> {
        // SAFETY: plain numbers.
        check(unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.fd,
                REGISTER_PERSONALITY,
                std::ptr::null::<u8>(),
                0,
            )
        })
    }

    /// Gives the ring a table of one file, or of room for one (-1).
    pub(crate) fn register_file(&mut self, fd: i32) -> Result<i64> {
        // SAFETY: a table of one descriptor.
        check(unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.fd,
                REGISTER_FILES,
                &raw const fd,
                1,
            )
        })
    }

    /// Hands the file in the table over to another ring's.
    pub(crate) fn hand_over(&mut self, ring: i32) -> Result<i64> {
        self.run(Request {
            opcode: OP_MSG_RING,
            fd: ring,
            addr: MSG_SEND_FD,
            op_flags: MSG_UNTOLD,
            // The place there, plus one.
            splice_fd_in: 1,
            ..Request::default()
        })
    }

    /// Makes a descriptor of the file in the table.
    pub(crate) fn take(&mut self) -> Result<i64> {
        self.run(Request {
            opcode: OP_FIXED_FD_INSTALL,
            flags: FIXED_FILE,
            ..Request::default()
        })
    }

    /// Receives from the socket in the table.
    pub(crate) fn receive_fixed(&mut self) -> Result<String> {
        self.receive_by(0, FIXED_FILE)
    }

    /// Sends on it.
    pub(crate) fn send_fixed(&mut self, data: &[u8]) -> Result<i64> {
        self.run(Request {
            opcode: OP_SEND,
            flags: FIXED_FILE,
            addr: data.as_ptr() as u64,
            len: data.len() as u32,
            ..Request::default()
        })
    }

    pub(crate) fn send(&mut self, fd: i32, data: &[u8], personality: u16) -> Result<i64> {
        let mut part = libc::iovec {
            iov_base: data.as_ptr().cast_mut().cast(),
            iov_len: data.len(),
        };
        // SAFETY: all zero is a message without anything.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        self.run(Request {
            opcode: OP_SENDMSG,
            fd,
            addr: std::ptr::from_ref(&message) as u64,
            len: 1,
            personality,
            ..Request::default()
        })
    }

    /// Sends what lies at an address, which may be meant for the address space of another process.
    pub(crate) fn send_from(&mut self, fd: i32, addr: u64, len: u32) -> Result<i64> {
        self.run(Request {
            opcode: OP_SEND,
            fd,
            addr,
            len,
            ..Request::default()
        })
    }

    /// Gives a file an attribute.
    pub(crate) fn set_attribute(
        &mut self,
        path: &str,
        (name, value): (&CStr, &str),
        personality: u16,
    ) -> Result<i64> {
        let path = CString::new(path)?;
        self.run(Request {
            opcode: OP_SETXATTR,
            addr: name.as_ptr() as u64,
            off: value.as_ptr() as u64,
            len: value.len() as u32,
            personality,
            rest: [path.as_ptr() as u64, 0],
            ..Request::default()
        })
    }

    pub(crate) fn socket(&mut self, family: i32, kind: u64, protocol: u32) -> Result<i64> {
        self.run(Request {
            opcode: OP_SOCKET,
            fd: family,
            off: kind,
            len: protocol,
            ..Request::default()
        })
    }

    pub(crate) fn connect(&mut self, fd: i32, to: &Address) -> Result<i64> {
        self.run(Request {
            opcode: OP_CONNECT,
            fd,
            addr: to.pointer() as u64,
            off: to.len().into(),
            ..Request::default()
        })
    }

    /// Accepts a connection. The peer's address is not asked for.
    pub(crate) fn accept(&mut self, fd: i32) -> Result<i64> {
        self.run(Request {
            opcode: OP_ACCEPT,
            fd,
            ..Request::default()
        })
    }

    pub(crate) fn receive(&mut self, fd: i32) -> Result<String> {
        self.receive_by(fd, 0)
    }

    fn receive_by(&mut self, fd: i32, flags: u8) -> Result<String> {
        let mut buffer = [0_u8; 256];
        let got = self.run(Request {
            opcode: OP_RECV,
            flags,
            fd,
            addr: buffer.as_mut_ptr() as u64,
            len: 256,
            ..Request::default()
        })?;
        Ok(String::from_utf8_lossy(&buffer[..got as usize]).into_owned())
    }

    /// Reads what a socket's errors say, as `Process::errors` does.
    pub(crate) fn errors(&mut self, fd: i32) -> Result<String> {
        let mut message = Message::new();
        let header = message.header();
        let got = self.run(Request {
            opcode: OP_RECVMSG,
            fd,
            addr: std::ptr::from_ref(&header) as u64,
            len: 1,
            op_flags: libc::MSG_ERRQUEUE as u32,
            ..Request::default()
        })?;
        message.said(got)
    }

    /// Reads by way of a pipe, past `recvmsg`.
    pub(crate) fn splice(&mut self, fd: i32) -> Result<String> {
        let mut pipe = [0; 2];
        // SAFETY: room for two descriptors.
        check(i64::from(unsafe { libc::pipe(pipe.as_mut_ptr()) }))?;
        self.run(Request {
            opcode: OP_SPLICE,
            fd: pipe[1],
            off: u64::MAX,
            addr: u64::MAX,
            len: 256,
            splice_fd_in: fd,
            ..Request::default()
        })?;
        let mut buffer = [0_u8; 256];
        let got = self.run(Request {
            opcode: OP_READ,
            fd: pipe[0],
            off: u64::MAX,
            addr: buffer.as_mut_ptr() as u64,
            len: 256,
            ..Request::default()
        })?;
        Ok(String::from_utf8_lossy(&buffer[..got as usize]).into_owned())
    }
}
