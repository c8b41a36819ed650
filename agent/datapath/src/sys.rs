//! The calls that no library offers: of bpf(2) to open and to make pins, to attach what aya has no pinned links of, to put another
//! program behind a link, and to end what a link attaches; and whether the clock is set by anybody.

use std::{
    ffi::CString,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// `enum bpf_cmd` (include/uapi/linux/bpf.h).
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;
/// `enum bpf_attach_type`.
const BPF_CGROUP_SETSOCKOPT: u32 = 22;

/// What `BPF_OBJ_GET` and `BPF_OBJ_PIN` take of `union bpf_attr`.
#[repr(C)]
struct Pinned {
    pathname: u64,
    bpf_fd: RawFd,
    file_flags: u32,
}

/// What `BPF_LINK_CREATE` takes.
#[repr(C)]
struct Create {
    prog_fd: RawFd,
    target_fd: RawFd,
    attach_type: u32,
    flags: u32,
}

/// What `BPF_LINK_UPDATE` takes.
#[repr(C)]
struct Update {
    link_fd: RawFd,
    new_prog_fd: RawFd,
    flags: u32,
    old_prog_fd: u32,
}

/// What `BPF_LINK_DETACH` takes.
#[repr(C)]
struct Detach {
    link_fd: RawFd,
}

/// Opens what is pinned at `path`.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let pinned = Pinned { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    let fd = bpf(BPF_OBJ_GET, &pinned)?;
    // SAFETY: the call returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a map or a link at `path`, beside where it is pinned already.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let pinned = Pinned { pathname: path.as_ptr() as u64, bpf_fd: object.as_raw_fd(), file_flags: 0 };
    bpf(BPF_OBJ_PIN, &pinned).map(drop)
}

/// Attaches a program to setsockopt(2) in a cgroup. Minimum kernel: 5.7.
pub(crate) fn attach_to_setsockopt(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (prog_fd, target_fd) = (program.as_raw_fd(), cgroup.as_raw_fd());
    let fd =
        bpf(BPF_LINK_CREATE, &Create { prog_fd, target_fd, attach_type: BPF_CGROUP_SETSOCKOPT, flags: 0 })?;
    // SAFETY: the call returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts `program` in place of the one that `link` attaches, at once: no packet meets both, or none. Minimum kernel: 5.7,
/// for links to cgroups.
pub(crate) fn update_link(link: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<()> {
    let (link_fd, new_prog_fd) = (link.as_raw_fd(), program.as_raw_fd());
    bpf(BPF_LINK_UPDATE, &Update { link_fd, new_prog_fd, flags: 0, old_prog_fd: 0 }).map(drop)
}

/// Ends what `link` attaches, at once: a link that is only given up goes when the kernel gets around to it. Minimum kernel:
/// 5.9, for links to cgroups; others have no such end (`EOPNOTSUPP`).
pub(crate) fn detach_link(link: &OwnedFd) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &Detach { link_fd: link.as_raw_fd() }).map(drop)
}

/// Does the kernel's clock follow another one (adjtimex(2))?
pub(crate) fn clock_is_synchronised() -> io::Result<bool> {
    let mut clock = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: zero is a value of every member. No mode is set, so that the kernel only writes the structure.
    let state = unsafe { libc::adjtimex(clock.as_mut_ptr()) };
    if state < 0 { Err(io::Error::last_os_error()) } else { Ok(state != libc::TIME_ERROR) }
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads as many bytes as it is told, all initialised (no padding in any structure), and takes
    // those that are missing for zero.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { RawFd::try_from(done).map_err(io::Error::other) }
}
