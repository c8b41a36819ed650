//! Sockets to which the kernel can add nothing more.
//!
//! Options, filters and what BPF programs note of a socket are charged to it, up to `net.core.optmem_max`
//! (`sk_filter_charge` in net/core/filter.c, `sock_kmalloc` in net/core/sock.c).

use std::{io, iter};

use nix::libc::{BPF_ABS, BPF_K, BPF_LD, BPF_RET, BPF_W, ENOMEM, SKF_AD_IFINDEX, SKF_AD_OFF};
use socket2::{SockFilter, Socket};

/// The most instructions that a filter may have (`BPF_MAXINSNS`).
const MOST: usize = 4096;

/// Uses up all of it by a filter that lets everything pass: the longest that the kernel takes.
pub(crate) fn fill(socket: &Socket) -> io::Result<()> {
    let mut fits = 1;
    let mut too_long = MOST + 1;
    socket.attach_filter(&filter(fits))?;
    while too_long - fits > 1 {
        let length = fits.midpoint(too_long);
        // Otherwise both would be charged until one has taken the other's place.
        socket.detach_filter()?;
        match socket.attach_filter(&filter(length)) {
            Ok(()) => fits = length,
            Err(e) if e.raw_os_error() == Some(ENOMEM) => {
                too_long = length;
                socket.attach_filter(&filter(fits))?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Asks for the device again and again: each of these is four instructions when translated.
fn filter(length: usize) -> Vec<SockFilter> {
    let device = (SKF_AD_OFF + SKF_AD_IFINDEX).cast_unsigned();
    let load = || SockFilter::new(code(BPF_LD | BPF_W | BPF_ABS), 0, 0, device);
    let accept = SockFilter::new(code(BPF_RET | BPF_K), 0, 0, u32::MAX);
    iter::repeat_with(load).take(length - 1).chain([accept]).collect()
}

fn code(bits: u32) -> u16 {
    u16::try_from(bits).expect("an instruction's code has 16 bits")
}
