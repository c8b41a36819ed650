//! Whether the time is right.

use std::{fs, time::SystemTime};

use bulkhead_datapath::facts;

use super::finding::Finding;

const CONSEQUENCE: &str = "rules expire at the wrong moment, and the times of reports are wrong";
const REMEDY: &str = "set it: `timedatectl set-ntp true` (systemd-timesyncd), chrony or another time service";

/// Is the clock not before this very program was written, and does somebody keep it right?
pub(super) fn clock() -> Finding {
    const CHECK: &str = "clock";
    let now = jiff::Timestamp::now();
    let built = fs::metadata("/proc/self/exe").and_then(|file| file.modified());
    if built.is_ok_and(|built| SystemTime::now() < built) {
        let found = format!("it is {now:.0}, before this program was written");
        return Finding::failure(CHECK, found, CONSEQUENCE, REMEDY);
    }
    match facts::clock_is_synchronised() {
        Ok(true) => Finding::ok(CHECK, "set by a time service"),
        Ok(false) => {
            let found = format!("it is {now:.0}, and no time service has set it");
            Finding::warning(CHECK, found, CONSEQUENCE, REMEDY)
        }
        Err(error) => Finding::ok(CHECK, format_args!("whether a time service sets it is not told: {error}")),
    }
}
