//! What goes wrong around an agent, and what it promises all the same. docs/reliability.md has the table.

mod floods;
mod killed;
mod pins;
mod state;
mod storms;
