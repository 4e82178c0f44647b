//! Typed client of the kernel module's generic netlink family (`proto/netlink/dsi.yaml`).
