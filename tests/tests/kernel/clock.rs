//! Rules expire by the machine's clock, which may be set at any time; the programs go by another one.

use std::env;

use anyhow::{Result, bail, ensure};
use bulkhead_tests::{
    pace::until,
    probe::{Family, Kind},
    verdicts::{allowed, at},
};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use serde_json::json;

use crate::{Case, Skip, site::Site};

pub(crate) const CASES: &[Case] =
    &[("clock::rules_expire_by_the_clock_as_it_is_set", expiries_follow_the_clock)];

/// The port that app may reach at the stranger's until [`EXPIRES`].
const PORT: u16 = 7777;
/// 2100-01-01T00:00:00Z.
const EXPIRES: i64 = 4_102_444_800;

/// Is set in a machine of whose clock nobody else has need.
const OWN_MACHINE: &str = "BULKHEAD_OWN_MACHINE";

/// Sets the clock, and back again when dropped.
struct Later {
    now: Timespec,
}

impl Later {
    fn than(unix: i64) -> Result<Self> {
        let now = clock_gettime(ClockId::Realtime);
        clock_settime(ClockId::Realtime, Timespec { tv_sec: unix + 1, tv_nsec: 0 })?;
        Ok(Self { now })
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        clock_settime(ClockId::Realtime, self.now).expect("a clock that could be set can be set back");
    }
}

fn expiries_follow_the_clock(site: &Site) -> Result<()> {
    if env::var_os(OWN_MACHINE).is_none() {
        bail!(Skip("it sets the machine's clock: only in an emulated one"));
    }
    let (app, far) = (site.lab().probe("/app")?, site.lab().stranger(site.stranger())?);
    let to = at(site.stranger().v4, PORT);
    far.serve(Kind::Tcp, to)?;
    allowed("app to the stranger", app.tcp(to)?)?;
    let flow = app.open(Kind::Tcp, Family::V4)?;
    allowed("app's connection", flow.connect_and_exchange(to)?)?;
    // Twice: who is told once must be told again.
    for round in 1..=2 {
        let later = Later::than(EXPIRES)?;
        until("the rule has expired", || Ok(app.tcp(to)?.is_blocked()))?;
        site.agent().denials().expect(&json!({ "reason": "expired", "peer": { "port": PORT } }))?;
        ensure!(flow.exchange(None)?.is_blocked(), "round {round}: a connection outlived its rule");
        drop(later);
        until("the rule is good again", || Ok(!app.tcp(to)?.is_blocked()))?;
    }
    Ok(())
}
