//! What Bulkhead costs, beside what a user would pick instead: measured side by side in one run.
//!
//! `cargo xtask bench datapath` runs it and shows what it prints, a JSON object a line, as a table.

#![forbid(unsafe_code)]

mod arrivals;
mod flood;
mod ground;
mod programs;
mod sizes;
mod switch;
mod traffic;

use anyhow::Result;
use bulkhead_tests::{figure, rounds};

use self::ground::{Ground, Guard, Stand};

fn main() -> Result<()> {
    side_by_side()?;
    sizes::measure()?;
    arrivals::measure()?;
    flood::measure()?;
    switch::measure()
}

/// The same traffic on hosts that differ in who guards them alone.
fn side_by_side() -> Result<()> {
    eprintln!("==> known flows and whole traffic, side by side");
    let grounds = [
        Ground::new(Guard::nobody)?,
        Ground::new(Guard::empty)?,
        Ground::new(Guard::systemd)?,
        Ground::new(Guard::nftables)?,
        Ground::new(Guard::bulkhead)?,
        Ground::new(Guard::beside)?,
    ];
    let stands = grounds.iter().map(Stand::new).collect::<Result<Vec<_>>>()?;
    let [nothing, empty, systemd, nftables, bulkhead, beside] = &stands[..] else { unreachable!() };
    programs::measure(empty, systemd, bulkhead, beside)?;
    traffic::measure(nothing, empty, nftables, bulkhead)?;
    drop(stands);
    grounds.into_iter().try_for_each(Ground::end)
}
