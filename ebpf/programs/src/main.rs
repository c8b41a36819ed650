//! Bulkhead's BPF programs. They parse packets and sockets and look things up; the verdict is
//! [`bulkhead_common::decide`]'s.
//!
//! Minimum kernel: 5.10 (`bpf_ktime_get_boot_ns` 5.8, ring buffer 5.8, socket storage in cgroup hooks 5.10).

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

/// Says something in the agent's log, in builds with feature `log`.
macro_rules! say {
    ($($message:tt)*) => {
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!($($message)*);
    };
}

mod birth;
mod cached;
mod cgroup;
mod connect;
mod count;
mod create;
mod datagram;
mod departure;
mod empty;
mod exchange;
mod exec;
mod generation;
mod identity;
mod maps;
mod options;
mod packet;
mod parse;
mod plain;
mod report;
mod socket;
mod unseen;
mod verifier;

/// What a cgroup program returns to let pass.
const PASS: i32 = 1;
/// What a cgroup program returns to refuse: EPERM for the caller of connect(), sendto() or socket().
const REFUSE: i32 = 0;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing panics: the verifier rejects a program from which this loop can be reached.
    loop {}
}

/// The kernel offers the helpers used here to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
