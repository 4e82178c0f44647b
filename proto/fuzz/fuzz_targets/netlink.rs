//! Any bytes as a datagram of the kernel's: messages or an error, never a panic, and no more messages than have room.
#![no_main]

libfuzzer_sys::fuzz_target!(|datagram: &[u8]| {
    let (messages, notices) = dsi_proto::netlink::read_any(datagram);
    assert!(messages <= datagram.len() / 16 + 1);
    assert!(notices <= messages);
});
