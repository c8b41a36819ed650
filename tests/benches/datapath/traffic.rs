//! What traffic costs as a whole, with the programs and without.

use std::time::Duration;

use anyhow::Result;

use crate::{
    figure::Figure,
    ground::Stand,
    programs::Statistics,
    rounds::{interleaved, median},
};

const ROUNDS: usize = 31;
const SENDS: u32 = 10_000;
const CONNECTIONS: u32 = 500;
/// Of bulk data, a round each.
const STREAMS: usize = 5;

/// UDP and TCP on loopback.
pub(crate) fn measure(
    nothing: &Stand<'_>,
    empty: &Stand<'_>,
    nftables: &Stand<'_>,
    bulkhead: &Stand<'_>,
) -> Result<()> {
    Statistics::expect_off()?;
    let stands = [nothing, empty, nftables, bulkhead];
    let sends = rounds(&stands, SENDS, |stand| stand.burst(SENDS))?;
    let plain = median(&sends, |r| r[0]);
    let added = |which: usize| median(&sends, |r| r[which] - r[0]);
    Figure::new("a UDP send on loopback, nothing attached", plain, "ns", 0).print()?;
    Figure::new("two empty programs add", added(1), "ns", 0).print()?;
    Figure::new("nftables with conntrack adds", added(2), "ns", 0).print()?;
    Figure::new("Bulkhead adds", added(3), "ns", 0).print()?;
    Figure::new("Bulkhead, to a UDP send", added(3) / plain * 100.0, "%", 1).at_most(6.0).print()?;
    Figure::new("Bulkhead, of what nftables adds", added(3) / added(2) * 100.0, "%", 1)
        .at_most(10.0)
        .print()?;

    let connections = rounds(&stands, CONNECTIONS, |stand| stand.churn(CONNECTIONS))?;
    let plain = median(&connections, |r| r[0]);
    let added = |which: usize| median(&connections, |r| r[which] - r[0]);
    Figure::new("TCP connect, accept, close, nothing attached", plain / 1e3, "µs", 1).print()?;
    Figure::new("two empty programs add to that", added(1) / 1e3, "µs", 1).print()?;
    Figure::new("nftables with conntrack adds to that", added(2) / 1e3, "µs", 1).print()?;
    Figure::new("Bulkhead adds to that", added(3) / 1e3, "µs", 1).at_most(added(2) / 1e3).print()?;
    Figure::new("Bulkhead, to a TCP connection", added(3) / plain * 100.0, "%", 1).at_most(8.0).print()?;

    let streams = interleaved(STREAMS, &[nothing, bulkhead], |stand| stand.stream())?;
    Figure::new("iperf3, TCP, nothing attached", median(&streams, |r| r[0]) / 1e9, "Gbit/s", 1).print()?;
    Figure::new("Bulkhead, of that", median(&streams, |r| r[1] / r[0]) * 100.0, "%", 1).at_least(98.0).print()
}

/// Nanoseconds for each.
fn rounds(
    stands: &[&Stand<'_>],
    each: u32,
    act: impl Fn(&Stand<'_>) -> Result<Duration>,
) -> Result<Vec<Vec<f64>>> {
    for stand in stands {
        act(stand)?;
    }
    interleaved(ROUNDS, stands, |stand| Ok(act(stand)?.as_secs_f64() * 1e9 / f64::from(each)))
}
