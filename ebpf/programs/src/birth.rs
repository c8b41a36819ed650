//! Raw tracepoints `cgroup_mkdir` and `cgroup_release`: a cgroup is identified as it is made, before anything can run in
//! it or even find its directory (`cgroup_mkdir` in kernel/cgroup/cgroup.c calls the tracepoint before
//! `kernfs_activate`), and forgotten when its last socket is gone. Nobody needs to be alive for either.
//!
//! A directory stands in a state of the automaton that the agent has made of the policy's selectors; what a new one in
//! it is follows from that state and its name. No socket of a cgroup can have kept a verdict before the cgroup is made,
//! so that no epoch needs a bump.
//!
//! Minimum kernel: 5.10 with its type information (CONFIG_DEBUG_INFO_BTF), by which user space finds [`crate::cgroup::LAYOUT`].

use aya_ebpf::{
    btf_maps::lpm_trie::Key, helpers::generated::bpf_probe_read_kernel_str, macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use bulkhead_common::{
    Endpoint, MAX_CGROUP_LEVEL, NAME_BYTES, NameEntry, NameKey, PLACES, SLOTS, STATE_BITS, STATE_DEAD,
    STATE_DELEGATED, STATE_LOST,
};

use crate::{
    cgroup::Directory,
    maps::{CROWDED, ENDPOINTS, FOLLOWED, NAME, NAMES},
};

/// Room for a name and the zero byte after it: the longest there is (`NAME_MAX`, include/uapi/linux/limits.h).
const NAME_ROOM: usize = 256;

/// A cgroup has been made.
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: RawTracePointContext) -> i32 {
    let _nothing_to_do = born(ctx.arg(0));
    0
}

#[inline(always)]
fn born(cgroup: u64) -> Option<()> {
    let new = Directory::of(cgroup)?;
    if new.level()? > MAX_CGROUP_LEVEL {
        return None;
    }
    let parent = new.parent()?;
    let name = new.name()?;
    // Programs of this tracepoint run one at a time with interrupts off (`TRACE_CGROUP_PATH` in
    // kernel/cgroup/cgroup-internal.h): nobody else uses the buffer.
    let buffer = NAME.get_ptr_mut(0)?;
    // SAFETY: the buffer has that much room for a name, and the helper checks the address that it reads from.
    let length = unsafe {
        let to = buffer.cast::<u8>().add(NAME_BYTES);
        bpf_probe_read_kernel_str(to.cast(), NAME_ROOM as u32, name as *const _)
    };
    // Without a name it is as if the name decided nothing.
    let length = if length > 0 { length.cast_unsigned() - 1 } else { 0 };
    let about = length | u64::from(parent.delegates()) << 32;
    let mut slot = 0;
    while slot < SLOTS {
        place(slot, new.id, parent.id, about);
        slot += 1;
    }
    Some(())
}

/// Identifies a new cgroup in a slot. A global function to the kernel (see [`crate::identity`]), so that it takes
/// numbers: the length of the name is the lower half of `about`, and whether somebody other than root may have chosen it
/// the upper.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn place(slot: u32, id: u64, parent: u64, about: u64) -> i32 {
    let _nothing_to_do = place_in(slot, id, parent, about as u32, about >> 32 != 0);
    0
}

#[inline(always)]
fn place_in(slot: u32, id: u64, parent: u64, length: u32, delegated: bool) -> Option<()> {
    let (followed, endpoints) = (FOLLOWED.get(slot)?, ENDPOINTS.get(slot)?);
    // SAFETY: a map's value, whose words are read and written whole.
    let crowded = unsafe { CROWDED.get_ptr_mut(slot)?.as_mut()? };
    // SAFETY: the types of `ENDPOINTS`.
    let own_mark = unsafe { endpoints.get::<u64, Endpoint>(&PLACES) }?.flags;
    // SAFETY: the types of `FOLLOWED`.
    let state = match unsafe { followed.get::<u64, u32>(&parent) } {
        Some(state) => *state,
        // Nothing below that directory can be matched, unless it has found no room.
        None if crowded.unfollowed != 0 && parent >= crowded.unfollowed => STATE_LOST | own_mark,
        None => return None,
    };
    if state >> STATE_BITS != own_mark >> STATE_BITS {
        // The tables are not of one generation.
        return None;
    }
    let mark = if delegated { STATE_DELEGATED } else { state & STATE_DELEGATED };
    let entry = look_up(slot, state | mark, length)?;
    if entry.flags & NameEntry::PLACE != 0 {
        // SAFETY: as above.
        let placed = unsafe { endpoints.insert(&id, &entry.endpoint) };
        if !placed && crowded.unplaced == 0 {
            crowded.unplaced = id;
        }
    }
    if entry.next != STATE_DEAD {
        // SAFETY: the types of `FOLLOWED`.
        let kept = unsafe { followed.insert(&id, &(entry.next | mark)) };
        if !kept && crowded.unfollowed == 0 {
            crowded.unfollowed = id;
        }
    }
    Some(())
}

/// What follows from the name in the buffer, by its beginning and perhaps by its end.
#[inline(always)]
fn look_up(slot: u32, state: u32, length: u32) -> Option<NameEntry> {
    let names = NAMES.get(slot)?;
    // SAFETY: a map's value.
    let name = unsafe { NAME.get_ptr(0)?.as_ref()? };
    let mut key = Key::new(NameKey::prefix_len(NAME_BYTES), NameKey { of: state, name: [0; NAME_BYTES] });
    // What is left of other names behind the zero byte matters not: no entry goes beyond one.
    // SAFETY: the buffer is longer than the key.
    unsafe { key.data.name.as_mut_ptr().cast::<[u32; NAME_BYTES / 4]>().write_unaligned(name.words()) };
    // SAFETY: the types of `NAMES`, a trie edited as `PEERS` is.
    let entry = *unsafe { names.get::<Key<NameKey>, NameEntry>(&key) }?;
    if entry.flags & NameEntry::ENDINGS == 0 {
        return Some(entry);
    }
    key.data.of = entry.next;
    let mut at = 0;
    while at < NAME_BYTES {
        key.data.name[at] = name.byte_before_end(length, at);
        at += 1;
    }
    // SAFETY: as above.
    unsafe { names.get::<Key<NameKey>, NameEntry>(&key) }.copied()
}

/// A directory's name behind as many zero bytes as are ever looked up, so that backwards it ends in them.
#[repr(C, align(8))]
pub struct Name([u8; NAME_BYTES + NAME_ROOM + PADDING]);

/// Makes the buffer's size a power of two.
const PADDING: usize = 512 - NAME_BYTES - NAME_ROOM;

impl Name {
    /// Its first bytes.
    #[expect(
        clippy::cast_ptr_alignment,
        reason = "the buffer is aligned, and the name begins at a multiple of four"
    )]
    #[inline(always)]
    fn words(&self) -> [u32; NAME_BYTES / 4] {
        // SAFETY: within the array and aligned.
        unsafe { self.0.as_ptr().add(NAME_BYTES).cast::<[u32; NAME_BYTES / 4]>().read() }
    }

    /// The byte so many before the last of a name of this length.
    #[inline(always)]
    fn byte_before_end(&self, length: u32, at: usize) -> u8 {
        let at = (NAME_BYTES + length as usize).wrapping_sub(at + 1) & (size_of::<Self>() - 1);
        // SAFETY: within the array, whose size is a power of two.
        unsafe { self.0.as_ptr().add(at).read_volatile() }
    }
}

/// A cgroup is gone, with the last process and the last socket of it. (Its directory may be gone for long: a socket
/// outlives it.)
#[raw_tracepoint(tracepoint = "cgroup_release")]
pub fn cgroup_release(ctx: RawTracePointContext) -> i32 {
    let Some(Directory { id, .. }) = Directory::of(ctx.arg(0)) else { return 0 };
    let mut slot = 0;
    while slot < SLOTS {
        // SAFETY: the keys of both are cgroup ids.
        unsafe {
            if let Some(table) = ENDPOINTS.get(slot) {
                table.remove(&id);
            }
            if let Some(table) = FOLLOWED.get(slot) {
                table.remove(&id);
            }
        }
        slot += 1;
    }
    0
}
