//! Policy text: where something was written, what is wrong with it, and TOML read so that every error of every file
//! comes out in one run.

mod diagnostic;
mod place;
mod repeated;
mod toml_reader;

pub use diagnostic::{Code, Diagnostic, Diagnostics, Severity};
pub(crate) use diagnostic::{Findings, nearest, or_list};
pub use place::{Place, Source};
pub(crate) use toml_reader::{Reader, Table, Word};
