//! The types of bulkhead-common as aya wants them.

use bytemuck::Pod;

/// A value as it lies in a map.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Wire<T>(pub(crate) T);

// SAFETY: aya asks for types that may be read as bytes and made from any bytes. `bytemuck::Pod` is derived, and so
// checked at compile time, to be just that: no padding, no invalid bit patterns. The wrapper is transparent.
unsafe impl<T: Pod> aya::Pod for Wire<T> {}
