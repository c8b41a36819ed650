//! A program that does nothing: what a bench holds the others against, for the kernel's own cost of calling one.

use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};

use crate::PASS;

/// Lets every packet pass. The agent never loads it.
#[cgroup_skb]
pub fn empty(_: SkBuffContext) -> i32 {
    PASS
}
