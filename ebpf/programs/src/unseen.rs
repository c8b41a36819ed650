//! Security hooks (BPF LSM): sockets and devices whose packets no cgroup program sees are refused to isolated workloads.
//!
//! They are asked of every process on the machine, and only of those in a workload is anything refused. User space loads
//! them where the kernel runs such programs (`bpf` in /sys/kernel/security/lsm). Minimum kernel: 5.7.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use bulkhead_common::{NewSocket, Unseen};

use crate::create::New;

const PASS: i32 = 0;
/// `-EPERM`.
const REFUSE: i32 = -1;

/// socket() of any family: `int family, int type, int protocol, int kern`, and what the programs before this one said.
#[lsm(hook = "socket_create")]
pub fn socket_create(ctx: LsmContext) -> i32 {
    let (family, kernels): (i32, i32) = (ctx.arg(0), ctx.arg(3));
    let said: i32 = ctx.arg(4);
    if said != 0 || kernels != 0 {
        return said;
    }
    match Unseen::of_family(family.cast_unsigned() as u16) {
        Some(unseen) => judge(unseen),
        None => PASS,
    }
}

/// A new TUN or TAP device: `void`.
#[lsm(hook = "tun_dev_create")]
pub fn tun_dev_create(ctx: LsmContext) -> i32 {
    let said: i32 = ctx.arg(0);
    if said != 0 { said } else { judge(Unseen::TUN) }
}

/// A TUN or TAP device that is there already, perhaps made for this very user: `void *security`.
#[lsm(hook = "tun_dev_open")]
pub fn tun_dev_open(ctx: LsmContext) -> i32 {
    let said: i32 = ctx.arg(1);
    if said != 0 { said } else { judge(Unseen::TUN) }
}

#[inline(always)]
fn judge(unseen: Unseen) -> i32 {
    let Some(mut new) = New::of_task() else { return PASS };
    if new.refused(NewSocket::Unseen(unseen)) { REFUSE } else { PASS }
}
